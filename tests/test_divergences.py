"""Divergences against scipy in float64, closed forms, limits and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from kdstudy.distill import divergences as d

PAIRED = {
    "forward": d.forward_kl,
    "reverse": d.reverse_kl,
    "jsd": lambda s, t, tau=1.0: d.jsd(s, t, tau, beta=0.3),
}


def logits(n: int, v: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed)) * scale


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return rel_entr(p, q).sum(-1)


def oracle(name: str, s: torch.Tensor, t: torch.Tensor, tau: float) -> np.ndarray:
    ps = softmax(s.double().numpy() / tau, axis=-1)
    pt = softmax(t.double().numpy() / tau, axis=-1)
    m = 0.3 * pt + 0.7 * ps
    value = {
        "forward": lambda: kl(pt, ps),
        "reverse": lambda: kl(ps, pt),
        "jsd": lambda: 0.3 * kl(pt, m) + 0.7 * kl(ps, m),
    }[name]()
    return value * tau**2


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (7, 31), (2, 123)])
@pytest.mark.parametrize("tau", [0.5, 1.0, 5.0])
def test_matches_scipy_in_float64(name, shape, tau):
    s, t = logits(*shape, seed=1), logits(*shape, seed=2)
    got = PAIRED[name](s, t, tau)
    assert got.dtype == torch.float32 and got.shape == shape[:1]
    np.testing.assert_allclose(got.numpy(), oracle(name, s, t, tau), rtol=2e-5, atol=1e-6)


def test_cross_entropy_is_minus_log_probability_of_the_target():
    s, targets = logits(6, 9, seed=3), torch.tensor([0, 8, 1, 2, 5, 5])
    p = softmax(s.double().numpy(), axis=-1)
    want = -np.log(p[np.arange(6), targets.numpy()])
    np.testing.assert_allclose(d.cross_entropy(s, targets).numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_equal_models_have_no_divergence_and_no_gradient(name, tau):
    s = logits(4, 11, seed=4).requires_grad_()
    loss = PAIRED[name](s, s.detach().clone(), tau)
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert s.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("beta", "want"),
    # T = (3/4, 1/4), S = (1/4, 3/4), by hand. beta = 1/4: M = (3/8, 5/8),
    # KL(T||M) = 3/4 ln 2 + 1/4 ln 2/5 = 0.290788, KL(S||M) = 1/4 ln 2/3 + 3/4 ln 6/5 = 0.035375.
    # With the mixture's weights swapped it would be 0.226934.
    [(0.5, 0.130812036), (0.25, 0.099228094)],
)
def test_jsd_has_the_teacher_weighted_by_beta_in_the_mixture(beta, want):
    t, s = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    assert d.jsd(s, t, beta=beta).item() == pytest.approx(want, rel=1e-5)


def test_kl_of_two_coins_by_hand():
    t, s = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    assert d.forward_kl(s, t).item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    assert d.reverse_kl(s, t).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_jsd_tends_to_both_kls():
    s, t = logits(5, 7, seed=5, scale=1.0).double(), logits(5, 7, seed=6, scale=1.0).double()
    small = 1e-6
    torch.testing.assert_close(
        d.jsd(s, t, beta=small) / small, d.forward_kl(s, t), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        d.jsd(s, t, beta=1 - small) / small, d.reverse_kl(s, t), rtol=1e-4, atol=1e-6
    )


def test_jsd_is_bounded_by_the_entropy_of_beta():
    s, t = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert d.jsd(s, t, beta=0.5).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_gradient_matches_finite_differences(name, tau):
    s = logits(3, 5, seed=7).double().requires_grad_()
    t = logits(3, 5, seed=8).double()
    assert torch.autograd.gradcheck(lambda x: PAIRED[name](x, t, tau), (s,), eps=1e-6, atol=1e-7)


def test_the_gradient_of_forward_kl_is_temperature_times_the_probability_gap():
    s, t, tau = logits(3, 6, seed=9).requires_grad_(), logits(3, 6, seed=10), 4.0
    d.forward_kl(s, t, tau).sum().backward()
    gap = softmax(s.detach().numpy() / tau, axis=-1) - softmax(t.numpy() / tau, axis=-1)
    np.testing.assert_allclose(s.grad.numpy(), tau * gap, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_extreme_logits_stay_finite(name):
    s = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]).requires_grad_()
    t = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]])
    loss = PAIRED[name](s, t)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(s.grad).all()
    assert loss[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_bfloat16_logits_are_scored_in_float32(name):
    s, t = logits(4, 50, seed=11).bfloat16(), logits(4, 50, seed=12).bfloat16()
    want = oracle(name, s.float(), t.float(), 1.0)
    np.testing.assert_allclose(PAIRED[name](s, t).numpy(), want, rtol=1e-4, atol=1e-6)
