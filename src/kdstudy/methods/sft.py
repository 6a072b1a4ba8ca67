"""Supervised fine-tuning: the baseline of every method, and how teachers are made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from kdstudy.methods.base import Method
from kdstudy.methods.objective import Recipe


class Sft(Method):
    """Cross-entropy on the corpus; no teacher."""

    teacher_gives = "nothing"
    color = "#8a8f98"

    type: Literal["sft"] = "sft"
    """Which method this is."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus, for students; null means `train.epochs`, which teachers have."""

    @model_validator(mode="before")
    @classmethod
    def _starts_nowhere(cls, value: Any) -> Any:
        if isinstance(value, dict) and "start" in value:
            raise ValueError("start: sft is what other methods start from; leave it out here")
        return value

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return Recipe(source="corpus")
