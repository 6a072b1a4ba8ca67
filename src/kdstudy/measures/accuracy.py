"""Accuracy: how many items are answered right."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the share of an item's draws that are right, [items]."""
    return cell.share("correct")


MEASURE = Measure(
    name="accuracy",
    unit=Unit.SHARE,
    column="Accuracy",
    note="Share of items answered right; cut and unparsed answers are wrong.",
    per_item=per_item,
    of="answers",
    written=False,
    interval="wilson",
)
