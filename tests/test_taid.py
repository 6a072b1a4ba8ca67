"""TAID against dense float64 autograd, its schedule by hand, and exact resuming."""

import dataclasses
import itertools
import math
import shutil

import numpy as np
import pytest
import tiny_models as tiny
import torch
from divergence_oracles import charged, logits
from pydantic import ValidationError
from scipy.special import softmax
from small_trainers import SETTINGS, make, micro, weights

from kdstudy import methods
from kdstudy.distill import batches, cache
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.objective import Objective
from kdstudy.methods.taid import TAID, interpolated_cross_entropy, interpolated_kl

BOTH = (interpolated_kl, interpolated_cross_entropy)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_loss_and_gradient_are_those_of_dense_autograd(share, tau):
    s, t = (logits(5, 40, seed).double() for seed in (1, 2))
    x = s.clone().requires_grad_()
    middle = ((1 - share) * x.detach() / tau + share * t / tau).softmax(-1)
    kl = (middle * (middle.log() - (x / tau).log_softmax(-1))).sum(-1) * tau**2
    (want,) = torch.autograd.grad(kl.sum(), x)
    entropy = tau**2 * (middle * middle.log()).sum(-1)
    for divergence, exact in zip(BOTH, (kl, kl - entropy), strict=True):
        y = s.clone().requires_grad_()
        what = Objective(divergence=divergence, parameter=share, temperature=tau)
        loss = charged(y, t, what)
        torch.testing.assert_close(loss, exact, rtol=1e-10, atol=1e-12)
        (got,) = torch.autograd.grad(loss.sum(), y)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_three_tokens_by_hand():
    """Half-way between T = (9, 4, 1) / 14 and S = (1, 4, 9) / 14 lies M = (3, 4, 3) / 10."""
    t, s = (torch.tensor([x]).double().log() for x in ([9.0, 4, 1], [1.0, 4, 9]))
    what = Objective(divergence=interpolated_kl, parameter=0.5)
    want = 0.3 * math.log(4.2) + 0.4 * math.log(1.4) + 0.3 * math.log(0.3 * 14 / 9)
    assert charged(s, t, what).item() == pytest.approx(want, abs=1e-12)


def test_near_the_student_there_is_nothing_to_learn_and_at_one_it_is_forward_kl():
    s, t = (logits(5, 40, seed).double() for seed in (1, 2))
    x = s.clone().requires_grad_()
    loss = charged(x, t, Objective(divergence=interpolated_kl, parameter=0.0))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.abs().max() < 1e-12 and gradient.abs().max() < 1e-12
    x = s.clone().requires_grad_()
    loss = charged(x, t, Objective(divergence=interpolated_kl, parameter=1.0)).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    gap = softmax(s.numpy(), axis=-1) - softmax(t.numpy(), axis=-1)
    np.testing.assert_allclose(gradient.numpy(), gap, rtol=1e-10, atol=1e-12)


def test_equal_models_have_neither_loss_nor_gradient():
    s = logits(4, 30, seed=4).double().requires_grad_()
    loss = charged(s, s.detach(), Objective(divergence=interpolated_kl, parameter=0.7)).sum()
    (gradient,) = torch.autograd.grad(loss, s)
    assert abs(loss.item()) < 1e-12 and gradient.abs().max() < 1e-14


def share(pace, progress):
    return pace.objective(progress, sampled=False).parameter


def test_the_linear_schedule_is_a_line():
    pace = TAID(schedule="linear", share_start=0.2, share_end=0.8).recipe().pace()
    assert not pace.listens
    assert [share(pace, i / 4) for i in range(4)] == pytest.approx([0.2, 0.35, 0.5, 0.65])


def test_the_adaptive_schedule_by_hand():
    """Losses 2, 1, 1 with momentum 1/2: the running means are 1/4 and 1/8."""
    pace = TAID(step_size=0.5, momentum=0.5, share_start=0.4).recipe().pace()
    assert pace.listens
    got = [share(pace, 0.0)]
    for loss in (2.0, 1.0, 1.0):
        pace.seen(loss)
        got.append(share(pace, 0.0))
    one = 0.4 + 0.5 * 0.6 / (1 + math.exp(-0.25))
    two = one + 0.5 * (1 - one) / (1 + math.exp(-0.125))
    assert got == pytest.approx([0.4, 0.4, one, two])
    assert share(pace, 0.95) == pytest.approx(0.4 + 0.6 * 0.95)  # never behind the line
    assert share(pace, 0.0) == pytest.approx(0.4 + 0.6 * 0.95)  # nor back


def test_the_schedule_ends_where_it_should():
    pace = TAID(step_size=1.0, share_end=0.7).recipe().pace()
    for loss in (3.0, 1.0, 0.5):
        pace.seen(loss)
    assert share(pace, 0.0) == 0.7


def test_each_run_has_a_pace_of_its_own():
    recipe = TAID(step_size=1.0).recipe()
    first, second = recipe.pace(), recipe.pace()
    for loss in (2.0, 1.0):
        first.seen(loss)
    assert share(first, 0.0) > share(second, 0.0) == 0.4


def test_fields():
    assert methods.named({"type": "taid"}).recipe().objective.parameter == 1.0
    with pytest.raises(ValidationError, match=r"share_end 0\.3 is below share_start 0\.4"):
        TAID(share_end=0.3)


METHOD = TAID(step_size=0.2, momentum=0.5)
SHORT = SETTINGS.model_copy(update={"evaluations": 4})


class Shares:
    """The share and the loss of each step of a run, as the trainer had them."""

    def __init__(self, trainer):
        self.seen, inner = [], trainer._pacing._pace
        original = inner.seen

        def seen(loss):
            self.seen.append((inner.state["share"], loss))
            original(loss)

        inner.seen = seen


def test_a_run_follows_the_schedule_of_its_own_losses(tmp_path):
    trainer = make(tmp_path, METHOD, SHORT)
    shares = Shares(trainer)
    trainer.run()
    steps = trainer.args.max_steps
    assert len(shares.seen) == steps
    u, m, before = 0.4, 0.0, None
    for step, (got, loss) in enumerate(shares.seen):
        u = max(u, 0.4 + 0.6 * step / steps)
        assert got == pytest.approx(u, rel=1e-12)
        if before is not None:
            m = 0.5 * m + 0.5 * (before - loss) / before
            u = min(1.0, u + 0.2 * (1 - u) / (1 + math.exp(-m)))
        before = loss


def test_its_first_step_is_that_of_the_mixture_and_validation_that_of_the_teacher(tmp_path):
    student, teacher = tiny.qwen(0).eval(), tiny.qwen(1, width=24).eval()
    live, rows = LiveTeacher(teacher, tiny.VOCABULARY), tiny.rows(4, seed=3)
    batch = batches.collate(rows, batches.Weighing(), torch.device("cpu"))
    model = DistillModel(student, METHOD.recipe(), live)
    kl, _ = DistillModel(student, methods.WordKD().recipe(), live)(batch)
    assert model(batch)[0].item() == pytest.approx(kl.item(), rel=1e-6)
    objective = METHOD.recipe().pace().objective(0.0, sampled=False)
    mixed = model(dataclasses.replace(batch, objective=objective))[0].item()
    assert 0 < mixed < 0.5 * kl.item()
    states = cache.in_memory(live, rows, "response", rows_per_pass=2)
    kept = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response")
    cached = DistillModel(student, METHOD.recipe(), kept)
    again = cached(dataclasses.replace(batch, objective=objective))[0].item()
    assert again == pytest.approx(mixed, rel=1e-6)


def test_how_a_step_is_cut_changes_rounding_alone(tmp_path):
    ends = []
    for size in (1, 4):
        trainer = make(tmp_path / str(size), METHOD, micro(size, SHORT))
        trainer.run()
        ends.append((weights(trainer), trainer._pacing.state()))
    (first, state), (second, other) = ends
    assert state == pytest.approx(other, rel=1e-4)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=2e-4, atol=2e-5)


def test_a_resumed_run_has_the_same_bits(tmp_path):
    whole = make(tmp_path / "whole", METHOD, SHORT)
    whole.run()
    make(tmp_path / "cut", METHOD, SHORT).run()
    for last in sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))[2:]:
        shutil.rmtree(last)
    again = make(tmp_path / "cut", METHOD, SHORT)
    assert again._pacing.state()["share"] == 0.4
    again.run()
    assert again._initial_global_step > 0
    assert again._pacing.state() == whole._pacing.state()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    losses = [
        [entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, again)
    ]
    assert losses[0] == losses[1]
    assert all(a != b for a, b in itertools.pairwise(losses[0]))
