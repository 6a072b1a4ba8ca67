"""Offline on-policy distillation: whose text, whose states, and the run by hand from its parts."""

import json

import forked
import pytest
import torch
import yaml
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from study_facts import healthy, study
from study_folder import plan_of, write_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdstudy import methods
from kdstudy.config.read import read_study
from kdstudy.data.prompts import PromptFormat
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.rows import encode_rows
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.doctor.checks import check
from kdstudy.errors import InputError
from kdstudy.methods.offline_opd import OfflineOPD
from kdstudy.models import zoo
from kdstudy.plan.grid import budgets
from kdstudy.plan.plan import make_plan
from kdstudy.records import Example, Generation, read_records

PLAIN = {"ablations": {}, "students": ["./small"]}


def found(plan, kind):
    return {s.label: s for s in plan.stages.values() if s.kind == kind}


def planned(folder, *listed, **fields):
    return plan_of(folder, methods=["sft", *listed], **PLAIN | fields)


def writer_of(plan, key):
    """Return the train stage whose model wrote a text stage's text."""
    return plan.stages[plan.stages[key].inputs["trained"]]


def test_the_start_writes_and_its_teacher_is_asked_about_that_text(tmp_path):
    folder = write_folder(tmp_path)
    plan = planned(folder, "seqkd", "offline_opd")
    trains, caches = found(plan, "train"), found(plan, "teacher_cache")
    run, seqkd = trains["small/offline_opd/big"], trains["small/seqkd/big"]
    assert run.inputs["start"] == seqkd.key
    assert writer_of(plan, run.inputs["rollouts"]) is seqkd
    (cache,) = caches.values()
    assert cache.key == run.aids["teacher_cache"]
    assert cache.label == "big/teacher on text of small/seqkd/big"
    assert cache.inputs["rollouts"] == run.inputs["rollouts"]
    # Teacher consistency: who wrote what the start learnt gives the states.
    wrote = plan.stages[seqkd.inputs["teacher_text"]]
    assert wrote.inputs["trained"] == cache.inputs["teacher"] == run.inputs["teacher"]
    assert wrote.config["model"] == cache.config["teacher"] == run.config["teacher"]
    rollouts = plan.stages[run.inputs["rollouts"]].config["generation"]
    assert (rollouts["temperature"], rollouts["samples"]) == (1.0, 1)
    # A stage comes after those that it needs.
    order = list(plan.stages)
    for stage in plan.stages.values():
        needed = [*stage.inputs.values(), *stage.aids.values()]
        assert all(order.index(key) < order.index(stage.key) for key in needed)


def test_no_other_stages_key_is_moved(tmp_path):
    folder = write_folder(tmp_path)
    listed = ("seqkd", "word_kd", {"type": "gkd", "start": "sft"})
    before = set(planned(folder, *listed).stages)
    after = planned(folder, *listed, "offline_opd").stages
    late = {k for k in before if k not in after}
    assert {planned(folder, *listed).stages[k].kind for k in late} == {"results", "report"}


def test_without_seqkd_among_the_methods_its_run_is_a_start_and_no_system(tmp_path):
    folder = write_folder(tmp_path)
    alone, both = planned(folder, "offline_opd"), planned(folder, "seqkd", "offline_opd")
    start = found(alone, "train")["small/seqkd/big"]
    assert start.key == found(both, "train")["small/seqkd/big"].key
    assert [s.label for s in alone.systems if s.kind == "distilled"] == ["small/offline_opd/big"]
    report = alone.stages[alone.report]
    assert report.config["only_starts"] == [start.key]
    assert budgets(alone.study)["offline_opd"].startswith("starts from the seqkd run: 4 + 4 epochs")
    own = planned(folder, {"type": "seqkd", "start": "sft", "epochs": 2}, "offline_opd")
    trains = found(own, "train")
    assert trains["small/offline_opd/big"].inputs["start"] == trains["small/seqkd-from-sft/big"].key
    assert budgets(own.study)["offline_opd"].startswith("starts from the seqkd run: 4 + 2 + 4")


def test_from_sft_the_sft_run_writes(tmp_path):
    folder = write_folder(tmp_path)
    plan = planned(folder, {"type": "offline_opd", "start": "sft"})
    trains = found(plan, "train")
    run = trains["small/offline_opd-from-sft/big"]
    assert run.inputs["start"] == trains["small/sft"].key
    assert writer_of(plan, run.inputs["rollouts"]) is trains["small/sft"]
    own = planned(folder, {"type": "offline_opd", "start": {"sft": 7}})
    trains = found(own, "train")
    run = trains["small/offline_opd-from-sft/big"]
    assert writer_of(own, run.inputs["rollouts"]).config["train"]["epochs"] == 7


def test_each_teacher_seed_and_ablation_has_a_start_of_its_own(tmp_path):
    folder = write_folder(tmp_path)
    plan = plan_of(
        folder, methods=["sft", "offline_opd"], students=["./small"],
        teachers=["./big", "./medium"], seeds=[1, 2], ablations={
            "base_teacher": {"methods": ["offline_opd"]},
            "vary": [{"vary": "sampling_temperature", "values": [0.5], "methods": ["offline_opd"]}],
        },
    )  # fmt: skip
    trains = found(plan, "train")
    runs = {label: s for label, s in trains.items() if "offline_opd" in label}
    assert len(runs) == 2 * 2 * 3
    for label, run in runs.items():
        start = plan.stages[run.inputs["start"]]
        assert start.config["seed"] == run.config["seed"], label
        wrote = plan.stages[start.inputs["teacher_text"]]
        assert wrote.config["model"] == run.config["teacher"], label
        assert wrote.inputs.get("trained") == run.inputs.get("teacher"), label
        assert ("base-teacher" in start.label) == ("teacher" not in run.inputs)
    # A rollout temperature is another text of the same start.
    assert len({run.inputs["start"] for run in runs.values()}) == 2 * 2 * 2
    assert len({run.inputs["rollouts"] for run in runs.values()}) == 2 * 2 * 3
    assert len({run.aids["teacher_cache"] for run in runs.values()}) == 2 * 2 * 3


STUDY = {
    "name": "offline",
    "teachers": [{"model": "zoo-s", "finetune": False}],
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 41, "validation_rows": 7},
    "benchmarks": ["synth_addsub"],
    "limit": 5,
    "methods": ["sft", {"type": "offline_opd", "epochs": 2}],
    "token_rows": 0,
    "train": {"epochs": 1, "batch_size": 6, "learning_rate": 2e-3, "max_length": 192,
              "evaluations": 1, "probe_rows": 2, "teacher_cache": "disk"},
    "generation": {"max_new_tokens": 24},
}  # fmt: skip


def test_a_run_is_reverse_kl_on_its_starts_text_from_its_starts_weights(tmp_path):
    """Against plain PEFT and transformers, a live teacher, and revkd of the library."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "steps of its start" in done.stderr and "computed again" not in done.stderr
    study = read_study(tmp_path / "study.yaml")
    plan = make_plan(study, tmp_path, None, {})
    folders = {key: tmp_path / "store" / "stages" / key for key in plan.stages}
    run = found(plan, "train")["zoo-xs/offline_opd/zoo-s"]
    (corpus,) = (folders[s.key] for s in found(plan, "corpus").values())
    name = zoo.path("zoo-xs")
    base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    start = folders[run.inputs["start"]] / "adapter"
    student = PeftModel.from_pretrained(base, start, is_trainable=True)
    teacher = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-s"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name)
    (file,) = folders[run.inputs["rollouts"]].glob("*.parquet")
    texts = {row.example_id: row for row in read_records(file, Generation)}
    train, validation, plain = (
        encode_rows(
            read_records(corpus / f"{part}.parquet", Example),
            tokenizer, PromptFormat(template="auto"), 192, written,
        ).rows
        for part, written in (("train", texts), ("validation", texts), ("validation", None))
    )  # fmt: skip
    settings = study.train.model_copy(update={"epochs": 2.0})
    args = study_config(settings, methods.RevKD(), train, tmp_path / "checkpoints", 0)
    trainer = DistillTrainer(
        student, teacher, args, train_dataset=train, eval_dataset=validation,
        corpus_dataset=plain, processing_class=tokenizer,
        callbacks=[Schedule(1, lambda *a, **k: None)],
    )  # fmt: skip
    trainer.run()
    trainer.save_student(tmp_path / "by_hand", str(name))
    got = load_file(folders[run.key] / "adapter" / "adapter_model.safetensors")
    want = load_file(tmp_path / "by_hand" / "adapter_model.safetensors")
    begun = load_file(start / "adapter_model.safetensors")
    for key, value in got.items():
        torch.testing.assert_close(value, want[key], rtol=0, atol=2e-6)
    assert any(not torch.equal(got[k], begun[k]) for k in got)
    facts = json.loads((folders[run.key] / "training.json").read_text())
    assert facts["best_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start": "base"}, "a base has not learnt to answer"),
        ({"start": "gkd"}, "'seqkd' or 'sft'"),
        ({"hard_label_weight": 0.1}, "the text is the student's own"),
        ({"lmbda": 0.5}, "lmbda"),
    ],
)
def test_fields_that_make_no_sense_are_refused(tmp_path, fields, said):
    with pytest.raises(ValidationError, match=said):
        OfflineOPD(**fields)
    with pytest.raises(InputError, match=said):
        planned(write_folder(tmp_path), {"type": "offline_opd", **fields})


def test_text_without_a_prompt_and_the_library_are_refused(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "rows.jsonl").write_text('{"text": "no prompt at all"}\n' * 10)
    with pytest.raises(InputError, match="offline_opd needs prompts"):
        planned(folder, "offline_opd")
    args = DistillConfig(output_dir=str(tmp_path), method="offline_opd", use_cpu=True)
    with pytest.raises(InputError, match="the student's start wrote") as error:
        args.recipe()
    assert "method revkd" in error.value.remedy


@pytest.mark.parametrize(("start", "level"), [("seqkd", "ok"), ("sft", "warning")])
def test_doctor_says_whether_teachers_are_consistent(start, level):
    given = study(methods=["sft", {"type": "offline_opd", "start": start}])
    (said,) = (f for f in check(healthy(study=given)) if f.check == "consistency")
    assert said.level == level
    if level == "warning":
        assert "start: seqkd" in said.remedy and "teacher consistency" in said.why
    assert not [f for f in check(healthy()) if f.check == "consistency"]


@pytest.mark.parametrize(
    "listed",
    [[{"type": "seqkd", "start": "sft"}, "seqkd"], [{"type": "seqkd", "generations": 2}]],
)
def test_which_seqkd_run_it_starts_from_is_never_guessed(tmp_path, listed):
    folder = write_folder(tmp_path)
    with pytest.raises(InputError, match="starts from the seqkd run, and there are several"):
        planned(folder, *listed, "offline_opd")
    assert planned(folder, *listed, {"type": "offline_opd", "start": "sft"}).stages
