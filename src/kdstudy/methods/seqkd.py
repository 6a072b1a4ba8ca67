"""Sequence-level distillation: the student learns what the teacher writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudy.methods.base import Taught
from kdstudy.methods.objective import Recipe


class SeqKD(Taught):
    """Cross-entropy on text the teacher wrote (Kim & Rush 2016; the paper's Eq. 1)."""

    teacher_gives = "text"
    color = "#0072b2"

    type: Literal["seqkd"] = "seqkd"
    """Which method this is."""
    sampling_temperature: float = Field(default=0.0, ge=0)
    """Temperature at which the teacher writes; 0 is greedy."""

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return Recipe(source="teacher")
