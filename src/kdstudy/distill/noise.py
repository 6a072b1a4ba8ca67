"""Gaussian noise on a teacher's logits, a function of a token's seed and a vocabulary entry alone.

A counter-based generator: every number is computed from where it stands, so that a chunk of tokens
is one kernel on a GPU, on a CPU a few passes over blocks that stay in the cache, and neither
neighbours, cuts nor devices matter. Numbers of unlike devices differ by the rounding of float32.

A token's bits are the outputs of SplitMix64 (Steele, Lea and Flood 2014) from a start that its
seed, mixed in the same way, gives; the starts lie so far apart that two of a million tokens have a
stretch in common with a probability of 0.4%. The j-th output, 64 bits, becomes a pair of normal
numbers (Box and Muller 1958) for the entries j and j + P, which therefore depend on the width V.

Shapes: N scored tokens, C of them, V vocabulary entries, P = V / 2 pairs of them, rounded up.
"""

import dataclasses
import math

import torch
from torch import Tensor

from kdstudy.distill import compiled

# Pairs of a block: its temporaries stay in the cache, and calls cost little beside the work.
_BLOCK = 2**16
# SplitMix64's constants, as signed numbers of 64 bits.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise on the teacher's logits, as `fused.Disturb`.

    Attributes:
        scale: Standard deviation.
        seeds_N: One seed for each scored token, int64; neighbouring seeds are unlike seeds.
    """

    scale: float
    seeds_N: Tensor

    def __call__(self, logits_CV: Tensor, at: slice) -> Tensor:
        """Return the logits of the tokens `at`, disturbed, in float32 at least.

        Logits that are wide enough are written over.
        """
        noisy_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        seeds_C = self.seeds_N[at]
        if compiled.attempt(_add, noisy_CV, seeds_C, scale=self.scale):
            return noisy_CV
        rows = max(1, 2 * _BLOCK // max(1, noisy_CV.shape[1]))
        for block_CV, seed_C in zip(noisy_CV.split(rows), seeds_C.split(rows), strict=True):
            _add(block_CV, seed_C, scale=self.scale)
        return noisy_CV

    def of(self, tokens_K: Tensor) -> "Noise":
        """Return the noise of some of the tokens: each keeps its own."""
        return Noise(self.scale, self.seeds_N[tokens_K])


def _add(logits_CV: Tensor, seeds_C: Tensor, *, scale: float) -> bool:
    """Add the noise to the logits; compiled on a GPU, where it is one pass over the memory."""
    width = logits_CV.shape[1]
    pairs = (width + 1) // 2
    steps_P = torch.arange(pairs, device=logits_CV.device) * _GOLDEN
    bits_CP = _mixed(_mixed(seeds_C[:, None].clone()) + steps_P)
    # 32 of the 64 bits are an angle in [-pi, pi), the 31 highest a number in (0, 1]: fine enough
    # for the tail up to 6.6 standard deviations.
    angle_CP = bits_CP.to(torch.int32).float().mul_(math.pi / 2**31)
    uniform_CP = _shifted(bits_CP, 33).float().add_(0.5).mul_(2.0**-31)
    radius_CP = uniform_CP.log_().mul_(-2 * scale * scale).sqrt_()
    logits_CV[:, :pairs].addcmul_(radius_CP, angle_CP.cos())
    rest = width - pairs
    logits_CV[:, pairs:].addcmul_(radius_CP[:, :rest], angle_CP.sin_()[:, :rest])
    return True


def _mixed(bits: Tensor) -> Tensor:
    """Put SplitMix64's finaliser of each number in its place: every bit hangs on all."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        bits.bitwise_xor_(_shifted(bits, shift)).mul_(multiplier)
    return bits.bitwise_xor_(_shifted(bits, 31))


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Return the bits shifted right, zeros moving in: torch's own shift keeps the sign."""
    return (bits >> places).bitwise_and_(2 ** (64 - places) - 1)
