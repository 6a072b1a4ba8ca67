"""The alpha-beta divergence: hand numbers, its corners, and what it refuses."""

import itertools
import math

import pytest
import torch
from divergence_oracles import charged, kl, logits
from pydantic import ValidationError
from scipy.special import softmax

from kdstudy import methods
from kdstudy.methods.alpha_beta import AlphaBeta, alpha_beta
from kdstudy.methods.objective import Objective


def between(s, t, a, b):
    return charged(s, t, Objective(divergence=alpha_beta, parameter=(a, b)))


def test_three_tokens_by_hand():
    """T = (1/2, 1/4, 1/4), S = (1/4, 1/4, 1/2); by hand, a = b = 1/2.

    -4 * sum(sqrt(T S) - T / 2 - S / 2) = -4 * (2 sqrt(1/8) + 1/4 - 1).
    """
    t, s = (torch.tensor([x]).double().log() for x in ([2.0, 1, 1], [1.0, 1, 2]))
    assert between(s, t, 0.5, 0.5).item() == pytest.approx(3 - 8 * math.sqrt(1 / 8), abs=1e-12)
    assert between(s, t, 1, 1).item() == pytest.approx((1 / 16 + 0 + 1 / 16) / 2, abs=1e-12)
    assert between(s, t, 0, 0).item() == pytest.approx(math.log(2) ** 2, abs=1e-12)
    # a = 2, b = 1: -1/2 sum(T^2 S - 2/3 T^3 - 1/3 S^3), with eighths of sixty-four.
    want = -((4 - 16 / 3 - 1 / 3) + (1 - 2 / 3 - 1 / 3) + (2 - 2 / 3 - 8 / 3)) / 64 / 2
    assert between(s, t, 2, 1).item() == pytest.approx(want, abs=1e-12)


def test_its_corners_are_the_two_kls_in_value_and_gradient():
    s, t = (logits(6, 9, seed).double() for seed in (1, 2))
    p, q = (softmax(x.numpy(), axis=-1) for x in (t, s))
    for (a, b), want in {(1, 0): kl(p, q), (0, 1): kl(q, p)}.items():
        torch.testing.assert_close(between(s, t, a, b), torch.tensor(want), rtol=1e-10, atol=1e-12)
    x = s.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(between(x, t, 1, 0).sum(), x)
    torch.testing.assert_close(gradient, torch.tensor(q - p), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("b", [0.0, 0.7])
def test_a_power_of_zero_is_the_limit_of_small_powers(b):
    s, t = (logits(6, 9, seed).double() for seed in (1, 2))
    for at in ((0.0, b), (b, 0.0)):
        near = tuple(x or 1e-6 for x in at)
        torch.testing.assert_close(between(s, t, *at), between(s, t, *near), rtol=1e-3, atol=1e-6)


def test_exchanging_the_powers_exchanges_the_models():
    s, t = (logits(6, 9, seed).double() for seed in (1, 2))
    for a, b in itertools.product((0, 0.3, 1), (0, 0.7, 2)):
        torch.testing.assert_close(between(s, t, a, b), between(t, s, b, a), rtol=1e-10, atol=1e-12)


def test_a_power_that_would_magnify_rounding_is_refused():
    assert methods.named({"type": "alpha_beta"}) == AlphaBeta(alpha=0.2, beta=0.7)
    assert AlphaBeta(alpha=0, beta=0.01).recipe().objective.parameter == (0, 0.01)
    for power in (-0.1, 1e-3):
        with pytest.raises(ValidationError):
            AlphaBeta(alpha=power)
