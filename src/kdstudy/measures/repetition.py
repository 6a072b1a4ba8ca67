"""Repetition: how much a text repeats itself (seq-rep-4, Welleck et al. 2020)."""

import numpy as np

from kdstudy.answers.repetition import repetition
from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the mean repetition of an item's draws, [items]."""
    found = np.array([[repetition(text) for text in item] for item in cell.completions])
    return found.mean(axis=1)


MEASURE = Measure(
    name="repetition",
    unit=Unit.SHARE,
    column="Repetition",
    note="Repetition: the share of a text's word 4-grams that it holds before (seq-rep-4).",
    per_item=per_item,
    signature="seq-rep-4",
)
