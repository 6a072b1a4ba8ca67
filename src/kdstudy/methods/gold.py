"""Generalised logit distillation: shared tokens one by one, the others by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.aligned import Aligned
from kdstudy.methods.gkd import jsd
from kdstudy.methods.objective import Spans

if TYPE_CHECKING:
    from torch import Tensor

    from kdstudy.methods.objective import Terms


def mass_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """T * (log T - log S) - T + S, the limit of jsd / beta; no part of it is below zero.

    S and T are masses: the shared part of a distribution does not sum to one, and the plain KL of
    two such parts is least where S has too much. Where both sum to one it is KL(T || S).
    """
    student, teacher = s.exp(), t.exp()
    return teacher * (t - s) - teacher + student, student - teacher


def mass_reverse_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """S * (log S - log T) - S + T, the limit of jsd / (1 - beta)."""
    student = s.exp()
    slope = student * (s - t)
    return slope - student + t.exp(), slope


class GOLD(Aligned):
    """JSD(beta) over the tokens that both vocabularies have, sorted differences over the others.

    As TRL's GOLDTrainer has it with `uld_use_hybrid_loss` (Patino et al. 2025); where this departs
    from its code, docs/methods.md says how.
    """

    type: Literal["gold"] = "gold"
    """Which method this is."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher in the mixture of the JSD over shared tokens; 0: forward KL; 1:
    reverse KL."""
    matched_weight: float | None = Field(default=None, ge=0, le=1)
    """Weight of the shared tokens' part; the others' has the rest. null: the share of the
    teacher's tokens that the student's vocabulary has."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.beta

    @property
    def terms(self) -> Terms:
        """What shared tokens are compared by."""
        return {0: mass_kl, 1: mass_reverse_kl}.get(self.beta, jsd)

    @property
    def spans(self) -> Spans:
        """How spans are merged and weighed."""
        return Spans(merge=self.merge, matched_weight=self.matched_weight)
