"""Losses per token against scipy in float64, another library, closed forms and limits.

Through an identity matrix as head, hidden states are logits and their gradient is the logits'.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from divergence_oracles import charged, kl, logits
from scipy.special import softmax
from torch.nn import functional as F

from kdstudy.methods.alpha_beta import alpha_beta
from kdstudy.methods.gkd import jsd, swapped_jsd
from kdstudy.methods.objective import CROSS_ENTROPY, Objective
from kdstudy.methods.revkd import reverse_kl
from kdstudy.methods.skew_kl import skew_kl
from kdstudy.methods.skew_revkl import skew_reverse_kl
from kdstudy.methods.tv import total_variation
from kdstudy.methods.word_kd import forward_kl

ALL = {
    "forward_kl": (forward_kl, 0.0),
    "forward_kl_epsilon": (forward_kl, 0.01),
    "reverse_kl": (reverse_kl, 0.0),
    "reverse_kl_epsilon": (reverse_kl, 0.01),
    "jsd": (jsd, 0.3),
    "swapped_jsd": (swapped_jsd, 0.3),
    "skew_kl": (skew_kl, 0.1),
    "skew_reverse_kl": (skew_reverse_kl, 0.1),
    "total_variation": (total_variation, 0.0),
    "alpha_beta": (alpha_beta, (0.2, 0.7)),
    "alpha_beta_1_0": (alpha_beta, (1.0, 0.0)),
    "alpha_beta_0_1": (alpha_beta, (0.0, 1.0)),
    "alpha_beta_0_half": (alpha_beta, (0.0, 0.5)),
    "alpha_beta_2_0": (alpha_beta, (2.0, 0.0)),
    "alpha_beta_0_0": (alpha_beta, (0.0, 0.0)),
}


def objective(name: str, tau: float = 1.0, **more) -> Objective:
    divergence, parameter = ALL[name]
    return Objective(divergence=divergence, parameter=parameter, temperature=tau, **more)


def oracle(name: str, s: torch.Tensor, t: torch.Tensor, tau: float) -> np.ndarray:
    ps = softmax(s.detach().double().numpy() / tau, axis=-1)
    pt = softmax(t.double().numpy() / tau, axis=-1)
    m, swapped = 0.3 * pt + 0.7 * ps, 0.3 * ps + 0.7 * pt
    logs = np.log(pt) - np.log(ps)
    value = {
        "forward_kl": lambda: kl(pt, ps),
        "forward_kl_epsilon": lambda: ((pt + 0.01) * logs).sum(-1),
        "reverse_kl": lambda: kl(ps, pt),
        "reverse_kl_epsilon": lambda: -((ps + 0.01) * logs).sum(-1),
        "jsd": lambda: 0.3 * kl(pt, m) + 0.7 * kl(ps, m),
        "swapped_jsd": lambda: 0.3 * kl(pt, swapped) + 0.7 * kl(ps, swapped),
        "skew_kl": lambda: kl(pt, 0.1 * pt + 0.9 * ps),
        "skew_reverse_kl": lambda: kl(ps, 0.1 * ps + 0.9 * pt),
        "total_variation": lambda: np.abs(ps - pt).sum(-1) / 2,
        "alpha_beta": lambda: (
            -(pt**0.2 * ps**0.7 - 2 / 9 * pt**0.9 - 7 / 9 * ps**0.9).sum(-1) / 0.14
        ),
        "alpha_beta_1_0": lambda: kl(pt, ps),
        "alpha_beta_0_1": lambda: kl(ps, pt),
        "alpha_beta_0_half": lambda: 4 * (-(ps**0.5) * (logs / 2 + 1) + pt**0.5).sum(-1),
        "alpha_beta_2_0": lambda: (pt**2 * (2 * logs - 1) + ps**2).sum(-1) / 4,
        "alpha_beta_0_0": lambda: (logs**2).sum(-1) / 2,
    }[name]()
    return value * tau**2


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (7, 31), (2, 123)])
@pytest.mark.parametrize("tau", [0.5, 1.0, 5.0])
def test_matches_scipy_in_float64(name, shape, tau):
    s, t = logits(*shape, seed=1), logits(*shape, seed=2)
    got = charged(s, t, objective(name, tau))
    assert got.dtype == torch.float32 and got.shape == shape[:1]
    # float32 rounding, multiplied by tau squared as the loss is, and by 1 / (alpha * beta).
    rounding = 2e-7 * max(1, tau**2) * (7 if name == "alpha_beta" else 1)
    np.testing.assert_allclose(got.numpy(), oracle(name, s, t, tau), rtol=2e-5, atol=rounding)
    exact = charged(s.double(), t.double(), objective(name, tau))
    np.testing.assert_allclose(exact.numpy(), oracle(name, s, t, tau), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_gradient_matches_finite_differences(name, tau):
    s = logits(3, 5, seed=7).double().requires_grad_()
    t = logits(3, 5, seed=8).double()
    what = objective(name, tau, hard_label_weight=0.25)
    targets = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(
        lambda x: charged(x, t, what, targets), (s,), eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_is_that_of_trl(beta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gkd = pytest.importorskip(
            "trl.experimental.gkd", reason="TRL is the peer: pip install -e '.[dev]'"
        )
    s, t = logits(6, 40, seed=3).double().requires_grad_(), logits(6, 40, seed=4).double()
    # In TRL beta weighs the teacher too, and its ends stand for the two KLs.
    what = {
        0.0: Objective(divergence=forward_kl),
        1.0: Objective(divergence=reverse_kl),
    }.get(beta, Objective(divergence=jsd, parameter=beta))
    ours = charged(s, t, what).sum()
    (gradient,) = torch.autograd.grad(ours, s)
    theirs = gkd.GKDTrainer.generalized_jsd_loss(s, t, beta=beta, reduction="sum")
    (their_gradient,) = torch.autograd.grad(theirs, s)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)  # its beta is a float32
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-6, atol=1e-8)


def test_cross_entropy_is_minus_log_probability_of_the_target():
    s, targets = logits(6, 9, seed=3), torch.tensor([0, 8, 1, 2, 5, 5])
    p = softmax(s.double().numpy(), axis=-1)
    want = -np.log(p[np.arange(6), targets.numpy()])
    got = charged(s, s, CROSS_ENTROPY, targets)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5)


def test_the_hard_label_term_is_mixed_in_at_temperature_one():
    s, t, targets = logits(4, 9, seed=5), logits(4, 9, seed=6), torch.tensor([1, 2, 3, 8])
    what = objective("forward_kl", 3.0, hard_label_weight=0.3)
    entropy = F.cross_entropy(s.double(), targets, reduction="none").numpy()
    want = 0.7 * oracle("forward_kl", s, t, 3.0) + 0.3 * entropy
    np.testing.assert_allclose(charged(s, t, what, targets).numpy(), want, rtol=1e-5)


def test_tau_squared_is_a_switch():
    s, t = logits(4, 9, seed=5), logits(4, 9, seed=6)
    with_it, without = (
        charged(s, t, objective("reverse_kl", 3.0, tau_squared=on)) for on in (True, False)
    )
    torch.testing.assert_close(with_it, 9 * without)


@pytest.mark.parametrize("name", [n for n in ALL if "epsilon" not in n])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_equal_models_have_no_divergence_and_no_gradient(name, tau):
    s = logits(4, 11, seed=4).requires_grad_()
    loss = charged(s, s.detach().clone(), objective(name, tau))
    loss.sum().backward()
    assert loss.abs().max() < 2e-6
    assert s.grad.abs().max() < 2e-6


@pytest.mark.parametrize(
    ("beta", "want"),
    # T = (3/4, 1/4), S = (1/4, 3/4), by hand. beta = 1/4: M = (3/8, 5/8),
    # KL(T||M) = 3/4 ln 2 + 1/4 ln 2/5 = 0.290788, KL(S||M) = 1/4 ln 2/3 + 3/4 ln 6/5 = 0.035375.
    # With the mixture's weights swapped it is 0.226934.
    [(0.5, 0.130812036), (0.25, 0.099228094)],
)
def test_jsd_has_the_teacher_weighted_by_beta_in_the_mixture(beta, want):
    t, s = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    got = charged(s, t, Objective(divergence=jsd, parameter=beta)).item()
    assert got == pytest.approx(want, rel=1e-5)
    swapped = charged(s, t, Objective(divergence=swapped_jsd, parameter=0.25)).item()
    assert swapped == pytest.approx(0.226934, rel=1e-5)


def test_kl_of_two_coins_by_hand():
    t, s = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    forward = charged(s, t, objective("forward_kl")).item()
    assert forward == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    reverse = charged(s, t, objective("reverse_kl")).item()
    assert reverse == pytest.approx(0.5 * math.log(4 / 3))


def test_jsd_and_the_skewed_divergences_tend_to_both_kls():
    s, t = logits(5, 7, seed=5, scale=1.0).double(), logits(5, 7, seed=6, scale=1.0).double()
    small = 1e-6

    def at(divergence, parameter, scale=1.0):
        return charged(s, t, Objective(divergence=divergence, parameter=parameter)) / scale

    forward, reverse = at(forward_kl, 0.0), at(reverse_kl, 0.0)
    for value, limit in [
        (at(jsd, small, small), forward),
        (at(jsd, 1 - small, small), reverse),
        (at(skew_kl, small), forward),
        (at(skew_reverse_kl, small), reverse),
    ]:
        torch.testing.assert_close(value, limit, rtol=1e-4, atol=1e-6)


def test_bounds_are_reached_by_models_without_common_tokens():
    s, t = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    half = Objective(divergence=jsd, parameter=0.5)
    assert charged(s, t, half).item() == pytest.approx(math.log(2), rel=1e-6)
    assert charged(s, t, objective("total_variation")).item() == pytest.approx(1)
    assert charged(s, t, objective("skew_kl")).item() == pytest.approx(-math.log(0.1), rel=1e-5)


def test_the_gradient_of_forward_kl_is_temperature_times_the_probability_gap():
    s, t, tau = logits(3, 6, seed=9).requires_grad_(), logits(3, 6, seed=10), 4.0
    charged(s, t, objective("forward_kl", tau)).sum().backward()
    gap = softmax(s.detach().numpy() / tau, axis=-1) - softmax(t.numpy() / tau, axis=-1)
    np.testing.assert_allclose(s.grad.numpy(), tau * gap, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(name, dtype):
    s = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype).requires_grad_()
    t = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype)
    loss = charged(s, t, objective(name))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(s.grad).all()
    assert loss[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_logits_are_scored_in_float32(name):
    s, t = logits(4, 50, seed=11).bfloat16(), logits(4, 50, seed=12).bfloat16()
    want = oracle(name, s.float(), t.float(), 1.0)
    got = charged(s, t, objective(name)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
