"""Offline on-policy distillation: reverse KL on text that the student's start wrote, once."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from kdstudy.fields import TAGS
from kdstudy.methods.base import Divergence, SftStart
from kdstudy.methods.objective import Recipe
from kdstudy.methods.revkd import reverse_kl


class OfflineOPD(Divergence):
    """KL(student || teacher) on the start's answers to the corpus's prompts (Lightning OPD).

    The start answers once, and the teacher is asked about these answers once: its cache serves the
    whole run (Wu et al. 2026). Sound where teacher consistency holds: who teaches here wrote what
    the start learnt. `start: seqkd` sees to that; else `kdstudy doctor` warns.
    """

    color = "#88ccee"
    terms = staticmethod(reverse_kl)

    type: Literal["offline_opd"] = "offline_opd"
    """Which method this is."""
    start: Annotated[
        Annotated[Literal["seqkd", "sft"], Tag(TAGS[0])] | Annotated[SftStart, Tag(TAGS[1])],
        Discriminator(lambda value: TAGS[isinstance(value, dict | SftStart)]),
    ] = "seqkd"
    """Which weights training starts from, and who writes its text: the student's seqkd run from
    the same teacher, with the study's settings for seqkd if it lists that; its own sft run, whose
    corpus the teacher should have written; or {sft: 8}, eight epochs of sft with a schedule of
    their own."""
    sampling_temperature: float = Field(default=1.0, ge=0)
    """Temperature at which the start writes; 0 is greedy."""

    @property
    def name(self) -> str:
        """What labels and tables call it: its type, and that sft and not seqkd is its start."""
        return self.type if self.start == "seqkd" else f"{self.type}-from-sft"

    @property
    def needs_prompts(self) -> bool:
        """Whether somebody answers the corpus's prompts: the start does."""
        return True

    @field_validator("start", mode="before")
    @classmethod
    def _has_learnt(cls, value: Any) -> Any:
        if value == "base":
            raise ValueError(
                "offline_opd learns from what its start wrote, and a base has not learnt to "
                "answer; start from seqkd, sft or {sft: 8}"
            )
        return value

    @field_validator("hard_label_weight")
    @classmethod
    def _no_labels(cls, share: float) -> float:
        if share:
            raise ValueError(
                "the text is the student's own, and its tokens are nobody's labels; leave it at 0"
            )
        return share

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(super().recipe(), source="start")
