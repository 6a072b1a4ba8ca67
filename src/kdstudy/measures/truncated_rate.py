"""Truncation: how many texts did not end within their budget."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the share of an item's draws that were cut, [items]."""
    return cell.share("truncated")


MEASURE = Measure(
    name="truncated_rate",
    unit=Unit.SHARE,
    column="Cut",
    note="Cut: the share of texts that did not end within their budget.",
    per_item=per_item,
    interval="wilson",
)
