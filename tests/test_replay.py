"""Replay of general text: the step's loss in float64, its invariances, resuming, studies."""

import csv
import json
import shutil

import forked
import pytest
import tiny_models as tiny
import torch
import yaml
from small_trainers import SETTINGS, micro, weights
from study_folder import plan_of, write_folder
from transformers.trainer_callback import PrinterCallback

from kdstudy import methods
from kdstudy.artifacts import Trained
from kdstudy.data.stages import contamination
from kdstudy.distill import cache
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError
from kdstudy.methods.atkd import ATKD
from kdstudy.methods.taid import TAID
from kdstudy.records import Contamination, Example, read_records, write_records
from kdstudy.stage import Work, silent

ROWS, VALIDATION, GENERAL = tiny.rows(24), tiny.rows(6, seed=9), tiny.rows(15, seed=7)
REPLAY = SETTINGS.model_copy(
    update={"replay_weight": 0.7, "replay_rows": 3, "evaluations": 4, "epochs": 1.5}
)


def make(folder, method, settings=REPLAY, *, double=False, cached=False) -> DistillTrainer:
    student, teacher = tiny.qwen(0), tiny.qwen(1, width=24)
    if double:
        student, teacher = student.double(), teacher.double()
    live = LiveTeacher(teacher, tiny.VOCABULARY)
    if cached:  # it has no text but the corpus, and cannot be asked about any other
        states = cache.in_memory(live, [*ROWS, *VALIDATION], "response", rows_per_pass=8)
        live = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")
    on = settings.replay_weight > 0
    trainer = DistillTrainer(
        student,
        live,
        study_config(settings, method, ROWS, folder, 3),
        train_dataset=ROWS,
        eval_dataset=VALIDATION,
        replay_dataset=GENERAL if on else None,
        replay_eval_dataset=tiny.rows(5, seed=8) if on else None,
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(settings.evaluations, silent)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def dense(kind: str, student, teacher, rows) -> torch.Tensor:
    """Return the loss of every response token, row by row, from whole logits."""
    found = []
    for row in rows:
        ids = torch.tensor([row.ids])
        s = student(input_ids=ids).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
        if kind == "sft":
            found.append(-s.gather(1, ids[0, row.prompt_length :, None])[:, 0])
            continue
        with torch.no_grad():
            t = teacher(input_ids=ids).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
        found.append((t.exp() * (t - s)).sum(-1))
    return torch.cat(found)


def step(trainer, micros):
    """Return the loss of a first step, with its gradients in the student."""
    inputs, total = trainer.get_batch_samples(iter(micros), len(micros), torch.device("cpu"))
    losses = [trainer.model(**i, num_items_in_batch=total)[0] for i in inputs]
    sum(losses).backward()
    return sum(losses).item(), inputs, total


@pytest.mark.parametrize("kind", ["sft", "word_kd"])
@pytest.mark.parametrize("micros", [[[0, 1], [2, 3]], [[0, 1, 2, 3]], [[0], [1], [2], [3]]])
def test_a_steps_loss_and_gradients_are_a_dense_loops_in_float64(tmp_path, kind, micros):
    method = {"sft": methods.Sft(), "word_kd": methods.WordKD()}[kind]
    trainer = make(tmp_path, method, double=True)
    loss, inputs, _ = step(trainer, micros)
    again = [row for i in inputs if i["batch"].replay for row in i["batch"].replay.texts]
    assert len(again) == 3 and all(row in GENERAL for row in again)
    student, teacher = tiny.qwen(0).double(), tiny.qwen(1, width=24).double()
    want = dense(kind, student, teacher, ROWS[:4]).mean()
    want = want + 0.7 * dense("sft", student, teacher, again).mean()
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-10)
    for (name, ours), theirs in zip(
        trainer.student.named_parameters(), student.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("method", [methods.Sft(), ATKD(), methods.GKD(lmbda=1.0)])
@pytest.mark.parametrize("normalisation", ["tokens", "sequences"])
def test_how_a_step_is_cut_changes_nothing(tmp_path, method, normalisation):
    ends = []
    for size in (1, 4):
        settings = micro(size, REPLAY.model_copy(update={"normalisation": normalisation}))
        trainer = make(tmp_path / str(size), method, settings, double=True)
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [methods.WordKD(), TAID(step_size=0.2)])
def test_a_resumed_run_has_the_same_bits(tmp_path, method):
    whole = make(tmp_path / "whole", method)
    whole.run()
    make(tmp_path / "cut", method).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = make(tmp_path / "cut", method)
    again.run()
    assert again._initial_global_step > 0
    assert again._pacing.state() == whole._pacing.state()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    assert curve(again.state.log_history) == curve(whole.state.log_history)


def test_the_method_keeps_its_own_denominator_and_the_student_its_own_text(tmp_path):
    """What is replayed is no text of the student's, and counts in no other mean."""
    plain = SETTINGS.model_copy(update={"evaluations": 4})
    found = []
    for name, settings in (("with", REPLAY), ("without", plain)):
        trainer = make(tmp_path / name, methods.GKD(lmbda=1.0), settings)
        _, inputs, total = step(trainer, [[0, 1], [2, 3]])
        found.append(([i["batch"].ids_T.tolist() for i in inputs], total, trainer.tokens))
        assert total == sum(i["batch"].targets_N.numel() for i in inputs)
        assert all(i["batch"].sampled for i in inputs)
        assert not any(i["batch"].replay.sampled for i in inputs if i["batch"].replay)
    assert found[0] == found[1]


def test_a_pace_hears_the_methods_loss_alone(tmp_path):
    heard = []
    for weight in (1e-9, 5.0):
        settings = REPLAY.model_copy(update={"replay_weight": weight})
        trainer = make(tmp_path / str(weight), TAID(), settings)
        pace, own = trainer._pacing._pace, []
        seen = pace.seen
        pace.seen = lambda loss, own=own, seen=seen: own.append(loss) or seen(loss)
        trainer.run()
        heard.append(own)
    assert heard[0][0] == pytest.approx(heard[1][0], rel=1e-6)
    assert heard[0][-1] != pytest.approx(heard[1][-1], rel=1e-3)


@pytest.mark.parametrize("method", [methods.WordKD(), ATKD(), TAID()])
def test_no_teacher_is_asked_about_general_text(tmp_path, method):
    trainer = make(tmp_path, method, cached=True)
    trainer.run()
    measured = [row["eval_replay_cross_entropy"] for row in curve(trainer.state.log_history)]
    student, rows = trainer.student.eval(), tiny.rows(5, seed=8)
    with torch.no_grad():
        ce = dense("sft", student, None, rows)
    best = [r["step"] for r in curve(trainer.state.log_history)].index(
        trainer.state.best_global_step
    )
    assert measured[best] == pytest.approx(ce.mean().item(), rel=1e-5)


def test_what_is_replayed_is_forgotten_less(tmp_path):
    ends = []
    for weight in (1e-9, 1.0):
        settings = REPLAY.model_copy(update={"replay_weight": weight, "epochs": 8})
        trainer = make(tmp_path / str(weight), methods.WordKD(), settings)
        trainer.run()
        with torch.no_grad():
            ends.append(dense("sft", trainer.student.eval(), None, GENERAL).mean().item())
    assert ends[1] < ends[0] - 0.1


@pytest.mark.parametrize(
    ("fields", "rows", "said"),
    [
        ({"replay_weight": 0.5}, None, "there is no replay_dataset"),
        ({}, GENERAL, "replay_weight is 0"),
        ({"replay_weight": -1.0}, GENERAL, "a weight is at least 0"),
        ({"replay_weight": 1.0, "replay_rows": 0}, GENERAL, "at least one row"),
    ],
)
def test_text_without_a_weight_and_a_weight_without_text_are_refused(tmp_path, fields, rows, said):
    args = DistillConfig(output_dir=str(tmp_path), method="sft", use_cpu=True, **fields)
    with pytest.raises(InputError, match=said):
        DistillTrainer(
            tiny.qwen(0), None, args, train_dataset=ROWS, replay_dataset=rows,
            processing_class=tiny.tokenizer(),
        )  # fmt: skip


def planned(folder, weight=0.5, lines=None, **fields):
    rows = [{"prompt": f"Tell {i}.", "completion": f"So {i}."} for i in range(12)]
    (folder / "general.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines or rows))
    known = {"replay": {"path": "general.jsonl"}, "train": {"replay_weight": weight}}
    return plan_of(folder, students=["./small"], **{"ablations": {}} | known | fields)


def test_students_replay_and_teachers_do_not_and_other_keys_stay(tmp_path):
    folder = write_folder(tmp_path)
    on, off = planned(folder), plan_of(folder, ablations={}, students=["./small"])
    (key,) = [key for key, s in on.stages.items() if s.kind == "replay_corpus"]
    trained = {s.label: s for s in on.stages.values() if s.kind == "train"}
    assert {label for label, s in trained.items() if s.inputs.get("replay") == key} == {
        label for label in trained if "/teacher" not in label
    }
    assert trained["big/teacher"].key in off.stages
    assert not any("replay" in json.dumps(s.config) for s in off.stages.values())
    looked = [s for s in on.stages.values() if s.kind == "contamination"]
    assert len(looked) == 2 and all(s.inputs["replay"] == key for s in looked)
    assert not any("replay" in s.inputs for s in off.stages.values())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"replay": None}, "there is no text to replay"),
        ({"weight": 0}, "train.replay_weight is 0, so that nothing would read it"),
        ({"weight": -1}, "greater than or equal to 0"),
        ({"replay": {"path": "rows.jsonl"}}, "rows is the corpus itself"),
        ({"replay": {"path": "none.jsonl"}}, "none.jsonl"),
        ({"replay": {"path": "general.jsonl", "validation_rows": 12}}, "validation_rows is 12"),
        ({"lines": [{"prompt": "", "completion": ""}]}, "holds no usable row"),
    ],
)
def test_replay_that_makes_no_sense_is_refused_when_it_is_planned(tmp_path, fields, said):
    with pytest.raises(InputError, match=said):
        planned(write_folder(tmp_path), **fields)


def test_a_weight_may_be_varied_from_none(tmp_path):
    varied = [{"vary": "train.replay_weight", "values": [0, 0.5], "methods": ["word_kd"]}]
    plan = planned(write_folder(tmp_path), 0, ablations=varied)
    trained = [s for s in plan.stages.values() if s.kind == "train" and "replay" in s.inputs]
    assert [s.label for s in trained] == ["small/word_kd/big/train.replay_weight=0.5"]


def test_test_items_in_general_text_are_found(tmp_path):
    rows = {"corpus": "What is 1 + 1?", "replay": "What is 2 + 2, Ann?"}
    for part, text in rows.items():
        (tmp_path / part).mkdir()
        own = [Example(id=part, instruction=text, response="so")]
        write_records(tmp_path / part / "train.parquet", own, Example)
        write_records(tmp_path / part / "validation.parquet", [], Example)
    asked = ["what is 2 + 2 ann", "What is 1 + 1?", "Who?"]
    items = [Example(id=str(i), instruction=text) for i, text in enumerate(asked)]
    write_records(tmp_path / "examples.parquet", items, Example)
    inputs = {part: tmp_path / part for part in rows} | {"items": tmp_path}
    work = Work(config={"benchmark": "b"}, inputs=inputs, local={}, out=tmp_path)
    assert contamination(work).startswith("2 of 3 items are in the corpus")
    found = read_records(tmp_path / "contamination.parquet", Contamination)
    assert [(c.overlap, c.row) for c in found] == [
        ("normalised", "replay"), ("exact", "corpus"), ("none", ""),
    ]  # fmt: skip


def test_a_study_replays_and_reports(tmp_path):
    study = {
        "name": "again",
        "teachers": [{"model": "zoo-s", "finetune": False}],
        "students": ["zoo-xs"],
        "corpus": {"name": "synthetic", "rows": 24, "validation_rows": 6},
        "replay": {"name": "synthetic_varied", "rows": 20, "validation_rows": 5},
        "benchmarks": ["synth_addsub"],
        "limit": 4,
        "methods": ["sft", "word_kd"],
        "token_rows": 0,
        "train": {"epochs": 1, "batch_size": 6, "max_length": 192, "evaluations": 2,
                  "replay_weight": 0.5},
        "generation": {"max_new_tokens": 8},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [p.parent for p in (tmp_path / "store" / "stages").glob("*/training.json")]
    assert len(found) == 2
    for folder in found:
        facts = Trained(folder).facts.read()
        assert facts["replay"] == {"train": 15, "validation": 5, "weight": 0.5, "per_step": 1}
        assert all(row["eval_replay_cross_entropy"] > 0 for row in facts["curve"])
    (folder,) = (p.parent for p in (tmp_path / "store" / "stages").glob("*/report.html"))
    with (folder / "results.csv").open() as file:
        assert len({row["system"] for row in csv.DictReader(file)}) == 4
