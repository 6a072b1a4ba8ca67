"""`precision: auto`: decided once, kept in the store, part of every key."""

from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from study_folder import plan_of, write_folder

from kdstudy.api import building
from kdstudy.config import schema
from kdstudy.doctor import check_machine
from kdstudy.doctor.facts import MachineFacts, StudyFacts
from kdstudy.engine.store import Store
from kdstudy.models import load, precision
from kdstudy.models.resolve import resolve
from kdstudy.plan.precision import left_to_a_gpu, settled

STUDENTS = [("one", 3), ("two", 4)]


def study(asked="auto"):
    return schema.Study.model_construct(train=schema.Train(precision=asked))


@pytest.fixture
def students(tmp_path):
    return [
        resolve(schema.ModelRef(model=str(tiny.save(tmp_path / n, tiny.qwen(s), tiny.tokenizer()))),
                tmp_path, {})
        for n, s in STUDENTS
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "want"),
    [
        ((1.7, 2.1), "bfloat16"),
        ((1.7, 1.2), "float32"),
        ((0.4, 0.3), "float32"),
        ((3, None), "float32"),
    ],
)
def test_all_students_must_gain_and_the_store_remembers(students, monkeypatch, gains, want):
    asked = dict(zip([name for name, _ in STUDENTS], gains, strict=True))
    monkeypatch.setattr(precision, "gain", lambda folder: asked[Path(folder).name])
    pins = {}
    found, said = settled(study(), students, pins)
    assert found.train.precision == want and bool(said) == (want == "bfloat16")
    # Another machine, which would measure otherwise, shares the store.
    monkeypatch.setattr(precision, "gain", lambda _: None if None in gains else 1 / max(gains))
    assert settled(study(), students, pins)[0].train.precision == want


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_the_study_says_is_not_measured(students, monkeypatch, asked):
    monkeypatch.setattr(precision, "gain", lambda _: pytest.fail("measured"))
    pins = {}
    assert settled(study(asked), students, pins) == (study(asked), ()) and not pins


def test_narrow_models_stay_as_they_were(students):
    pins = {}
    found, said = settled(study(), students, pins)
    assert (found.train.precision, said) == ("float32", ())
    assert set(pins.values()) == {"float32"}


def test_a_wide_model_is_measured_from_its_configuration_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_SECONDS", 0.0)
    tiny.qwen(0, width=384).config.save_pretrained(tmp_path)
    assert precision.gain(tmp_path) > 0


def test_the_clock_takes_the_fastest_pass_of_each(monkeypatch):
    now = [0.0]
    costs = {False: iter([6.0, 3.0, 9.0]), True: iter([2.0, 4.0, 1.5])}

    def run(narrow):
        now[0] += next(costs[narrow])

    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(precision, "_SECONDS", 20.0)
    assert precision._ratio(run) == 3.0 / 1.5


def on(monkeypatch, device):
    """Have this machine say that it has no GPU, one with bfloat16, or one without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device != "cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: device == "new")


TYPES = {"cpu": torch.float32, "new": torch.bfloat16, "old": torch.float32}


def computed(folder, monkeypatch, device, pins):
    """Return the keys of a study's stages that run a model, and the type that they compute in."""
    on(monkeypatch, device)
    plan = plan_of(folder, pins)
    asked = {
        key: stage.config.get("precision") or stage.config["train"]["precision"]
        for key, stage in plan.stages.items()
        if "precision" in stage.config or "train" in stage.config
    }
    return {key: load.dtype(text) for key, text in asked.items()}, plan


@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("second", TYPES)
def test_one_key_is_one_type_whatever_computes(tmp_path, monkeypatch, first, second):
    folder, pins = write_folder(tmp_path), {}
    began, _ = computed(folder, monkeypatch, first, pins)
    moved, plan = computed(folder, monkeypatch, second, pins)
    assert moved == began and set(began.values()) == {TYPES[first]}, "a store goes on as it began"
    # A stage's own machine does not change what its key says either.
    for stage in plan.stages.values():
        assert "auto" not in (stage.config.get("precision"), stage.config.get("train", {}).get(
            "precision"))  # fmt: skip
    apart, _ = computed(folder, monkeypatch, second, {})
    assert (apart == began) == (TYPES[first] == TYPES[second])
    assert apart == began or not began.keys() & apart.keys(), "two stores, two types, no shared key"


def test_an_older_store_that_holds_auto_is_decided_anew(tmp_path, monkeypatch):
    folder, pins = write_folder(tmp_path), {}
    computed(folder, monkeypatch, "cpu", pins)
    old = {k: "auto" if k.startswith("precision:") else v for k, v in pins.items()}
    found, _ = computed(folder, monkeypatch, "new", old)
    assert set(found.values()) == {torch.bfloat16}


def test_a_model_of_the_hub_takes_what_the_gpu_has_before_it_is_here(students, monkeypatch):
    away = [resolve(schema.ModelRef(model="some/model"), Path(), {"some/model@main": "0" * 40})]
    on(monkeypatch, "cpu")
    pins = {}
    assert settled(study(), away, pins)[0].train.precision == "float32" and not pins
    on(monkeypatch, "new")
    found, (said,) = settled(study(), away, pins)
    assert found.train.precision == "bfloat16" and "model on a GPU" in said and pins


def test_a_gpu_that_a_store_passes_by_is_told_of(tmp_path, monkeypatch):
    on(monkeypatch, "new")
    said = left_to_a_gpu("auto", "float32")
    assert "settled without this GPU; write bfloat16" in said
    assert not left_to_a_gpu("float32", "float32") and not left_to_a_gpu("auto", "bfloat16")
    folder, pins = write_folder(tmp_path), {}
    _, plan = computed(folder, monkeypatch, "cpu", pins)
    on(monkeypatch, "new")
    store = Store(tmp_path / "store")
    told = []
    building.build(plan, plan.report, store, executor=lambda *_: None, tell=told.append)
    assert told == [f"note: {said}"]
    machine = MachineFacts(device="GPU", cuda=True, bfloat16=True, free=1, store="s", disk=1)
    facts = StudyFacts(study=plan.study, plan=plan, machine=machine)
    (found,) = check_machine.device(facts)
    assert found.level == "note" and "write train.precision: bfloat16" in found.remedy
    on(monkeypatch, "old")
    assert not left_to_a_gpu("auto", "float32")
