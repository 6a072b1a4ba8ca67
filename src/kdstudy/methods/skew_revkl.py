"""Skewed reverse KL: bounded, as each distribution is compared with a mixture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import log, ratio

if TYPE_CHECKING:
    from torch import Tensor


def skew_reverse_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """KL(S || alpha * S + (1 - alpha) * T) (Ko et al. 2024, DistiLLM, section 3.1)."""
    student, teacher = s.exp(), t.exp()
    mixture = parameter * student + (1 - parameter) * teacher
    value = student * (s - log(mixture))
    return value, value + student - ratio(parameter * student * student, mixture)


class SkewRevKL(Divergence):
    """KL(S || alpha*S + (1-alpha)*T) on the corpus's tokens (DistiLLM, Ko et al. 2024)."""

    terms = staticmethod(skew_reverse_kl)

    type: Literal["skew_revkl"] = "skew_revkl"
    """Which method this is."""
    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the student in the teacher's place; 0 is revkd."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.alpha
