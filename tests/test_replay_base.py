"""Replay towards the base: KL(base || student) in float64, its invariances, what the base is."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
import train_stage
from peft import LoraConfig, get_peft_model
from small_trainers import SETTINGS, micro, weights
from study_folder import plan_of, write_folder
from transformers.trainer_callback import PrinterCallback

from kdstudy import methods
from kdstudy.distill import replay, stages
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError
from kdstudy.methods.atkd import ATKD
from kdstudy.methods.minillm import MiniLLM
from kdstudy.methods.taid import TAID
from kdstudy.stage import silent

ROWS, VALIDATION, GENERAL = tiny.rows(24), tiny.rows(6, seed=9), tiny.rows(15, seed=7)
REPLAY = SETTINGS.model_copy(
    update={
        "replay_weight": 0.7, "replay_rows": 3, "replay_towards": "base", "evaluations": 4,
        "epochs": 1.5,
    }
)  # fmt: skip
ADAPTERS = {
    "all weights": None,
    "adapter": LoraConfig(r=2, target_modules=["q_proj", "up_proj"], lora_dropout=0.3),
    "head too": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


def student(adapter=None):
    model = tiny.llama(0).double()
    if adapter is not None:
        torch.manual_seed(1)
        model = get_peft_model(model, adapter)
        model = model.double()
    return model


def make(folder, method, settings=REPLAY, *, adapter=None, given=None):
    trainer = DistillTrainer(
        student(adapter),
        LiveTeacher(tiny.llama(1, width=24).double(), tiny.VOCABULARY),
        study_config(settings, method, ROWS, folder, 3),
        train_dataset=ROWS,
        eval_dataset=VALIDATION,
        replay_dataset=GENERAL if settings.replay_weight else None,
        replay_base=given,
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(settings.evaluations, silent)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def moved(trainer, seed=5):
    """Move what is trained away from where it began."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trainer.student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    for module in trainer.student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def step(trainer, micros):
    """Return a first step's losses, replay's share of them, and what was read again."""
    inputs, total = trainer.get_batch_samples(iter(micros), len(micros), torch.device("cpu"))
    losses, added = [], []
    for one in inputs:
        losses.append(trainer.model(**one, num_items_in_batch=total)[0])
        added.append(trainer.model.replayed.item())
    sum(losses).backward()
    again = [row for i in inputs if i["batch"].replay for row in i["batch"].replay.texts]
    return sum(losses).item(), sum(added), again


def logs(model, row):
    """Return the log-probabilities of a row's response tokens, [tokens, V], from whole logits."""
    ids = torch.tensor([row.ids])
    return model(input_ids=ids).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)


def apart(base, model, rows):
    """Return the mean of KL(base || model) over the rows' tokens, from its definition."""
    found = []
    for row in rows:
        with torch.no_grad():
            b = logs(base, row)
        found.append((b.exp() * (b - logs(model, row))).sum(-1))
    return torch.cat(found).mean()


def own(kind, model, rows):
    """Return the mean of a method's loss over the rows' tokens."""
    found = []
    for row in rows:
        s, ids = logs(model, row), torch.tensor(row.ids[row.prompt_length :])
        if kind == "sft":
            found.append(-s.gather(1, ids[:, None])[:, 0])
            continue
        with torch.no_grad():
            t = logs(tiny.llama(1, width=24).double(), row)
        found.append((t.exp() * (t - s)).sum(-1))
    return torch.cat(found).mean()


@pytest.mark.parametrize("name", ADAPTERS)
def test_nothing_is_added_before_anything_is_learnt(tmp_path, name):
    found = []
    for weight in (0.0, 0.7):
        settings = REPLAY.model_copy(
            update={"replay_weight": weight, "replay_towards": "base" if weight else "text"}
        )
        trainer = make(tmp_path / str(weight), methods.Sft(), settings, adapter=ADAPTERS[name])
        for module in trainer.student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loss, added, _ = step(trainer, [[0, 1], [2, 3]])
        assert abs(added) < 1e-13
        found.append((loss, {n: p.grad for n, p in trainer.student.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for n, grad in found[0][1].items():
        if grad is not None:
            torch.testing.assert_close(grad, found[1][1][n], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    ("kind", "micros"),
    [("sft", [[0, 1], [2, 3]]), ("word_kd", [[0, 1, 2, 3]]), ("word_kd", [[0], [1], [2], [3]])],
)
def test_a_steps_loss_and_gradients_are_a_dense_loops_in_float64(tmp_path, name, kind, micros):
    method = {"sft": methods.Sft(), "word_kd": methods.WordKD()}[kind]
    trainer = make(tmp_path, method, adapter=ADAPTERS[name])
    moved(trainer)
    loss, added, again = step(trainer, micros)
    assert len(again) == 3 and all(row in GENERAL for row in again)
    grads = {n: p.grad.clone() for n, p in trainer.student.named_parameters() if p.requires_grad}
    trainer.student.zero_grad()
    kl = 0.7 * apart(tiny.llama(0).double(), trainer.student, again)
    want = own(kind, trainer.student, ROWS[:4]) + kl
    want.backward()
    assert kl > 1e-3 and added == pytest.approx(kl.item(), rel=1e-10)
    assert loss == pytest.approx(want.item(), rel=1e-10)
    for n, parameter in trainer.student.named_parameters():
        assert parameter.requires_grad == (n in grads)
        if n in grads:
            torch.testing.assert_close(grads[n], parameter.grad, rtol=1e-8, atol=1e-12, msg=n)


EVERY = [methods.Sft(), methods.RevKD(), ATKD(), TAID(), methods.GKD(lmbda=1.0), MiniLLM()]


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.type)
def test_every_methods_own_term_is_as_without_replay(tmp_path, method):
    found = []
    for weight in (0.0, 0.7):
        settings = REPLAY.model_copy(
            update={"replay_weight": weight, "replay_towards": "base" if weight else "text"}
        )
        trainer = make(tmp_path / str(weight), method, settings)
        moved(trainer)
        inputs, total = trainer.get_batch_samples(iter([[0, 1], [2, 3]]), 2, torch.device("cpu"))
        taught = 0.0
        for one in inputs:
            trainer.model(**one, num_items_in_batch=total)
            taught += trainer.model.taught.item()
        found.append((taught, total))
    assert found[0][1] == found[1][1] and found[0][0] == pytest.approx(found[1][0], rel=1e-9)


@pytest.mark.parametrize("name", ["all weights", "adapter"])
def test_the_base_is_what_the_student_was_however_long_it_trains(tmp_path, name):
    trainer = make(tmp_path, methods.WordKD(), adapter=ADAPTERS[name])
    trainer.run()
    with trainer.model.base.opened() as model, torch.no_grad():
        kept = logs(model, GENERAL[0])
    with torch.no_grad():
        before, now = logs(tiny.llama(0).double(), GENERAL[0]), logs(trainer.student, GENERAL[0])
    torch.testing.assert_close(kept, before, rtol=1e-12, atol=1e-12)
    assert (now - before).abs().max() > 1e-3


@pytest.mark.parametrize("method", [methods.Sft(), methods.GKD(lmbda=1.0)], ids=lambda m: m.type)
@pytest.mark.parametrize("name", ["all weights", "adapter"])
def test_how_a_step_is_cut_changes_nothing(tmp_path, method, name):
    adapter = ADAPTERS[name] and dataclasses.replace(ADAPTERS[name], lora_dropout=0.0)
    ends = []
    for size in (1, 4):
        trainer = make(tmp_path / str(size), method, micro(size, REPLAY), adapter=adapter)
        trainer.run()
        ends.append(weights(trainer))
    for n, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][n], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["all weights", "adapter"])
def test_a_resumed_run_has_the_same_bits(tmp_path, name):
    whole = make(tmp_path / "whole", TAID(step_size=0.2), adapter=ADAPTERS[name])
    whole.run()
    make(tmp_path / "cut", TAID(step_size=0.2), adapter=ADAPTERS[name]).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = make(tmp_path / "cut", TAID(step_size=0.2), adapter=ADAPTERS[name])
    again.run()
    assert again._initial_global_step > 0
    for n, value in weights(whole).items():
        assert torch.equal(value, weights(again)[n]), n
    assert curve(again.state.log_history) == curve(whole.state.log_history)


def test_it_keeps_a_student_nearer_to_its_base(tmp_path):
    ends = []
    for weight in (1e-9, 3.0):
        settings = REPLAY.model_copy(
            update={"replay_weight": weight, "epochs": 6, "evaluations": 1}
        )
        trainer = make(tmp_path / str(weight), methods.Sft(), settings)
        trainer.run()
        with torch.no_grad():
            ends.append(apart(tiny.llama(0).double(), trainer.student.eval(), GENERAL).item())
    assert ends[1] < 0.7 * ends[0]


@pytest.mark.parametrize("towards", ["text", "base"])
def test_the_log_tells_the_replays_share_of_the_loss(tmp_path, towards):
    """Also where logs and checkpoints fall apart, and a run goes on in between."""
    settings = REPLAY.model_copy(update={"replay_towards": towards})
    trainer = make(tmp_path / "whole", methods.WordKD(), settings)
    steps = []

    def spy(*args, **kwargs):
        loss = plain(*args, **kwargs)
        both = trainer.model.taught.item(), trainer.model.replayed.item()
        assert loss.item() == pytest.approx(sum(both), rel=1e-9)
        micros[-1].append(both)
        return loss

    micros, plain, samples = [], trainer.training_step, trainer.get_batch_samples
    trainer.training_step = spy
    trainer.get_batch_samples = lambda *a: micros.append([]) or samples(*a)
    trainer.run()
    steps = [np.sum(step, 0) for step in micros if step]
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == len(steps) == trainer.args.max_steps
    for row, (taught, added) in zip(logged, steps, strict=True):
        assert row["replay_loss"] == pytest.approx(added, rel=1e-6)
        assert row["loss"] - row["replay_loss"] == pytest.approx(taught, rel=1e-5)
    points = curve(trainer.state.log_history)
    first = points[0]["step"]
    assert points[0]["replay_loss"] == pytest.approx(
        np.mean([s[1] for s in steps[:first]]), rel=1e-6
    )


def test_a_share_that_is_not_logged_yet_is_kept_with_the_checkpoint(tmp_path):
    def trainer(folder):
        made = make(folder, methods.WordKD())
        made.args.logging_strategy, made.args.logging_steps = "steps", 4
        made.args.save_strategy, made.args.save_steps = "steps", 3
        made.args.load_best_model_at_end = False
        made.pop_callback(Schedule)
        return made

    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "cut").run()
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6", ignore_errors=True)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-9", ignore_errors=True)
    again = trainer(tmp_path / "cut")
    again.run()
    assert again._initial_global_step == 3
    found = [
        [
            (row["step"], row["loss"], row["replay_loss"])
            for row in run.state.log_history
            if "loss" in row
        ]
        for run in (whole, again)
    ]
    assert found[0] == found[1] and len(found[0]) == 2


# Refusals, and studies.


def test_what_makes_no_sense_is_refused(tmp_path):
    asked = {"output_dir": str(tmp_path), "method": "sft", "use_cpu": True}
    for fields, rows, model, said in (
        ({"replay_towards": "base"}, None, tiny.qwen(0), "nothing is replayed"),
        ({"replay_towards": "start", "replay_weight": 1.0}, GENERAL, tiny.qwen(0), "text or base"),
        (
            {"replay_towards": "base", "replay_weight": 1.0},
            GENERAL,
            get_peft_model(tiny.llama(0), LoraConfig(target_modules=["q_proj"], bias="all")),
            "biases of the model itself",
        ),
        (
            {"replay_towards": "base", "replay_weight": 1.0},
            GENERAL,
            get_peft_model(
                tiny.llama(0), LoraConfig(target_modules=["q_proj"], init_lora_weights="olora")
            ),
            "init_lora_weights 'olora'",
        ),
    ):
        with pytest.raises(InputError, match=said):
            DistillTrainer(
                model, None, DistillConfig(**asked, **fields), train_dataset=ROWS,
                replay_dataset=rows, processing_class=tiny.tokenizer(),
            )  # fmt: skip
    held = replay.Replay(GENERAL, (), DistillConfig(**asked, replay_towards="base"))
    student = tiny.llama(0)
    with pytest.raises(InputError, match="is the student itself"):
        held.base(student, student, sharded=False)
    adapted = get_peft_model(tiny.llama(0), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match="itself without it"):
        held.base(adapted, tiny.llama(0), sharded=False)
    with pytest.raises(InputError, match="asked twice"):
        held.base(tiny.qwen(0), None, sharded=True)


def planned(folder, **train):
    rows = [{"prompt": f"Tell {i}.", "completion": f"So {i}."} for i in range(12)]
    (folder / "general.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    fields = {"replay": {"path": "general.jsonl"}} if train.get("replay_weight") else {}
    return plan_of(folder, students=["./small"], ablations={}, train=train, **fields)


def test_keys_of_runs_without_it_stay(tmp_path):
    folder = write_folder(tmp_path)
    made = [
        planned(folder, **fields)
        for fields in (
            {},
            {"replay_weight": 0.5},
            {"replay_weight": 0.5, "replay_towards": "base"},
        )
    ]
    keys = [{s.label: s.key for s in plan.stages.values() if s.kind == "train"} for plan in made]
    assert len({k["big/teacher"] for k in keys}) == 1
    assert len({k["small/word_kd/big"] for k in keys}) == 3
    with pytest.raises(InputError, match="replay_weight is 0, so that nothing is replayed"):
        planned(folder, replay_towards="base")


@pytest.mark.parametrize("lora", [True, False])
def test_after_a_start_the_base_is_still_the_model_that_was_given(tmp_path, monkeypatch, lora):
    place = train_stage.furnish(tmp_path)
    shutil.copytree(place / "corpus", place / "general")
    plain = train_stage.TRAIN if lora else train_stage.TRAIN.model_copy(update={"lora": None})
    stages.train(train_stage.work(place, "start", methods.Sft(), plain))
    held = plain.model_copy(update={"replay_weight": 0.5, "replay_towards": "base"})
    bases = []
    before = replay.Base.__init__

    def spy(self, *args):
        before(self, *args)
        bases.append(self)

    monkeypatch.setattr(replay.Base, "__init__", spy)
    inputs = {"start": place / "start", "replay": place / "general"}
    work = train_stage.work(place, "out", methods.Sft(), held, **inputs)
    stages.train(work)
    ids = torch.tensor([[20, 21, 22]])
    with bases[0].opened() as model, torch.no_grad():
        kept = model(input_ids=ids).logits
    with torch.no_grad():
        want = tiny.qwen(0, scale=1.0)(input_ids=ids).logits
    torch.testing.assert_close(kept.float(), want, rtol=1e-5, atol=1e-5)
    facts = json.loads((place / "out" / "training.json").read_text())
    assert facts["replay"]["towards"] == "base"
    assert facts["curve"][0]["replay_loss"] > 1e-6
