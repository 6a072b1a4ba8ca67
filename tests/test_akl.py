"""Adaptive KL against float64 by sorting, autograd, hand numbers, and heads of every length."""

import numpy as np
import pytest
import torch
from divergence_oracles import charged, kl, logits
from scipy.special import softmax

from kdstudy import methods
from kdstudy.distill import compiled
from kdstudy.methods import akl
from kdstudy.methods.akl import AKL, adaptive_kl, released_adaptive_kl
from kdstudy.methods.objective import Objective

BOTH = {"paper": adaptive_kl, "released": released_adaptive_kl}


def share_of_head(p, q, mass, head):
    """The head's share of the gap, row by row, by sorting."""
    found = []
    for p_V, q_V in zip(p, q, strict=True):
        order = np.argsort(-p_V)
        sums = np.cumsum(p_V[order])
        size = np.searchsorted(sums, mass) + 1 if head == "paper" else max(1, (sums <= mass).sum())
        gaps = np.abs(p_V - q_V)[order]
        found.append(gaps[:size].sum() / gaps.sum())
    return np.array(found)


def dense(s, t, mass, head, tau=1.0):
    p, q = (softmax(x.detach().double().numpy() / tau, axis=-1) for x in (t, s))
    share = share_of_head(p, q, mass, head)
    return tau**2 * (share * kl(p, q) + (1 - share) * kl(q, p))


CASES = [(3, 0.5, 3.0), (40, 0.5, 0.3), (130, 0.9, 0.1), (2600, 0.5, 3.0), (2600, 0.99, 0.2)]


@pytest.mark.parametrize("head", BOTH)
@pytest.mark.parametrize(("width", "mass", "scale"), CASES)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_matches_sorting_in_float64(head, width, mass, scale, tau):
    s, t = (logits(7, width, seed, scale).double() for seed in (1, 2))
    what = Objective(divergence=BOTH[head], parameter=mass, temperature=tau)
    want = dense(s, t, mass, head, tau)
    np.testing.assert_allclose(charged(s, t, what).numpy(), want, rtol=1e-10, atol=1e-13)
    narrow = charged(s.float(), t.float(), what).numpy()
    np.testing.assert_allclose(narrow, want, rtol=1e-4)


@pytest.mark.parametrize("head", BOTH)
def test_the_gradient_is_that_of_fixed_weights(head):
    s, t = (logits(6, 200, seed).double() for seed in (1, 2))
    x = s.clone().requires_grad_()
    what = Objective(divergence=BOTH[head], parameter=0.6)
    (got,) = torch.autograd.grad(charged(x, t, what).sum(), x)
    share = torch.tensor(share_of_head(*(softmax(y.numpy(), axis=-1) for y in (t, s)), 0.6, head))
    y = s.clone().requires_grad_()
    ps, pt = y.log_softmax(-1), t.log_softmax(-1)
    forward, reverse = (pt.exp() * (pt - ps)).sum(-1), (ps.exp() * (ps - pt)).sum(-1)
    (want,) = torch.autograd.grad((share * forward + (1 - share) * reverse).sum(), y)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_three_tokens_by_hand():
    """T = (0.6, 0.3, 0.1), S = (0.3, 0.6, 0.1): half of the gap in a head of one, all in two."""
    t, s = (
        torch.tensor([x], dtype=torch.float64).log() for x in ([0.6, 0.3, 0.1], [0.3, 0.6, 0.1])
    )
    forward = 0.6 * np.log(2) + 0.3 * np.log(0.5)
    assert kl(t.exp().numpy(), s.exp().numpy())[0] == pytest.approx(forward)
    for mass, head, share in [
        (0.5, "paper", 0.5),
        (0.7, "paper", 1.0),
        (0.7, "released", 0.5),
        (0.95, "released", 1.0),
    ]:
        value, slope = BOTH[head](s, t, mass)
        assert value.sum().item() == pytest.approx(forward)  # both KLs are the same here
        # At the second token T - S is -0.3; the slopes of the two KLs are -T and S (log S/T + 1).
        want = -share * 0.3 + (1 - share) * 0.6 * (np.log(2) + 1)
        assert slope[0, 1].item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("head", BOTH)
def test_equal_models_have_neither_loss_nor_gradient(head):
    s = logits(4, 300, seed=4).double().requires_grad_()
    loss = charged(s, s.detach().clone(), Objective(divergence=BOTH[head], parameter=0.5))
    loss.sum().backward()
    assert loss.abs().max() == 0 and s.grad.abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_and_extreme_logits_stay_finite(dtype):
    s = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype).requires_grad_()
    t = torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    for divergence in BOTH.values():
        loss = charged(s, t, Objective(divergence=divergence, parameter=0.5))
        (grad,) = torch.autograd.grad(loss.sum(), s)
        assert torch.isfinite(loss).all() and torch.isfinite(grad).all()
        assert loss[1].item() == 0


@pytest.mark.parametrize(("width", "most"), [(50, 16), (64, 1), (1100, 16), (2597, 16), (2597, 40)])
def test_the_largest_numbers_are_found_by_blocks(width, most):
    numbers = logits(9, width, seed=3)
    values, places = akl._top(numbers, most)
    want = numbers.sort(descending=True)
    assert torch.equal(values, want.values[:, :most]) and torch.equal(
        places, want.indices[:, :most]
    )


def test_it_compiles(monkeypatch):
    s, t = (logits(6, 1100, seed, scale=0.5) for seed in (1, 2))
    what = Objective(divergence=adaptive_kl, parameter=0.5)
    want = charged(s, t, what)
    monkeypatch.setattr(compiled, "DEVICES", {"cpu"})
    got = charged(s, t, what)
    if compiled._broken:
        pytest.skip("no C++ compiler here: the loss runs uncompiled")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)


def test_fields():
    assert methods.named({"type": "akl"}) == AKL(head_mass=0.5, head="paper")
    recipe = AKL(head="released", head_mass=0.3).recipe()
    assert recipe.objective.divergence is released_adaptive_kl
    assert recipe.objective.parameter == 0.3
