"""Noise on a teacher's logits: seconds of ours, and of a generator for every token.

Peer: torch's own `randn` from a generator that each token's seed starts, a row at a time, which is
blind to neighbours too. Shapes: a step of the demo's (zoo vocabulary) and one chunk of a vocabulary
of 151,936, in the types in which their teachers give logits. Every call gets fresh logits.
"""

from typing import Any

import torch
from measure import interleaved
from scipy.stats import kstest
from torch import Tensor

from kdstudy.distill.noise import Noise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = [(1000, 2048, torch.float32), (200, 151_936, torch.float32), (200, 151_936, torch.bfloat16)]


def run(repeats: int) -> list[dict[str, Any]]:
    """Return one row for each case."""
    return [_row(*case, repeats) for case in CASES]


def on_a_gpu(tiny: bool) -> list[dict[str, Any]]:
    """Return rows of a part of `gpu`."""
    return [_row(50, 2048, torch.float32, 1)] if tiny else run(5)


def _row(tokens: int, width: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    seeds_N = torch.arange(tokens, device=DEVICE) * 10**12
    logits_NV = torch.randn(tokens, width, device=DEVICE).to(dtype)

    def once(add: Any) -> int:
        add(logits_NV.clone())
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return tokens * width

    def ours(logits_NV: Tensor) -> Tensor:
        return Noise(2.0, seeds_N)(logits_NV, slice(0, tokens))

    drawn = ours(torch.zeros_like(logits_NV)).flatten()[:1_000_000].cpu()
    assert kstest(drawn.double() / 2, "norm").pvalue > 1e-6
    seeds = seeds_N.tolist()
    once(ours), once(lambda x: a_generator_a_token(x, seeds, 2.0))
    timed = interleaved(
        lambda: once(lambda x: a_generator_a_token(x, seeds, 2.0)), lambda: once(ours), repeats
    )
    return {
        "case": f"{tokens} tokens, vocabulary {width}, {str(dtype).removeprefix('torch.')}, "
        f"{DEVICE}, {torch.get_num_threads()} threads",
        "peer": "torch.randn, one generator a token",
        "ratio": timed.ratio,
        "nanoseconds": timed.ours * 1e9,
        "nanoseconds_peer": timed.peer * 1e9,
    }


def a_generator_a_token(logits_CV: Tensor, seeds: list[int], scale: float) -> Tensor:
    """Return the logits, disturbed row by row."""
    noisy_CV = logits_CV.float()
    generator = torch.Generator(device=logits_CV.device)
    for row_V, seed in zip(noisy_CV, seeds, strict=True):
        drawn_V = torch.randn(
            row_V.shape, generator=generator.manual_seed(seed), device=row_V.device
        )
        row_V.add_(drawn_V, alpha=scale)
    return noisy_CV
