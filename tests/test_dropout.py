"""Dropout: its rate, its independence, its scale and its gradient."""

import pytest
import tiny_models as tiny
import torch
from torch import nn

from kdstudy.config import schema
from kdstudy.models import load
from kdstudy.models.dropout import Dropout, quicken

N = 1 << 20


def ones(p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(N // 1024, 1024)).view(-1)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_is_p_and_the_mean_is_kept(p):
    out = ones(p)
    sigma = (p * (1 - p) / N) ** 0.5
    assert abs((out == 0).double().mean().item() - p) < 5 * sigma + 1 / 65536
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1 / 65536 / (1 - p))
    assert abs(out.double().mean().item() - 1) < 5 * sigma / (1 - p)


def test_elements_fall_out_independently():
    """Four elements share a draw: their patterns, and pairs at any distance, are those of coins."""
    gone = (ones(0.5) == 0).view(-1, 4).long()
    counts = (gone * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    expected = len(gone) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 44.3  # chi square, 15 degrees, 1e-4
    signs = 1 - 2 * gone.view(-1).double()
    for lag in (1, 2, 3, 4, 5, 8, 1024, 2048):
        assert abs((signs[lag:] * signs[:-lag]).mean()) < 5 / N**0.5


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_passes_where_the_value_did(shape, dtype):
    x = (torch.rand(shape) + 1).to(dtype).requires_grad_()
    out = Dropout(0.25)(x)
    out.sum().backward()
    torch.testing.assert_close(out, x * x.grad)
    assert out.dtype == dtype and out.shape == x.shape


def test_it_is_off_in_eval_mode_and_the_generator_decides():
    x = torch.ones(100)
    assert torch.equal(Dropout(0.5).eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(100))
    assert torch.equal(ones(0.1, 3), ones(0.1, 3)) and not torch.equal(ones(0.1, 3), ones(0.1, 4))


def test_an_adapters_dropout_is_replaced_and_nothing_else():
    model = load.add_adapter(tiny.qwen(0), schema.Lora(dropout=0.1), seed=1)
    before = {n: type(m) for n, m in model.named_modules()}
    quicken(model)
    found = [n for n, m in model.named_modules() if type(m) is not before[n]]
    assert found and all("lora_dropout" in name for name in found)
    assert not any(type(m) is nn.Dropout for m in model.modules())
    assert {m.p for m in model.modules() if isinstance(m, Dropout)} == {0.1}
