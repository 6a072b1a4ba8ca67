"""The trainer against an independent dense loop, its invariances, and resuming."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from small_trainers import SETTINGS, make, micro, weights
from torch.nn import functional as F
from transformers import TrainerCallback

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, onpolicy
from kdstudy.distill.schedule import curve
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError, StageError
from kdstudy.models import heads, load, packing, parts

NO_DROPOUT = schema.Lora(r=4, alpha=8, dropout=0.0)


def collate(trainer: DistillTrainer, rows: list[Encoded]) -> batches.Batch:
    return batches.collate(rows, trainer.weighing, torch.device("cpu"))


# The textbook: whole logits, a label mask, torch's own losses, one optimizer, nothing shared.


def padded(rows: list[Encoded], side: str = "right"):
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), 2)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    scored = torch.zeros((len(rows), width), dtype=torch.bool)
    for b, row in enumerate(rows):
        start = 0 if side == "right" else width - len(row.ids)
        ids[b, start : start + len(row.ids)] = torch.tensor(row.ids)
        mask[b, start : start + len(row.ids)] = 1
        scored[b, start + row.prompt_length : start + len(row.ids)] = True
    return ids, mask, scored


def dense_logits(model, ids, mask):
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits


def textbook_losses(kind: str, student, teacher, rows, tau: float = 1.0, side: str = "right"):
    ids, mask, scored = padded(rows, side)
    s = dense_logits(student, ids, mask)[:, :-1]
    with torch.no_grad():
        t = dense_logits(teacher, ids, mask)[:, :-1]
    ps, pt = F.softmax(s / tau, -1), F.softmax(t / tau, -1)
    m = 0.3 * pt + 0.7 * ps
    ce = F.cross_entropy(s.transpose(1, 2), ids[:, 1:], reduction="none")
    per_token = {
        "sft": lambda: ce,
        "word_kd": lambda: (pt * (pt / ps).log()).sum(-1) * tau**2,
        "revkd": lambda: (ps * (ps / pt).log()).sum(-1) * tau**2,
        "gkd": lambda: 0.3 * (pt * (pt / m).log()).sum(-1) + 0.7 * (ps * (ps / m).log()).sum(-1),
    }[kind]()
    return per_token, ce, scored[:, 1:]


def textbook_curve(kind: str, student, teacher, tau: float) -> list[tuple[float, float, float]]:
    data, validation = tiny.rows(40), tiny.rows(10, seed=9)
    order = batches.order(40, epochs=2, batch_size=4, seed=3)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    curve = []
    for step, numbers in enumerate(order):
        warmup = min(100, len(order) // 10)
        share = (
            step / warmup if step < warmup else (len(order) - step) / max(1, len(order) - warmup)
        )
        optimizer.param_groups[0]["lr"] = 3e-3 * share
        losses, _, scored = textbook_losses(
            kind, student, teacher, [data[i] for i in numbers], tau, side="left"
        )
        loss = losses[scored].sum() / scored.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            losses, ce, scored = textbook_losses(kind, student, teacher, validation, tau)
        curve.append((loss.item(), losses[scored].mean().item(), ce[scored].mean().item()))
    return curve


CASES = [
    (methods.Sft(), tiny.qwen, None),
    (methods.Sft(), tiny.llama, NO_DROPOUT),
    (methods.WordKD(temperature=2), tiny.qwen, NO_DROPOUT),
    (methods.WordKD(), tiny.llama, None),
    (methods.RevKD(temperature=2), tiny.llama, None),
    (methods.GKD(lmbda=0, beta=0.3), tiny.qwen, None),
]


@pytest.mark.parametrize(("method", "build", "lora"), CASES)
def test_twenty_steps_equal_a_dense_textbook_loop(tmp_path, method, build, lora):
    settings = SETTINGS.model_copy(update={"lora": lora})
    trainer = make(tmp_path, method, micro(3, settings), build=build)
    trainer.run()
    student = build(0)
    if lora:
        student = load.add_adapter(student, lora, seed=1).train()
    want = textbook_curve(
        method.type, student, build(1, width=24), getattr(method, "temperature", 1.0)
    )
    got = [
        (c["loss"], c["eval_loss"], c["eval_cross_entropy"])
        for c in curve(trainer.state.log_history)
    ]
    assert len(got) == 20
    # 1e-6 relative up to what float32 sums of another order differ by once weights have moved.
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "method",
    [
        methods.Sft(),
        methods.WordKD(noise=1.0),
        methods.GKD(lmbda=1.0, sampling_temperature=1.0),
    ],
)
@pytest.mark.parametrize("normalisation", ["tokens", "sequences"])
def test_micro_batches_change_nothing(tmp_path, method, normalisation):
    settings = SETTINGS.model_copy(
        update={"normalisation": normalisation, "epochs": 0.5, "evaluations": 1}
    )
    ends = []
    for size in (1, 4):
        # float64: AdamW turns a rounding difference in a near-zero gradient into a whole step.
        trainer = make(
            tmp_path / str(size),
            method,
            micro(size, settings),
            student=tiny.qwen(0).double(),
            teacher=tiny.qwen(1).double(),
        )
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-9)


def one_loss(trainer: DistillTrainer, batch: batches.Batch) -> float:
    trainer.model.eval()
    with torch.no_grad():
        return trainer.model(batch)[0].item()


def test_only_response_tokens_are_scored_and_the_shift_is_right():
    row = Encoded((10, 11, 12, 20, 21, tiny.EOS), 3)

    def scored(row: Encoded, loss_tokens: str) -> batches.Batch:
        weighing = batches.Weighing(loss_tokens=loss_tokens)
        return batches.collate([row], weighing, torch.device("cpu"))

    batch = scored(row, "response")
    assert batch.places_N.tolist() == [2, 3, 4]
    assert batch.targets_N.tolist() == [20, 21, tiny.EOS]
    assert scored(row, "all").targets_N.tolist() == [11, 12, 20, 21, tiny.EOS]
    # The released code also scores the output after the end, which no token follows.
    every = scored(row, "positions")
    assert every.places_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert every.targets_N.tolist() == [11, 12, 20, 21, tiny.EOS, -1]
    # Nothing precedes the first token, prompt or not.
    assert scored(Encoded((20, 21), 0), "response").targets_N.tolist() == [21]


@pytest.mark.parametrize("normalisation", ["tokens", "sequences", "micro_batches"])
def test_rows_without_a_scored_token_add_nothing(tmp_path, normalisation):
    settings = SETTINGS.model_copy(update={"normalisation": normalisation})
    data = [Encoded((5, 6, 7), 3), Encoded((5, 6, tiny.EOS), 2)] * 2  # none, and one token
    trainer = make(tmp_path, methods.GKD(lmbda=0), settings, data=data)

    def loss(numbers: list[int]) -> float:
        inputs, total = trainer.get_batch_samples(iter([numbers]), 1, torch.device("cpu"))
        return sum(trainer.model(**i, num_items_in_batch=total)[0].item() for i in inputs)

    assert loss([0, 1]) == pytest.approx(loss([1]), rel=1e-6) and loss([1]) > 0
    assert loss([0, 2]) == 0


def test_prompt_tokens_that_cannot_be_seen_have_no_influence(tmp_path):
    student, teacher = tiny.qwen(0), tiny.qwen(1)
    for model in (student, teacher):
        for layer in model.model.layers:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)  # tokens no longer mix
    trainer = make(tmp_path, methods.WordKD(), student=student, teacher=teacher)
    a, b = Encoded((5, 6, 7, 20, 21, 1), 3), Encoded((40, 41, 7, 20, 21, 1), 3)
    assert one_loss(trainer, collate(trainer, [a])) == one_loss(trainer, collate(trainer, [b]))


@pytest.mark.parametrize("attention", [packing.ATTENTION, "sdpa", "eager"])
def test_other_rows_and_padding_have_no_influence(tmp_path, attention):
    trainer = make(tmp_path, methods.RevKD())
    for model in (trainer.student, trainer.model.teacher.model):
        parts.plain(model).set_attn_implementation(attention)
    rows = tiny.rows(6, seed=2)
    together = collate(trainer, rows)
    alone = sum(one_loss(trainer, collate(trainer, [row])) for row in rows)
    assert one_loss(trainer, together) == pytest.approx(alone, rel=1e-6)
    padded = len(rows) * max(together.lengths)
    packed = attention == packing.ATTENTION
    wanted = sum(together.lengths) if packed else padded
    assert packing.positions(trainer.student, together.lengths) == wanted < padded + (not packed)


@pytest.mark.parametrize("method", [methods.WordKD(), methods.RevKD(), methods.GKD()])
@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_extra_vocabulary_entries_have_no_influence(tmp_path, method, build):
    tok = tiny.tokenizer()
    losses = []
    for ours, theirs in [(0, 0), (5, 0), (0, 9), (5, 9)]:
        student, teacher = tiny.widen(build(0), ours), tiny.widen(build(1), theirs)
        width = heads.common_width(tok, tok, parts.head(student), parts.head(teacher))
        assert width == tiny.VOCABULARY + min(ours, theirs)
        trainer = make(tmp_path, method, student=student, teacher=teacher, width=width)
        losses.append(one_loss(trainer, collate(trainer, tiny.rows(4))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[3] != pytest.approx(losses[0], rel=1e-3)  # entries both have do count


def spy_on_sampling(monkeypatch) -> list[dict]:
    calls = []

    def spy(model, prompts, **settings):
        texts = real_sample(model, prompts, **settings)
        calls.append({"training": model.training, "prompts": prompts, "texts": texts, **settings})
        return texts

    real_sample = onpolicy.sample
    monkeypatch.setattr(onpolicy, "sample", spy)
    return calls


def test_gkd_trains_on_what_the_student_samples(tmp_path, monkeypatch):
    calls = spy_on_sampling(monkeypatch)
    settings = SETTINGS.model_copy(update={"evaluations": 1, "lora": schema.Lora(dropout=0.5)})
    trainer = make(tmp_path, methods.GKD(lmbda=0.5), micro(2, settings))
    seen = []
    collate = batches.collate
    monkeypatch.setattr(
        batches, "collate", lambda rows, *a, **k: seen.append(rows) or collate(rows, *a, **k)
    )
    trainer.run()
    assert 3 <= len(calls) <= 17  # a fair coin per optimizer step
    assert not any(call["training"] for call in calls), "the student samples in eval mode"
    assert trainer.model.student.training is False or trainer.model.training
    first = calls[0]
    made = [
        (*prompt, *text.ids) for prompt, text in zip(first["prompts"], first["texts"], strict=True)
    ]
    trained = [row.ids for rows in seen for row in rows]
    where = min(trained.index(ids) for ids in made)
    step = trained[where : where + 4]
    assert sorted(step) == sorted(made), "ids as they were drawn, one step together"
    assert [len(ids) for ids in step] == sorted(map(len, made)), "alike in length together"
    budget = [settings.max_length - len(prompt) for prompt in first["prompts"]]
    assert first["max_new_tokens"] == budget
    for text in first["texts"]:
        assert (text.stop == "eos") == (text.ids[-1] == tiny.EOS)
        assert tiny.EOS not in text.ids[:-1]


def test_the_step_is_divided_by_its_sampled_tokens(tmp_path):
    trainer = make(tmp_path, methods.GKD(lmbda=1.0), micro(2))
    numbers = iter([[0, 1], [2, 3]])
    inputs, total = trainer.get_batch_samples(numbers, 2, torch.device("cpu"))
    assert total == sum(i["batch"].targets_N.numel() for i in inputs)
    assert total != batches.Weighing().weights(trainer.rows[:4])[1]


def test_gkd_without_on_policy_text_never_samples(tmp_path, monkeypatch):
    calls = spy_on_sampling(monkeypatch)
    make(tmp_path, methods.GKD(lmbda=0.0), SETTINGS.model_copy(update={"evaluations": 1})).run()
    assert not calls


@pytest.mark.parametrize("method", [methods.GKD, methods.OnPolicyRevKL])
def test_text_of_the_students_own_holds_no_hard_labels(tmp_path, method):
    """A student that is its own teacher has nothing to learn from what it writes."""
    trainer = make(
        tmp_path,
        method(lmbda=1.0, hard_label_weight=0.4),
        micro(2),
        student=tiny.qwen(0).double(),
        teacher=tiny.qwen(0).double(),
    )
    inputs, total = trainer.get_batch_samples(iter([[0, 1], [2, 3]]), 2, torch.device("cpu"))
    for one in inputs:
        (loss,) = trainer.model(**one, num_items_in_batch=total)
        loss.backward()
        assert abs(loss.item()) < 1e-15
    assert all(p.grad.abs().max() < 1e-15 for p in trainer.student.parameters())
    # On the dataset's text the share is what it was.
    rows = trainer.rows[:4]
    _, ce, scored = textbook_losses("word_kd", tiny.qwen(0).double(), tiny.qwen(0).double(), rows)
    got = one_loss(trainer, collate(trainer, rows))
    assert got == pytest.approx(0.4 * ce[scored].sum().item(), rel=1e-12)


def test_the_divergence_alone_is_charged_on_text_of_the_students_own(tmp_path):
    inputs = []
    for share in (0.0, 0.4):
        trainer = make(tmp_path, methods.GKD(lmbda=1.0, hard_label_weight=share))
        (one,), total = trainer.get_batch_samples(iter([[0, 1, 2, 3]]), 1, torch.device("cpu"))
        inputs.append(trainer.model(**one, num_items_in_batch=total)[0].item())
    assert inputs[0] == inputs[1] > 0.01


def test_sequence_normalisation_is_the_mean_of_means(tmp_path):
    settings = SETTINGS.model_copy(update={"normalisation": "sequences"})
    trainer = make(tmp_path, methods.Sft(), settings)
    rows = tiny.rows(5, seed=4)
    batch = collate(trainer, rows)
    got = one_loss(trainer, batch) / 5
    losses, _, scored = textbook_losses("sft", tiny.qwen(0), tiny.qwen(1), rows)
    want = torch.stack([row[m].mean() for row, m in zip(losses, scored, strict=True)]).mean()
    assert got == pytest.approx(want.item(), rel=1e-6)


class Interrupt(TrainerCallback):
    """Dies after a step, as a machine would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "method", [methods.Sft(), methods.WordKD(noise=0.5), methods.GKD(lmbda=0.5)]
)
def test_resuming_gives_the_same_bits(tmp_path, method):
    settings = SETTINGS.model_copy(update={"evaluations": 5, "lora": schema.Lora(dropout=0.3)})
    whole = make(tmp_path / "whole", method, micro(2, settings))
    whole.run()
    broken = make(tmp_path / "broken", method, micro(2, settings))
    broken.add_callback(Interrupt(step=11))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    torch.rand(17)  # another process has another random state
    torn = tmp_path / "broken" / "checkpoint-10"
    torn.mkdir()
    resumed = make(tmp_path / "broken", method, micro(2, settings))
    resumed.run()
    assert resumed._initial_global_step == 8 and not torn.exists()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert curve(whole.state.log_history) == curve(resumed.state.log_history)
    assert whole.tokens == resumed.tokens and whole.padding_share == resumed.padding_share


def test_noise_is_fresh_at_every_step_and_never_in_validation(tmp_path):
    trainer = make(tmp_path, methods.WordKD(noise=3.0))
    quiet = make(tmp_path, methods.WordKD())
    assert trainer.evaluate() == quiet.evaluate()
    losses = []
    for step in (0, 0, 1):
        trainer.state.global_step = step
        (inputs,), _ = trainer.get_batch_samples(iter([[0, 1, 2, 3]]), 1, torch.device("cpu"))
        losses.append(one_loss(trainer, inputs["batch"]))
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != one_loss(quiet, collate(quiet, trainer.rows[:4]))


@pytest.mark.parametrize("select_by", ["method_loss", "cross_entropy"])
def test_the_best_checkpoint_is_restored(tmp_path, select_by):
    settings = SETTINGS.model_copy(
        update={"learning_rate": 0.05, "schedule": "constant", "select_by": select_by}
    )
    trainer = make(tmp_path, methods.WordKD(), settings)
    trainer.run()
    key = "eval_loss" if select_by == "method_loss" else "eval_cross_entropy"
    best = min(curve(trainer.state.log_history), key=lambda row: row[key])
    assert best["step"] == trainer.state.best_global_step < 20
    assert trainer.evaluate()[key] == best[key]


def test_gradients_never_reach_the_teacher_and_it_is_not_saved(tmp_path):
    trainer = make(tmp_path, methods.WordKD())
    teacher = trainer.model.teacher.model
    mine = {id(p) for p in trainer.model.parameters()}
    assert not any(id(p) in mine or p.requires_grad for p in teacher.parameters())
    trainer.model.train()
    assert not any(module.training for module in teacher.modules())


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    student = tiny.qwen(0)
    trainer = make(tmp_path, methods.Sft(), student=student)
    with torch.no_grad():
        student.model.norm.weight.fill_(math.nan)
    with pytest.raises(StageError, match="step 1"):
        trainer.run()


def test_batches_are_whole_and_epochs_are_permutations():
    order = batches.order(10, epochs=3, batch_size=4, seed=0)
    assert [len(step) for step in order] == [4] * 8  # 30 rows, rounded to whole steps
    flat = [i for step in order for i in step]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert order != batches.order(10, epochs=3, batch_size=4, seed=1)


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
@pytest.mark.parametrize("lora", [None, NO_DROPOUT])
def test_body_and_head_give_the_models_own_logits(build, lora):
    model = build(0)
    if lora:
        model = load.add_adapter(model, lora, 0)
    ids, at = torch.tensor([[5, 6, 7, 8]]), torch.arange(4)
    hidden = packing.scored_hidden(model, ids[0], [4], at)
    torch.testing.assert_close(parts.head(model).logits(hidden), model(input_ids=ids).logits[0])
    parts.require_known_head(model)


def test_a_model_that_changes_its_logits_in_secret_is_refused():
    scaled = tiny.qwen(0)
    forward = scaled.forward
    scaled.forward = lambda **inputs: dataclasses.replace(
        (out := forward(**inputs)), logits=out.logits * 0.5
    )
    with pytest.raises(InputError, match="differ from its output layer"):
        parts.require_known_head(scaled)


def test_a_model_with_a_broken_weight_is_refused_as_such():
    broken = tiny.qwen(0)
    with torch.no_grad():
        broken.model.norm.weight[0] = math.nan
    with pytest.raises(InputError, match="not finite numbers"):
        parts.require_known_head(broken)


def test_nothing_is_printed_and_no_file_leaves_the_folder(tmp_path, capfd):
    before = set(Path.cwd().iterdir())
    told = []
    trainer = make(
        tmp_path,
        methods.Sft(),
        SETTINGS.model_copy(update={"lora": NO_DROPOUT}),
        progress=lambda done, total, unit, **numbers: told.append((done, total, unit, numbers)),
    )
    trainer.run()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert set(Path.cwd().iterdir()) == before
    assert [t[0] for t in told] == list(range(1, 21)) and told[0][1:3] == (20, "step")
    assert {"loss", "learning_rate", "eval_loss"} <= told[-1][3].keys()
    saved = [p.name for p in tmp_path.glob("checkpoint-*/*")]
    assert "training_args.bin" not in saved
    json.dumps(curve(trainer.state.log_history))
