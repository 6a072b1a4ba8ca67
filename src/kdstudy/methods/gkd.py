"""Generalised distillation: Jensen-Shannon, partly on text that the student samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from kdstudy.methods.base import OnPolicy
from kdstudy.methods.objective import log, ratio

if TYPE_CHECKING:
    from torch import Tensor

    from kdstudy.methods.objective import Terms


def jsd(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Generalised Jensen-Shannon divergence (the paper's Eq. 3-4; Agarwal et al. 2024, Eq. 1).

    beta * KL(T || M) + (1 - beta) * KL(S || M) with M = beta * T + (1 - beta) * S and
    beta = `parameter`. Divided by beta it tends to KL(T || S) as beta goes to 0, and divided by
    1 - beta to KL(S || T) as beta goes to 1.
    """
    student, teacher = s.exp(), t.exp()
    m = log(parameter * teacher + (1 - parameter) * student)
    slope = (1 - parameter) * student * (s - m)
    return parameter * teacher * (t - m) + slope, slope


def swapped_jsd(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """The paper's released code: the terms of `jsd` around M = beta * S + (1 - beta) * T.

    Equal to `jsd` at beta = 0.5 only.
    """
    student, teacher = s.exp(), t.exp()
    mixture = parameter * student + (1 - parameter) * teacher
    m = log(mixture)
    value = parameter * teacher * (t - m) + (1 - parameter) * student * (s - m)
    pull = parameter * student * (parameter * teacher + (1 - parameter) * student)
    return value, (1 - parameter) * student * (s - m + 1) - ratio(pull, mixture)


class GKD(OnPolicy):
    """Generalised JSD on student text with probability lmbda, else on the corpus (Eq. 3-4)."""

    color = "#cc79a7"
    preset: ClassVar[Mapping[str, Any]] = {
        "mixture": "released",
        "tau_squared": False,
        "on_policy_text": "retokenised",
    }

    type: Literal["gkd"] = "gkd"
    """Which method this is."""
    beta: float = 0.5
    """Weight of the teacher in the mixture M = beta*T + (1-beta)*S; strictly between 0 and 1."""
    mixture: Literal["paper", "released"] = "paper"
    """`released`: M = beta*S + (1-beta)*T, as the paper's released code has it."""

    @property
    def terms(self) -> Terms:
        """The divergence."""
        return swapped_jsd if self.mixture == "released" else jsd

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.beta

    @field_validator("beta")
    @classmethod
    def _open_interval(cls, beta: float) -> float:
        if beta in (0, 1):
            other = "word_kd" if beta == 0 else "revkd"
            raise ValueError(
                f"beta {beta:g} makes the divergence zero everywhere; its limit has its own name: "
                f"write {other} for the corpus's tokens"
            )
        if not 0 < beta < 1:
            raise ValueError(f"beta {beta:g} is outside (0, 1); the paper uses 0.5")
        return beta
