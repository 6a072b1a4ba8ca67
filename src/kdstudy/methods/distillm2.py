"""Contrastive distillation: pull where the data speaks, push where the student does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.base import OnPolicy
from kdstudy.methods.objective import Pace, Recipe
from kdstudy.methods.skew_kl import skew_kl
from kdstudy.methods.skew_revkl import skew_reverse_kl

if TYPE_CHECKING:
    from kdstudy.methods.objective import Objective


class DistiLLM2(OnPolicy):
    """Skewed KL on the corpus, skewed reverse KL on student text (DistiLLM-2, Ko et al. 2025).

    (2 - b) * KL(T || alpha*T + (1-alpha)*S) in steps on the corpus, b * KL(S || alpha*S +
    (1-alpha)*T) in steps on text that the student samples. The paper's first text is the teacher's:
    use a corpus whose answers it wrote. Validation measures the skewed KL on the corpus.
    """

    color = "#ff9da7"
    terms = staticmethod(skew_kl)

    type: Literal["distillm2"] = "distillm2"
    """Which method this is."""
    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the other distribution in each mixture; the paper also lets it vary by text."""
    contrast_start: float = Field(default=1.0, ge=0, le=2)
    """b at the first step: weight of the student's text. The corpus has 2 - b."""
    contrast_end: float = Field(default=1.5, ge=0, le=2)
    """b towards which it moves, in proportion to the steps."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.alpha

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(super().recipe(), pace=self._pace)

    def _pace(self) -> Pace:
        return _Contrast(self, super().recipe().objective)


class _Contrast(Pace):
    """Either divergence with its weight at that time."""

    def __init__(self, method: DistiLLM2, objective: Objective):
        self._method, self._objective, self.state = method, objective, {}

    def objective(self, progress: float, sampled: bool) -> Objective:
        """Return the loss of a token."""
        start, end = self._method.contrast_start, self._method.contrast_end
        b = start + (end - start) * progress
        if sampled:
            return dataclasses.replace(self._objective, divergence=skew_reverse_kl, weight=b)
        return dataclasses.replace(self._objective, weight=2 - b)
