"""Length: tokens of a text."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return the mean tokens of an item's draws, the end included, [items]."""
    return cell.tokens.mean(axis=1)


MEASURE = Measure(
    name="tokens",
    unit=Unit.COUNT,
    column="Tokens per text",
    note="Tokens per text: the mean, the end of the text included.",
    per_item=per_item,
    interval="none",
)
