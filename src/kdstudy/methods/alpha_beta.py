"""Alpha-beta divergence: one family that holds forward and reverse KL as corners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from kdstudy.methods.base import Divergence

if TYPE_CHECKING:
    from torch import Tensor

# Below it rounding in float32, divided by alpha * beta, would be seen; 0 has formulas of its own.
_LEAST = 0.01


def alpha_beta(s: Tensor, t: Tensor, parameter: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The alpha-beta divergence (Cichocki et al. 2011; ABKD, Wang et al. 2025).

    -1 / (a b) * (T^a S^b - a / (a+b) * T^(a+b) - b / (a+b) * S^(a+b)) with (a, b) = `parameter`,
    neither below 0, and its limits where one is 0 or both are. (1, 0) is KL(T || S), (0, 1) is
    KL(S || T), (1, 1) half the squared difference, (0, 0) half that of the logarithms.
    """
    a, b = parameter
    if a == 0 and b == 0:
        return (s - t).square() / 2, s - t
    student, teacher = ((a + b) * s).exp(), ((a + b) * t).exp()
    if a == 0:
        return (student * (b * (s - t) - 1) + teacher) / b**2, student * (s - t)
    if b == 0:
        return (teacher * (a * (t - s) - 1) + student) / a**2, (student - teacher) / a
    # T^a S^b, written so that equal models give equal numbers to the last bit.
    both = ((a + b) * t + b * (s - t)).exp()
    value = a * (teacher - both) + b * (student - both)
    return value / (a * b * (a + b)), (student - both) / a


class AlphaBeta(Divergence):
    """Alpha-beta divergence on the corpus's tokens (ABKD, Wang et al. 2025)."""

    color = "#332288"
    terms = staticmethod(alpha_beta)

    type: Literal["alpha_beta"] = "alpha_beta"
    """Which method this is."""
    alpha: float = Field(default=0.2, ge=0)
    """Power of the teacher's probabilities: the larger, the more tokens count by how likely the
    teacher finds them. With beta 0, alpha 1 is word_kd."""
    beta: float = Field(default=0.7, ge=0)
    """Power of the student's. With alpha 0, beta 1 is revkd."""

    @property
    def parameter(self) -> tuple[float, float]:
        """The numbers that `terms` is handed."""
        return self.alpha, self.beta

    @field_validator("alpha", "beta")
    @classmethod
    def _zero_or_not_tiny(cls, power: float) -> float:
        if 0 < power < _LEAST:
            raise ValueError(
                f"{power:g} would magnify rounding; write 0, whose formula is the limit, or at "
                f"least {_LEAST}"
            )
        return power
