"""Methods that start from the student's own sft run: the weights, the keys, the refusals."""

import csv
import json
import random

import forked
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from study_folder import plan_of, write_folder
from train_stage import TRAIN, furnish, work
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdstudy import methods
from kdstudy.config.read import read_study
from kdstudy.data.prompts import PromptFormat
from kdstudy.distill import stages
from kdstudy.distill.rows import encode_rows
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError
from kdstudy.models import zoo
from kdstudy.plan.grid import budgets
from kdstudy.plan.plan import make_plan
from kdstudy.records import Example, read_records

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
    found = load_file(folders["zoo-xs/word_kd-from-sft/zoo-s"] / part)
    expected = load_file(tmp_path / "by_hand" / part.partition("/")[2])
    begun = load_file(start / part)
    assert found.keys() == expected.keys() == begun.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=2e-6)
    assert any(not torch.equal(found[k], begun[k]) for k in found)
    facts = json.loads((folders["zoo-xs/word_kd-from-sft/zoo-s"] / "training.json").read_text())
    assert facts["steps"] == 11  # of 68 rows in sixes; the 8 of the start are not among them
    assert facts["start"]["steps"] == facts["start"]["best_step"] == 8
    if full:
        return
    report = tmp_path / "store" / "studies" / "started"
    said = "sft: 1 epoch; word_kd-from-sft: starts from the sft run: 1.4 + 2 epochs, 3.4 times"
    assert said in (report / "report.html").read_text()
    rows = list(csv.DictReader((report / "results.csv").read_text().splitlines()))
    assert {r["system"] for r in rows if r["method"] == "word_kd-from-sft"} == {
        "zoo-xs/word_kd-from-sft/zoo-s"
    }
    assert not any("for 1.4 epochs" in r["system"] for r in rows), "a start is no system"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A student, a teacher, a corpus, and sft runs of the student to start from."""
    folder = furnish(tmp_path_factory.mktemp("place"))
    for name, lora in (("adapted", TRAIN.lora), ("whole", None)):
        stages.train(work(folder, name, methods.Sft(), TRAIN.model_copy(update={"lora": lora})))
    return folder


MOMENTS = {"_save_rng_state": 1, "training_step": 4, "evaluate": 1, "_load_best_model": 0,
           "save_student": 2}  # fmt: skip
"""Where a run may die, and how often that is reached before it does, at most."""


@pytest.mark.parametrize("start", ["adapted", "whole"])
@pytest.mark.parametrize("method", [methods.WordKD(noise=0.5), methods.GKD(lmbda=0.6),
                                    methods.OnPolicyRevKL()])  # fmt: skip
def test_a_started_run_that_dies_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch, method,
                                                           start):  # fmt: skip
    draw = random.Random(f"{method.type} {start}")
    train = TRAIN.model_copy(update={"lora": TRAIN.lora if start == "adapted" else None})
    method = method.model_copy(update={"start": "sft"})

    def made(name):
        return work(place, tmp_path / name, method, train, start=place / start)

    (tmp_path / "whole").mkdir()
    stages.train(whole := made("whole"))
    (tmp_path / "cut").mkdir()
    died = 0
    for moment, most in draw.sample(sorted(MOMENTS.items()), 2):
        left, own = draw.randint(0, most), getattr(stages.DistillTrainer, moment)

        def dying(*args, own=own, left=[left], **kwargs):  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return own(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(stages.DistillTrainer, moment, dying)
            try:
                stages.train(made("cut"))
            except KeyboardInterrupt:
                died += 1
                torch.rand(5)  # another process has another random state
    stages.train(made("cut"))
    assert died
    compared = 0
    for file in whole.out.rglob("*"):
        if file.is_file() and "scratch" not in file.parts:
            again = tmp_path / "cut" / file.relative_to(whole.out)
            assert again.read_bytes() == file.read_bytes(), file
            compared += 1
    assert compared >= 3


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
    runs = ("sft for 2 epochs", "word_kd-from-sft/big", "gkd-from-sft/big")
    assert new == {f"{student}/{run}" for student in ("small", "medium") for run in runs}
    keys = {started[f"small/{m}-from-sft/big"].inputs["start"] for m in ("word_kd", "gkd")}
    assert keys == {started["small/sft for 2 epochs"].key}
    assert started["small/sft"].key == plain["small/sft"].key
    assert started["big/teacher"].key == plain["big/teacher"].key
    assert started["small/gkd-from-sft/big"].config["train"]["epochs"] == 3
    own = trains(plan_of(folder, methods=["sft", {"type": "gkd", "start": "sft"}], ablations={}))
    assert own["small/gkd-from-sft/big"].inputs["start"] == own["small/sft"].key
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
        run = found[f"small/gkd-from-sft/big/seed={seed}"]
        assert run.inputs["start"] == found[f"small/sft/seed={seed}"].key


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"type": "sft", "start": "sft"}, "methods.1.: start: sft is what other methods start"),
        ({"type": "sft", "start": {"sft": 2}}, "methods.1.: start: sft is what other methods"),
        (
            {"type": "gkd", "start": "teacher"},
            r"methods.1..start: .*'base' or 'sft'; got 'teacher'",
        ),
        ({"type": "gkd", "start": "word_kd"}, r"methods.1..start: .*'base' or 'sft'"),
        ({"type": "gkd", "start": {"sft": 0}}, r"line \d+: methods.1..start.sft: .*greater than 0"),
        ({"type": "gkd", "start": {"sft": {"epochs": 3}}}, r"start.sft: write .* \{sft: 8\}"),
        ({"type": "gkd", "start": {"epochs": 3}}, "start.epochs: unknown key; known: sft"),
        ({"type": "gkd", "epochs": 0}, "methods.1..epochs"),
    ],
)
def test_other_starts_are_refused_with_their_field(tmp_path, method, said):
    with pytest.raises(InputError, match=said):
        plan_of(write_folder(tmp_path), methods=["word_kd", method])


def test_one_method_from_both_starts_in_one_study_and_sft_with_epochs_of_its_own(tmp_path):
    folder = write_folder(tmp_path)
    methods = [{"type": "sft", "epochs": 5}, "gkd", {"type": "gkd", "start": "sft", "epochs": 3},
               {"type": "word_kd", "start": {"sft": 5}}]  # fmt: skip
    ablations = {"noise": {"methods": ["gkd"], "values": [0, 1]}}
    plan = plan_of(folder, methods=methods, ablations=ablations, students=["./small"])
    found = trains(plan)
    assert {label: s.config["train"]["epochs"] for label, s in found.items()} == {
        "big/teacher": 4, "small/sft": 5, "small/gkd/big": 4, "small/gkd-from-sft/big": 3,
        "small/word_kd-from-sft/big": 4, "small/gkd/big/noise=1": 4,
        "small/gkd-from-sft/big/noise=1": 3,
    }  # fmt: skip
    # A start as long as sft is sft's own run.
    assert {s.inputs["start"] for label, s in found.items() if "from-sft" in label} == {
        found["small/sft"].key
    }
    assert budgets(plan.study) == {
        "sft": "5 epochs",
        "gkd": "4 epochs, 0.8 times those of sft",
        "gkd-from-sft": "starts from the sft run: 5 + 3 epochs, 1.6 times those of sft",
        "word_kd-from-sft": "starts from the sft run: 5 + 4 epochs, 1.8 times those of sft",
    }
    with pytest.raises(InputError, match="gkd-from-sft is listed twice"):
        plan_of(folder, methods=[*methods, {"type": "gkd", "start": {"sft": 2}}], ablations={})


def test_where_all_have_as_many_epochs_nothing_is_said(tmp_path):
    folder = write_folder(tmp_path)
    assert budgets(plan_of(folder).study) == {}
    own = [{"type": "sft", "epochs": 4}, {"type": "gkd", "epochs": 4.0}]
    equal = plan_of(folder, methods=own, ablations={})
    assert budgets(equal.study) == {}
    plain = trains(plan_of(folder, methods=["sft", "gkd"], ablations={}))
    assert {s.key for s in trains(equal).values()} == {s.key for s in plain.values()}


def test_distill_starts_from_an_sft_run(tmp_path):
    rows = [{"prompt": f"What is {i} + 2?", "completion": f"It is {i + 2}."} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["distill", "--student=zoo-xs", "--data=rows.jsonl", "--out=o", "--batch-size=4"]
    taught = ["--teacher=zoo-s", "--method=gkd", "--epochs=1"]
    done = forked.kdstudy(*common, *taught, "--start=sft", "--start-epochs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| steps of sft before | 6 |" in (tmp_path / "o" / "README.md").read_text()
    for wrong, said in (
        (["--method=sft", "--start=sft"], "--start: sft is what other methods start from"),
        ([*taught, "--start-epochs=2"], "add --start sft"),
        ([*taught, "--start=teacher"], "'base' or 'sft'"),
    ):
        refused = forked.kdstudy(*common, "--out=new", *wrong, cwd=tmp_path)
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
