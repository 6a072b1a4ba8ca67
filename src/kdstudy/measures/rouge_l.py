"""ROUGE-L of a free text with the closest of its references."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the mean ROUGE-L of an item's draws, [items]."""
    return cell.quality.mean(axis=1)


MEASURE = Measure(
    name="rouge_l",
    unit=Unit.HUNDRED,
    column="ROUGE-L",
    note="ROUGE-L (0 to 100) with the closest reference.",
    per_item=per_item,
    of="texts",
)
