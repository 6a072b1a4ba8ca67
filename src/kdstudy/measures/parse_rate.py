"""Parse rate: how many answers could be found and graded."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the share of an item's draws whose answer was found, [items]."""
    return cell.share("correct", "wrong")


MEASURE = Measure(
    name="parse_rate",
    unit=Unit.SHARE,
    column="Parsed",
    note="Parsed: the share of answers that were found and graded.",
    per_item=per_item,
    of="answers",
    interval="wilson",
)
