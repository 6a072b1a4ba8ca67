"""Selective distillation: forward KL at the tokens of each row that are the least certain."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import Field

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import Recipe, Selection
from kdstudy.methods.word_kd import forward_kl


class SelectiveKD(Divergence):
    """KL(teacher || student) at each row's tokens of highest entropy (SE-KD, Tavor et al. 2026).

    Other tokens are not charged, hard labels included. Their part of the head is not computed.
    """

    color = "#117733"
    terms = staticmethod(forward_kl)

    type: Literal["selective_kd"] = "selective_kd"
    """Which method this is."""
    share: float = Field(default=0.2, gt=0, le=1)
    """Share of each row's scored tokens that are charged, rounded up; 1 is word_kd."""
    entropy_of: Literal["student", "teacher"] = "student"
    """Whose distribution's entropy says which: the student's as it trains, or the teacher's."""

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        selection = Selection(share=self.share, by=self.entropy_of)
        return dataclasses.replace(super().recipe(), selection=selection)
