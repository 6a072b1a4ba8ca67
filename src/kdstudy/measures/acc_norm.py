"""acc_norm, acc_bytes: accuracy by likelihood, log-probabilities over length of the option."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_character(cell: Cell) -> np.ndarray:
    """Return whether the likeliest option per character is right, [items]."""
    assert cell.options is not None
    return cell.options.right(cell.options.characters)


def per_byte(cell: Cell) -> np.ndarray:
    """Return whether the likeliest option per byte of UTF-8 is right, [items]."""
    assert cell.options is not None
    return cell.options.right(cell.options.bytes)


MEASURES = tuple(
    Measure(
        name=name,
        unit=Unit.SHARE,
        column=name,
        note=f"{name}: the share of items whose likeliest option, by log-probability over length "
        f"in {what}, is right, as lm-evaluation-harness has it.",
        per_item=per_item,
        of="options",
        interval="wilson",
    )
    for name, what, per_item in (
        ("acc_bytes", "bytes", per_byte),
        ("acc_norm", "characters", per_character),
    )
)
