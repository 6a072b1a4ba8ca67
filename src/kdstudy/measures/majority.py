"""Majority vote over an item's draws (self-consistency, Wang et al. 2023)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def right(answers: Sequence[str | None]) -> float:
    """Return the chance that the commonest answer is right, where ties are broken at random."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return ("right" in tied) / len(tied)


def per_item(cell: Cell) -> np.ndarray:
    """Return whether an item's vote is right, or its chance where answers tie, [items]."""
    return np.array([right(item) for item in cell.answers()])


MEASURE = Measure(
    name="majority_vote",
    unit=Unit.SHARE,
    column="Majority vote",
    note=(
        "Majority vote: items whose commonest answer over all draws is right; cut and unparsed "
        "draws have no vote, ties count by their chance."
    ),
    per_item=per_item,
    of="answers",
    signature="ties:chance",
    draws=3,
)
