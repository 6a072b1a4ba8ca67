"""acc_bytes: accuracy by likelihood where an option's log-probability is per byte of it."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(cell: Cell) -> np.ndarray:
    """Return whether the likeliest option per byte is right, [items]."""
    assert cell.options is not None
    return cell.options.right(cell.options.bytes)


MEASURE = Measure(
    name="acc_bytes",
    unit=Unit.SHARE,
    column="acc_bytes",
    note="acc_bytes: the share of items whose likeliest option, by log-probability over length in "
    "bytes, is right, as lm-evaluation-harness has it.",
    per_item=per_item,
    of="options",
    interval="wilson",
)
