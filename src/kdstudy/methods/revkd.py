"""Reverse distillation: reverse KL at every token of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence

if TYPE_CHECKING:
    from torch import Tensor


def reverse_kl(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(S || T) (the paper's Eq. 2); `parameter` is added to S's probabilities."""
    probability = s.exp()
    weight = probability + parameter
    return weight * (s - t), probability * (s - t) + weight


class RevKD(Divergence):
    """KL(student || teacher) on the corpus's tokens (the paper's Eq. 2)."""

    color = "#009e73"
    preset: ClassVar[Mapping[str, Any]] = {
        "normalisation": "sequences",
        "probability_epsilon": 1e-9,
    }
    terms = staticmethod(reverse_kl)

    type: Literal["revkd"] = "revkd"
    """Which method this is."""
    probability_epsilon: float = Field(default=0.0, ge=0)
    """Added to the student's probabilities; the released code adds 1e-9."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.probability_epsilon
