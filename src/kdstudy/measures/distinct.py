"""Distinct-2: how varied the words of a text are (Li et al. 2016)."""

import itertools

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def distinct_2(text: str) -> float:
    """Return the share of a text's word pairs that are different from each other; 1 for none."""
    words = text.split()
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def per_item(cell: Cell) -> np.ndarray:
    """Return the mean distinct-2 of an item's draws, [items]."""
    found = np.array([[distinct_2(text) for text in item] for item in cell.completions])
    return found.mean(axis=1)


MEASURE = Measure(
    name="distinct_2",
    unit=Unit.SHARE,
    column="Distinct pairs",
    note="Distinct pairs: different word pairs of a text over all of them (distinct-2).",
    per_item=per_item,
)
