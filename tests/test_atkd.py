"""ATKD against dense float64 autograd, its identity, and halves that no cut or device moves."""

import dataclasses
import math

import numpy as np
import pytest
import tiny_models as tiny
import torch
from divergence_oracles import kl, logits
from pydantic import ValidationError
from scipy.special import softmax
from small_trainers import SETTINGS, make, micro, weights

from kdstudy import methods
from kdstudy.distill import batches, cache, token_difficulty
from kdstudy.distill.fused import TeacherSide, head_loss, log_of_rest
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.atkd import ATKD, target_and_rest
from kdstudy.methods.objective import Objective
from kdstudy.models.parts import Head

N, V = 6, 40


def charged(s, t, targets, hard, tau=1.0):
    """Return each token's loss, through the fused head with an identity in its place."""
    what = Objective(divergence=target_and_rest, temperature=tau, easy_weight=0.2)
    eye = Head(weight=torch.eye(s.shape[1], dtype=s.dtype))
    losses = [
        head_loss(
            s[i : i + 1],
            eye,
            targets[i : i + 1],
            torch.ones(1),
            what,
            TeacherSide(hidden=t[i : i + 1], head=eye),
            told_N=hard[i : i + 1],
        )[0]
        for i in range(len(s))
    ]
    return torch.stack(losses)


def parts(s, t, targets):
    """TKD and DKD by their definitions; differentiable."""
    q, p = s.softmax(-1), t.softmax(-1)
    rows = torch.arange(len(s))
    p_g, q_g = p[rows, targets], q[rows, targets]
    tkd = p_g * (p_g / q_g).log() + (1 - p_g) * ((1 - p_g) / (1 - q_g)).log()
    others = torch.ones_like(p).scatter(-1, targets[:, None], 0.0)
    p_rest, q_rest = (x * others / (x * others).sum(-1, keepdim=True) for x in (p, q))
    gone = 1 - others
    dkd = (p_rest * ((p_rest + gone) / (q_rest + gone)).log()).sum(-1)
    return tkd, dkd


TARGETS = torch.tensor([0, 7, 39, 3, 3, 12])


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_loss_and_gradient_are_those_of_dense_autograd(tau):
    s, t = (logits(N, V, seed).double() for seed in (1, 2))
    for hard in (torch.zeros(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)):
        x, y = (s.clone().requires_grad_() for _ in range(2))
        tkd, dkd = parts(x / tau, t / tau, TARGETS)
        want = tau**2 * (dkd + hard * tkd)
        got = charged(y, t, TARGETS, hard, tau)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
        (exact,), (gradient,) = (
            torch.autograd.grad(loss.sum(), z) for loss, z in ((want, x), (got, y))
        )
        torch.testing.assert_close(gradient, exact, rtol=1e-10, atol=1e-12)


def test_gradient_matches_finite_differences():
    s, t = (logits(3, 5, seed).double() for seed in (7, 8))
    hard = torch.tensor([True, False, True])
    targets = torch.tensor([4, 0, -1])
    x = s.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: charged(x, t, targets, hard), (x,), eps=1e-6, atol=1e-7
    )


def test_forward_kl_is_tkd_and_the_uncertain_share_of_dkd():
    s, t = (logits(N, V, seed).double() for seed in (1, 2))
    both, dkd = (charged(s, t, TARGETS, torch.full((N,), h)) for h in (True, False))
    p, q = (softmax(x.numpy(), axis=-1) for x in (t, s))
    uncertain = 1 - p[np.arange(N), TARGETS.numpy()]
    tkd = (both - dkd).numpy()
    np.testing.assert_allclose(tkd + uncertain * dkd.numpy(), kl(p, q), rtol=1e-10)


def test_without_a_target_it_is_the_whole_kl():
    s, t = (logits(N, V, seed).double() for seed in (1, 2))
    p, q = (softmax(x.numpy(), axis=-1) for x in (t, s))
    for h in (True, False):
        got = charged(s, t, torch.full((N,), -1), torch.full((N,), h))
        np.testing.assert_allclose(got.numpy(), kl(p, q), rtol=1e-10)


def test_three_tokens_by_hand():
    """T = (1/2, 1/4, 1/4), S = (1/4, 1/4, 1/2), the text's token the first.

    TKD = 1/2 ln 2 + 1/2 ln 2/3; DKD = 1/2 ln 3/2 + 1/2 ln 3/4.
    """
    t, s = (torch.tensor([x]).double().log() for x in ([2.0, 1, 1], [1.0, 1, 2]))
    first = torch.tensor([0])
    dkd = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    tkd = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert charged(s, t, first, first > 0).item() == pytest.approx(dkd, abs=1e-12)
    assert charged(s, t, first, first == 0).item() == pytest.approx(dkd + tkd, abs=1e-12)


def test_a_sure_teacher_leaves_finite_numbers():
    s = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]).requires_grad_()
    t = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]])
    for h in (True, False):
        loss = charged(s, t, torch.tensor([1, 1]), torch.full((2,), h))
        (gradient,) = torch.autograd.grad(loss.sum(), s)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
        assert loss[1].item() == 0 and not gradient[1].any()


def test_equal_models_have_neither_loss_nor_gradient():
    s = logits(N, V, seed=4).double().requires_grad_()
    loss = charged(s, s.detach().clone(), TARGETS, torch.full((N,), True)).sum()
    (gradient,) = torch.autograd.grad(loss, s)
    assert abs(loss.item()) < 1e-12 and gradient.abs().max() < 1e-14


def test_doubts_are_exact_where_they_are_tiny():
    t = torch.tensor([[0.0, 40.0, -1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]).double()
    side = TeacherSide(hidden=t, head=Head(weight=torch.eye(3).double()))
    got = log_of_rest(side, torch.tensor([1, 0, -1]), 2.0)
    first = math.log(1 + math.exp(-0.5)) - math.log(math.exp(20) + 1 + math.exp(-0.5))
    second = math.log((math.exp(0.5) + 1) / (math.e + math.exp(0.5) + 1))
    assert got.tolist() == pytest.approx([first, second, 0.0], rel=1e-12, abs=1e-12)


def pair():
    student, teacher = tiny.qwen(0).double().eval(), tiny.qwen(1, width=24).double().eval()
    return student, LiveTeacher(teacher, tiny.VOCABULARY)


def dense_loss(student, live, rows, easy_weight=0.2):
    """The loss of a step from whole logits: means over each half."""
    read = []
    for row in rows:
        ids = torch.tensor([row.ids])
        places = torch.tensor(list(row.scored)) - 1
        read.append(
            [m(input_ids=ids).logits[0, places] for m in (student, live.model)]
            + [torch.tensor([row.ids[i] for i in row.scored])]
        )
    s, t, targets = (torch.cat(part) for part in zip(*read, strict=True))
    tkd, dkd = parts(s, t, targets)
    doubt = (1 - t.softmax(-1)[torch.arange(len(t)), targets]).detach()
    easy = doubt < np.median(doubt.numpy())
    return easy_weight * dkd[easy].mean() + (1 - easy_weight) * (tkd + dkd)[~easy].mean()


def test_the_step_is_the_mean_over_each_half():
    student, live = pair()
    rows = tiny.rows(6, seed=3)
    weighing = batches.Weighing()
    model = DistillModel(student, ATKD().recipe(), live)
    total = sum(len(weighing.scored(row)) for row in rows)
    want = dense_loss(student, live, rows)
    for cut in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
        made = [batches.collate(part, weighing, torch.device("cpu")) for part in cut]
        told = token_difficulty.of_method(model.method, live, weighing).told_apart(
            made, lambda m: m
        )
        got = sum(model(batch, total)[0] for batch in told)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    states = cache.in_memory(live, rows, "response", rows_per_pass=2)
    kept = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")
    (told,) = token_difficulty.of_method(model.method, kept, weighing).told_apart(
        [batches.collate(rows, weighing, torch.device("cpu"))], lambda m: m
    )
    cached, _ = DistillModel(student, ATKD().recipe(), kept)(told)
    assert cached.item() / total == pytest.approx(want.item(), rel=1e-10)


def test_validation_measures_the_plain_cross_entropy():
    student, live = pair()
    rows = tiny.rows(6, seed=3)
    batch = batches.collate(rows, batches.Weighing(), torch.device("cpu"))
    model = DistillModel(student, ATKD().recipe(), live)
    (told,) = token_difficulty.of_method(model.method, live, batches.Weighing()).told_apart(
        [batch], lambda m: m
    )
    _, entropy = model(told)
    _, want = DistillModel(student, methods.Sft().recipe())(batch)
    assert entropy.item() == pytest.approx(want.item(), rel=1e-12)
    with pytest.raises(ValueError, match="which tokens are hard"):
        model(batch)


SHORT = SETTINGS.model_copy(update={"evaluations": 2, "epochs": 1})


def test_a_run_is_the_same_however_a_step_is_cut(tmp_path):
    ends = []
    for size in (1, 4):
        trainer = make(tmp_path / str(size), ATKD(), micro(size, SHORT))
        trainer.run()
        ends.append(weights(trainer))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=2e-4, atol=2e-5)


def test_a_row_is_asked_about_once():
    _, live = pair()
    rows, asked = tiny.rows(3, seed=3), []
    watched = dataclasses.make_dataclass("Watched", ["width", "head", "hidden"])(
        live.width, live.head, lambda batch: asked.append(len(batch.texts)) or live.hidden(batch)
    )
    found = token_difficulty.of_method(ATKD().recipe(), watched, batches.Weighing())
    for _ in range(2):
        found.told_apart(
            [batches.collate(rows, batches.Weighing(), torch.device("cpu"))], lambda m: m
        )
    assert asked == [1, 1, 1]


def test_fields():
    assert methods.named({"type": "atkd"}).recipe().objective.easy_weight == 0.2
    with pytest.raises(ValidationError, match="averages easy and hard tokens apart"):
        ATKD(hard_label_weight=0.1)
