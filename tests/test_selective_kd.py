"""Selective distillation against dense float64, and what choosing must not move."""

import math

import pytest
import tiny_models as tiny
import torch
from small_trainers import SETTINGS, make, micro, weights

from kdstudy import methods
from kdstudy.distill import batches, cache
from kdstudy.distill.fused import TeacherSide, entropies
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.selective_kd import SelectiveKD
from kdstudy.models.parts import Head


def pair():
    student, teacher = tiny.qwen(0).double().eval(), tiny.qwen(1, width=24).double().eval()
    return student, LiveTeacher(teacher, tiny.VOCABULARY)


def collate(rows, **more):
    weighing = batches.Weighing(**more)
    weights, total = weighing.weights(rows)
    return batches.collate(rows, weighing, torch.device("cpu"), weights=weights), total


def dense_loss(student, live, rows, share, of, normalisation):
    """Each row's mean over its chosen tokens, and the mean of rows: by token, or one for each."""
    means, lengths = [], []
    for row in rows:
        ids, places = torch.tensor([row.ids]), torch.tensor(list(row.scored)) - 1
        s, t = (m(input_ids=ids).logits[0, places] for m in (student, live.model))
        q, p = s.softmax(-1), t.softmax(-1)
        by = q if of == "student" else p
        entropy = -(by * by.log()).sum(-1).detach()
        most = math.ceil(share * len(places))
        best = sorted(range(len(places)), key=lambda i: -entropy[i])[:most]
        means.append((p * (p / q).log()).sum(-1)[best].mean())
        lengths.append(1 if normalisation == "sequences" else len(places))
    return sum(n * m for n, m in zip(lengths, means, strict=True)) / sum(lengths)


@pytest.mark.parametrize("of", ["student", "teacher"])
@pytest.mark.parametrize("share", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("normalisation", ["tokens", "sequences"])
def test_loss_and_gradient_are_those_of_whole_logits(of, share, normalisation):
    student, live = pair()
    rows = tiny.rows(6, seed=3)
    model = DistillModel(student, SelectiveKD(share=share, entropy_of=of).recipe(), live)
    batch, total = collate(rows, normalisation=normalisation)
    want = dense_loss(student, live, rows, share, of, normalisation)
    (got,) = model(batch, total)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    trained = list(student.parameters())
    pairs = zip(
        *(torch.autograd.grad(x, trained, allow_unused=True) for x in (got, want)), strict=True
    )
    for mine, exact in pairs:
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-12)


def test_a_share_of_one_is_word_kd():
    student, live = pair()
    batch, total = collate(tiny.rows(6, seed=3))
    fields = {"temperature": 2, "hard_label_weight": 0.3}
    one, all_of_them = (
        DistillModel(student, method.recipe(), live)(batch, total)[0]
        for method in (SelectiveKD(share=1, **fields), methods.WordKD(**fields))
    )
    assert one.item() == pytest.approx(all_of_them.item(), rel=1e-12)


def test_the_entropy_of_three_tokens_by_hand():
    t = torch.tensor([[2.0, 1, 1], [1, 1, 1]]).double().log()
    got = entropies(TeacherSide(hidden=t, head=Head(weight=torch.eye(3).double())))
    assert got.tolist() == pytest.approx([1.5 * math.log(2), math.log(3)], abs=1e-12)


def test_a_fifth_of_fifteen_is_three(monkeypatch):
    """0.2 * 15 is 3.0000000000000004."""
    from kdstudy.distill import token_selection
    from kdstudy.methods.objective import Selection

    hidden = torch.randn(15, 3, dtype=torch.float64)
    batch = batches.Batch(
        texts=(), ids_T=torch.zeros(16), lengths=(16,), places_N=torch.arange(15),
        targets_N=torch.zeros(15, dtype=torch.long), weights_N=torch.ones(15).double(),
    )  # fmt: skip
    head = Head(weight=torch.eye(3).double())
    tokens, found = token_selection.chosen(
        Selection(share=0.2, by="student"), batch, hidden, head, None
    )
    assert len(tokens) == 3 and found.tolist() == [5.0] * 3


def test_validation_measures_the_plain_cross_entropy_and_a_cache_the_same_loss():
    student, live = pair()
    rows = tiny.rows(6, seed=3)
    batch, _ = collate(rows)
    recipe = SelectiveKD(share=0.3).recipe()
    loss, entropy = DistillModel(student, recipe, live)(batch)
    _, want = DistillModel(student, methods.Sft().recipe())(batch)
    assert entropy.item() == pytest.approx(want.item(), rel=1e-12)
    states = cache.in_memory(live, rows, "response", rows_per_pass=2)
    kept = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")
    again, _ = DistillModel(student, recipe, kept)(batch)
    assert again.item() == pytest.approx(loss.item(), rel=1e-10)


def test_each_chosen_token_keeps_its_own_noise():
    student, live = pair()
    rows = tiny.rows(4, seed=3)
    weighing = batches.Weighing()
    seeds = [7, 8, 9, 10]
    fields = {"noise": 0.5, "share": 0.3}
    one = DistillModel(student, SelectiveKD(**fields).recipe(), live)
    whole = batches.collate(rows, weighing, torch.device("cpu"), noise_seeds=seeds)
    total = sum(
        one(batches.collate([row], weighing, torch.device("cpu"), noise_seeds=[seed]), 1)[0]
        for row, seed in zip(rows, seeds, strict=True)
    )
    assert one(whole, 1)[0].item() == pytest.approx(total.item(), rel=1e-10)


def test_a_run_is_the_same_however_a_step_is_cut(tmp_path):
    ends = []
    short = SETTINGS.model_copy(update={"evaluations": 2, "epochs": 1})
    for size in (1, 4):
        trainer = make(tmp_path / str(size), SelectiveKD(share=0.5), micro(size, short))
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=2e-4, atol=2e-5)
