"""Total variation: a bounded, symmetric distance at every token of the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdstudy.methods.base import Divergence

if TYPE_CHECKING:
    from torch import Tensor


def total_variation(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """Half the sum of |S - T| (Wen et al. 2023, f-DISTILL)."""
    student = s.exp()
    gap = student - t.exp()
    return gap.abs() / 2, gap.sign() * student / 2


class TV(Divergence):
    """Total variation distance on the corpus's tokens (Wen et al. 2023)."""

    terms = staticmethod(total_variation)

    type: Literal["tv"] = "tv"
    """Which method this is."""
