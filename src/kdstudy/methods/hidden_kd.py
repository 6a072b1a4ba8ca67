"""Hidden-state distillation: forward KL, and final hidden states that follow the teacher's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import Recipe
from kdstudy.methods.word_kd import forward_kl

if TYPE_CHECKING:
    from torch import nn


class HiddenKD(Divergence):
    """KL(teacher || student) and the distance of final hidden states (Romero et al. 2015)."""

    terms = staticmethod(forward_kl)

    type: Literal["hidden_kd"] = "hidden_kd"
    """Which method this is."""
    hidden_weight: float = Field(default=1.0, gt=0)
    """Factor on the distance of the hidden states, beside the divergence."""
    distance: Literal["mse", "cosine"] = "mse"
    """`mse`: mean squared difference. `cosine`: 1 - cosine. A trained projection maps the student's
    states to the teacher's width where the two differ."""
    normalise: bool = True
    """For `mse`: divide every state by its root mean square first."""

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(super().recipe(), extra=self._module)

    def _module(self, student: int, teacher: int) -> nn.Module:
        from kdstudy.methods.hidden_loss import HiddenLoss

        fields = {"weight": self.hidden_weight, "distance": self.distance}
        return HiddenLoss(student, teacher, normalise=self.normalise, **fields)
