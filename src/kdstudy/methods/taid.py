"""Temporally adaptive interpolated distillation: a teacher that begins near the student."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import Pace, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from kdstudy.methods.objective import Objective


def interpolated_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """KL(M || S), M the softmax of (1 - u) * log S + u * log T, which has no gradient.

    u = `parameter` (TAID, Shing et al. 2025); at 1 it is KL(T || S).
    """
    m = _between(s, t, parameter)
    middle = m.exp()
    return middle * (m - s), -middle


def interpolated_cross_entropy(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """As the authors' code has it: the same without M's own entropy, so with the same gradient."""
    middle = _between(s, t, parameter).exp()
    return -middle * s, -middle


def _between(s: Tensor, t: Tensor, share: float) -> Tensor:
    return ((1 - share) * s.detach() + share * t).log_softmax(-1)


class TAID(Divergence):
    """KL from a mixture of teacher and student that nears the teacher (TAID, Shing et al. 2025).

    Validation measures KL(teacher || student), so that the numbers of one run can be compared.
    """

    color = "#999933"
    terms = staticmethod(interpolated_kl)

    type: Literal["taid"] = "taid"
    """Which method this is."""
    share_start: float = Field(default=0.4, ge=0, lt=1)
    """Weight u of the teacher's logits in the mixture at the first step; the student has 1 - u."""
    share_end: float = Field(default=1.0, gt=0, le=1)
    """Weight towards which it rises."""
    schedule: Literal["adaptive", "linear"] = "adaptive"
    """`linear`: in proportion to the steps. `adaptive`: never behind that, and further after each
    step by step_size * sigmoid(m) * (1 - u), m the running mean of the relative fall of the
    loss."""
    step_size: float = Field(default=5e-4, ge=0, le=1)
    """For `adaptive`: the largest step of u."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """For `adaptive`: weight of the past in the running mean."""
    adapts_to: Literal["paper", "released"] = "paper"
    """The loss whose fall that is. `paper`: the divergence. `released`: the cross-entropy with the
    mixture, as in the authors' code; then that is the training loss, with the same gradient."""

    @model_validator(mode="after")
    def _rises(self) -> TAID:
        if self.share_end < self.share_start:
            raise ValueError(
                f"share_end {self.share_end:g} is below share_start {self.share_start:g}; the "
                "mixture nears the teacher, never the student"
            )
        return self

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed in validation: the teacher alone."""
        return 1.0

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(super().recipe(), pace=self._pace)

    def _pace(self) -> Pace:
        objective = super().recipe().objective
        if self.adapts_to == "released":
            objective = dataclasses.replace(objective, divergence=interpolated_cross_entropy)
        return _Rise(self, objective)


class _Rise(Pace):
    """The weight of the teacher's logits, step by step."""

    def __init__(self, method: TAID, objective: Objective):
        self._method, self._objective = method, objective
        self.state = {"share": method.share_start, "momentum": 0.0}
        self.listens = method.schedule == "adaptive"

    def objective(self, progress: float, sampled: bool) -> Objective:
        """Return the loss of a token."""
        start, end = self._method.share_start, self._method.share_end
        self.state["share"] = max(self.state["share"], start + (end - start) * progress)
        return dataclasses.replace(self._objective, parameter=self.state["share"])

    def seen(self, loss: float) -> None:
        """Take a step's loss into account."""
        before = self.state.get("loss")
        self.state["loss"] = loss
        if before is None:
            return
        old, share, keep = self.state["momentum"], self.state["share"], self._method.momentum
        momentum = keep * old + (1 - keep) * (before - loss) / (before + 1e-15)
        further = self._method.step_size / (1 + math.exp(-momentum)) * (1 - share)
        self.state |= {
            "momentum": momentum,
            "share": min(self._method.share_end, share + further),
        }
