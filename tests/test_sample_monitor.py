"""The look at what a student writes while it trains: alarms, resuming, stopping."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny_models as tiny
import torch
from train_stage import TRAIN, examples, furnish, local, work

from kdstudy import methods
from kdstudy.analysis.collapse import Signs
from kdstudy.data import synthetic
from kdstudy.data.chat import DATE
from kdstudy.data.corpora import to_example
from kdstudy.data.prompts import ALPACA
from kdstudy.distill import sample_monitor, stages
from kdstudy.distill.model import DistillModel
from kdstudy.errors import StageError
from kdstudy.models import zoo
from kdstudy.models.sample import sample
from kdstudy.records import Example, write_records
from kdstudy.stage import Work

FIVE = TRAIN.model_copy(update={"evaluations": 3, "probe_rows": 4})
GOOD = Signs(texts=4, tokens=8.0, cut=0.0, repetition=0.0, parsed=1.0)
RAMBLES = dataclasses.replace(GOOD, cut=1.0, tokens=16.0, repetition=0.5, parsed=0.0)


@pytest.fixture
def place(tmp_path):
    return furnish(tmp_path)


def facts(done: Work) -> dict:
    return json.loads((done.out / "training.json").read_text())


def files(done: Work) -> dict[str, bytes]:
    names = ("training.json", "adapter/adapter_model.safetensors")
    return {name: (done.out / name).read_bytes() for name in names}


def rows(count: int = 4) -> list[sample_monitor.Row]:
    return sample_monitor.choose(examples(40, 2), tiny.tokenizer(), tiny.TEMPLATE, 40, None, count)


def alarms_of(*signs: Signs) -> list[bool]:
    """Return at which of some looks, the first before training, an alarm is raised."""
    watch = sample_monitor.SampleMonitor(rows(), tiny.tokenizer(), stop=False)
    watch.expected = GOOD
    before: list[dict] = []
    for now in signs:
        point = {
            "step": len(before),
            **sample_monitor.numbers(now),
            "alarms": watch._alarms(now, before),
        }
        before.append(point)
    return [bool(point["alarms"]) for point in before]


def test_a_student_that_was_as_bad_before_training_has_not_collapsed():
    assert alarms_of(RAMBLES, RAMBLES, GOOD, GOOD) == [False, False, False, False]
    assert alarms_of(GOOD, GOOD, RAMBLES, GOOD) == [False, False, True, False]
    assert alarms_of(RAMBLES, GOOD, RAMBLES, RAMBLES) == [False, False, True, True]
    curt = dataclasses.replace(GOOD, tokens=4.1)
    assert alarms_of(curt, dataclasses.replace(curt, tokens=3.9)) == [False, False]


def test_the_shortest_whole_rows_are_asked():
    longest = Example(id="long", instruction="1 + 1?", response="it is 2" * 20)
    found = sample_monitor.choose(
        [longest, *examples(40, 2)], tiny.tokenizer(), tiny.TEMPLATE, 40, None, 4
    )
    assert [row.encoded for row in found] == [row.encoded for row in rows()]
    assert all(row.taught[-1] == tiny.EOS for row in found)
    first = [len(e.response) + 1 for e in examples(40, 2)[:16]]
    assert [len(row.taught) for row in found] == sorted(first)[:4]
    assert sample_monitor.choose([longest], tiny.tokenizer(), tiny.TEMPLATE, 40, None, 4) == []


def test_what_is_measured_is_what_the_student_writes():
    student = tiny.qwen(0)
    model = DistillModel(student, methods.Sft().recipe()).train()
    watch = sample_monitor.SampleMonitor(rows(), tiny.tokenizer(), stop=False)
    state = SimpleNamespace(global_step=7, log_history=[])
    generator = torch.get_rng_state()
    watch.on_evaluate(None, state, None, model=model)
    assert student.training and torch.equal(torch.get_rng_state(), generator)
    (point,) = sample_monitor.points(state.log_history)
    budget = 2 * max(len(row.taught) for row in rows())
    student.eval()
    texts = [
        sample(student, [row.prompt], max_new_tokens=budget, temperature=0.0, eos_ids=[tiny.EOS],
               pad_id=0)[0]
        for row in rows()
    ]  # fmt: skip
    assert point["step"] == 7
    assert point["tokens"] == sum(len(text.ids) for text in texts) / 4
    assert point["cut"] == sum(text.ids[-1] != tiny.EOS for text in texts) / 4
    assert watch.expected.tokens == sum(len(row.taught) for row in rows()) / 4
    assert watch.expected.cut == 0 and watch.expected.parsed is None


@pytest.mark.parametrize("method", [methods.Sft(), methods.GKD()])
def test_training_is_the_same_bytes_with_and_without_it(place, method):
    made = {}
    for count in (0, 4):
        done = work(place, f"out{count}", method, FIVE.model_copy(update={"probe_rows": count}))
        stages.train(done)
        made[count] = facts(done), files(done)["adapter/adapter_model.safetensors"]
    assert made[0][1] == made[4][1]
    assert made[0][0].pop("probe") == [] and made[0][0].pop("probe_expected") is None
    assert [point["step"] for point in made[4][0].pop("probe")] == [0, 2, 4, 5]
    assert made[4][0].pop("probe_expected")["tokens"] == 8.0
    assert made[0][0] == made[4][0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_an_interrupted_run_leaves_the_same_bytes(place, step):
    whole, broken = work(place, "whole", methods.Sft(), FIVE), work(place, "b", methods.Sft(), FIVE)
    stages.train(whole)

    def die(done, total, unit, **numbers):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        stages.train(dataclasses.replace(broken, progress=die))
    assert not (broken.out / "training.json").exists()
    stages.train(broken)
    assert files(broken) == files(whole)


def test_a_run_killed_between_a_look_and_its_checkpoint_looks_again(place, monkeypatch):
    whole, broken = work(place, "whole", methods.Sft(), FIVE), work(place, "b", methods.Sft(), FIVE)
    stages.train(whole)
    with monkeypatch.context() as patched:
        looked = sample_monitor.SampleMonitor.on_evaluate

        def die(self, args, state, control, **kwargs):
            looked(self, args, state, control, **kwargs)
            if state.global_step == 4:
                raise Killed

        patched.setattr(sample_monitor.SampleMonitor, "on_evaluate", die)
        with pytest.raises(Killed):
            stages.train(broken)
    stages.train(broken)
    assert files(broken) == files(whole)


def real(folder, out: str, **train) -> Work:
    """A shipped model on the shipped corpus."""
    corpus = folder / "corpus"
    if not corpus.is_dir():
        corpus.mkdir()
        made = [to_example(row, "")[0] for row in synthetic.corpus_rows(120, seed=0)]
        write_records(corpus / "train.parquet", made[:80], Example)
        write_records(corpus / "validation.parquet", made[80:], Example)
    (folder / out).mkdir(exist_ok=True)
    settings = {"epochs": 5, "batch_size": 16, "max_length": 192, "evaluations": 5} | train
    return Work(
        config={
            "method": methods.Sft().model_dump(),
            "train": settings,
            "template": ALPACA,
            "template_date": DATE,
            "seed": 0,
            "student": {"name": "student", "fingerprint": "s"},
        },
        inputs={"corpus": corpus},
        local={"models": {"student": local(zoo.path("zoo-xs"))}, "train": {}},
        out=folder / out,
    )


def test_a_healthy_run_raises_no_alarm(tmp_path):
    done = real(tmp_path, "out", on_alarm="stop")
    assert "ALARM" not in stages.train(done)
    assert [point["alarms"] for point in facts(done)["probe"]] == [[]] * 6
    assert facts(done)["probe_expected"]["parsed"] == 1.0


def test_a_broken_run_stops_and_goes_on_when_it_is_told_to(tmp_path):
    broken = {"learning_rate": 0.1}
    flagged = real(tmp_path, "flagged", **broken)
    line = stages.train(flagged)
    raised = [point for point in facts(flagged)["probe"] if point["alarms"]]
    assert f"; ALARM at {len(raised)} of 5 evaluations, at step {raised[-1]['step']} " in line
    assert line.endswith(", ".join(raised[-1]["alarms"]))
    stopped = real(tmp_path, "stopped", on_alarm="stop", **broken)
    with pytest.raises(StageError, match="the student's texts look collapsed") as error:
        stages.train(stopped)
    first, second = raised[0]["step"], raised[1]["step"]
    assert f"step {second}:" in error.value.what and f"at step {first} " in error.value.why
    assert "on_alarm: flag" in error.value.remedy
    # Told to stop again, it trains no further.
    with pytest.raises(StageError, match=f"step {second}:"):
        stages.train(stopped)
    kept = {path.name for path in (stopped.scratch / "checkpoints").iterdir()}
    assert f"checkpoint-{second}" in kept
    steps = []
    stages.train(
        dataclasses.replace(
            real(tmp_path, "stopped", on_alarm="flag", **broken),
            progress=lambda done, total, unit, **numbers: steps.append(done),
        )
    )
    assert steps == list(range(second + 1, facts(flagged)["steps"] + 1))
    assert files(stopped) == files(flagged)
