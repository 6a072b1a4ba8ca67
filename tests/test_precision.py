"""`precision: auto` on a CPU: measured once, kept in the store, part of every key."""

from pathlib import Path

import pytest
import tiny_models as tiny

from kdstudy.config import schema
from kdstudy.models import precision
from kdstudy.models.resolve import resolve
from kdstudy.plan.precision import settled

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
    [((1.7, 2.1), "bfloat16"), ((1.7, 1.2), "auto"), ((0.4, 0.3), "auto"), ((3, None), "auto")],
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
    assert (found.train.precision, said) == ("auto", ()) and set(pins.values()) == {"auto"}


def test_a_wide_model_is_measured_from_its_configuration_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_SECONDS", 0.0)
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: False)
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
