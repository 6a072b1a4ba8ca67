"""How long models think: tokens of a text before the end of its thought."""

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


class _Thinking(Measure):
    """Defined where thoughts are told apart and their tokens are known."""

    def defined_on(self, cell: Cell) -> bool:
        """Return whether a benchmark's answers have it."""
        return cell.thought is not None


def per_item(cell: Cell) -> np.ndarray:
    """Return the mean tokens of the thoughts of an item's draws, the mark included, [items]."""
    assert cell.thought is not None
    return cell.thought.mean(axis=1)


MEASURE = _Thinking(
    name="thought_tokens",
    unit=Unit.COUNT,
    column="Tokens of thought",
    note="Tokens of thought: the mean, the mark of its end included; all of a text whose thought "
    "does not end.",
    per_item=per_item,
    interval="none",
)
