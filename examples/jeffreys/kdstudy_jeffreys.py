"""A method of one's own: the weighted Jeffreys divergence (Jeffreys 1946)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudy.methods import Divergence


def jeffreys(s, t, weight: float):
    """(1 - weight) * KL(T || S) + weight * KL(S || T), and its derivative with respect to s.

    Args:
        s: The student's log-probabilities, [tokens, vocabulary].
        t: The teacher's.
        weight: Share of the reverse KL.
    """
    student, teacher = s.exp(), t.exp()
    gap = s - t
    value = (weight * student - (1 - weight) * teacher) * gap
    slope = weight * student * (gap + 1) - (1 - weight) * teacher
    return value, slope


class Jeffreys(Divergence):
    """A weighted sum of forward and reverse KL on the corpus's tokens (Jeffreys 1946)."""

    terms = staticmethod(jeffreys)

    type: Literal["jeffreys"] = "jeffreys"
    """Which method this is."""
    weight: float = Field(default=0.5, gt=0, lt=1)
    """Share of the reverse KL."""

    @property
    def parameter(self) -> float:
        """The number that `jeffreys` is handed."""
        return self.weight
