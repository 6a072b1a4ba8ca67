"""Skewed forward KL: bounded, as each distribution is compared with a mixture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import log, ratio

if TYPE_CHECKING:
    from torch import Tensor


def skew_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """KL(T || alpha * T + (1 - alpha) * S) (Ko et al. 2024, DistiLLM, section 3.1)."""
    student, teacher = s.exp(), t.exp()
    mixture = parameter * teacher + (1 - parameter) * student
    pull = (1 - parameter) * student * teacher
    return teacher * (t - log(mixture)), -ratio(pull, mixture)


class SkewKL(Divergence):
    """KL(T || alpha*T + (1-alpha)*S) on the corpus's tokens (DistiLLM, Ko et al. 2024)."""

    terms = staticmethod(skew_kl)

    type: Literal["skew_kl"] = "skew_kl"
    """Which method this is."""
    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the teacher in the student's place; 0 is word_kd."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.alpha
