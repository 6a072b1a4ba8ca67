"""Methods that start from the student's own sft run: the weights, the keys, the refusals."""

import json

import forked
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from study_folder import plan_of, write_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdstudy.data.prompts import PromptFormat
from kdstudy.distill.rows import encode_rows
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError
from kdstudy.models import zoo
from kdstudy.records import Example, read_records
from kdstudy.study.plan import make_plan
from kdstudy.study.read import read_study

STUDY = {
    "name": "started",
    "teachers": [{"model": "zoo-s", "finetune": False}],
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 41, "validation_rows": 7},
    "benchmarks": ["synth_addsub"],
    "limit": 5,
    "methods": ["sft", {"type": "word_kd", "start": {"sft": 1.4}, "epochs": 2}],
    "token_rows": 0,
    "train": {"epochs": 1, "batch_size": 6, "learning_rate": 2e-3, "max_length": 192,
              "evaluations": 1, "probe_rows": 0, "teacher_cache": "off"},
    "generation": {"max_new_tokens": 8},
}  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_training_goes_on_from_the_starts_weights(tmp_path, full):
    """Against plain PEFT and transformers loading the start, and the library's own trainer."""
    lora = {"lora": None} if full else {}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | {"train": STUDY["train"] | lora}))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after 8 steps of sft" in done.stderr
    study = read_study(tmp_path / "study.yaml")
    plan = make_plan(study, tmp_path, None, {})
    folders = {
        s.label: tmp_path / "store" / "stages" / key
        for key, s in plan.stages.items()
        if s.kind in ("corpus", "train")
    }
    start = folders["zoo-xs/sft for 1.4 epochs"]
    name = zoo.path("zoo-xs")
    if full:
        student = AutoModelForCausalLM.from_pretrained(start / "model", dtype=torch.float32)
    else:
        base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        student = PeftModel.from_pretrained(base, start / "adapter", is_trainable=True)
    teacher = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-s"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name)
    rows = [
        encode_rows(
            read_records(folders["synthetic"] / f"{part}.parquet", Example),
            tokenizer, PromptFormat(template="auto"), 192, None,
        ).rows
        for part in ("train", "validation")
    ]  # fmt: skip
    method = study.methods[1]
    settings = study.train.model_copy(update={"epochs": 2.0})
    args = study_config(settings, method, rows[0], tmp_path / "checkpoints", 0)
    trainer = DistillTrainer(
        student, teacher, args, train_dataset=rows[0], eval_dataset=rows[1],
        processing_class=tokenizer, callbacks=[Schedule(1, lambda *a, **k: None)],
    )  # fmt: skip
    trainer.run()
    trainer.save_student(tmp_path / "by_hand", str(name))
    part = "model/model.safetensors" if full else "adapter/adapter_model.safetensors"
    found = load_file(folders["zoo-xs/word_kd/zoo-s"] / part)
    expected = load_file(tmp_path / "by_hand" / part.partition("/")[2])
    begun = load_file(start / part)
    assert found.keys() == expected.keys() == begun.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=2e-6)
    assert any(not torch.equal(found[k], begun[k]) for k in found)
    facts = json.loads((folders["zoo-xs/word_kd/zoo-s"] / "training.json").read_text())
    assert facts["steps"] == 11  # of 68 rows in sixes; the 8 of the start are not among them


def trains(plan):
    return {s.label: s for s in plan.stages.values() if s.kind == "train"}


def test_a_start_is_shared_and_changes_no_other_key(tmp_path):
    folder = write_folder(tmp_path)
    plain = trains(plan_of(folder, methods=["sft", "word_kd", "gkd"], ablations={}))
    methods = [
        "sft",
        {"type": "word_kd", "start": {"sft": 2}},
        {"type": "gkd", "start": {"sft": 2}, "epochs": 3},
    ]
    started = trains(plan_of(folder, methods=methods, ablations={}))
    new = {label for label in started if label not in plain}
    assert new == {"small/sft for 2 epochs", "medium/sft for 2 epochs"}
    keys = {started[f"small/{m}/big"].inputs["start"] for m in ("word_kd", "gkd")}
    assert keys == {started["small/sft for 2 epochs"].key}
    assert started["small/sft"].key == plain["small/sft"].key
    assert started["big/teacher"].key == plain["big/teacher"].key
    assert started["small/gkd/big"].config["train"]["epochs"] == 3
    own = trains(plan_of(folder, methods=["sft", {"type": "gkd", "start": "sft"}], ablations={}))
    assert own["small/gkd/big"].inputs["start"] == own["small/sft"].key
    same = [{"type": "gkd", "start": "base", "epochs": None}]
    again = trains(plan_of(folder, methods=["sft", *same], ablations={}))
    assert again["small/gkd/big"].key == plain["small/gkd/big"].key


def test_each_seed_starts_from_its_own_sft(tmp_path):
    plan = plan_of(
        write_folder(tmp_path), seeds=[3, 4], ablations={},
        methods=["sft", {"type": "gkd", "start": "sft"}],
    )  # fmt: skip
    found = trains(plan)
    for seed in (3, 4):
        run = found[f"small/gkd/big/seed={seed}"]
        assert run.inputs["start"] == found[f"small/sft/seed={seed}"].key


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"type": "sft", "start": "sft"}, "start"),
        ({"type": "gkd", "start": "teacher"}, "start"),
        ({"type": "gkd", "start": {"sft": 0}}, "sft"),
        ({"type": "gkd", "start": {"epochs": 3}}, "epochs"),
    ],
)
def test_other_starts_are_refused_with_their_field(tmp_path, method, said):
    with pytest.raises(InputError, match=said):
        plan_of(write_folder(tmp_path), methods=["sft", method])
