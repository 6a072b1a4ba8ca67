"""strict_match, flexible_extract, own_match: accuracy by published filters, and by kdstudy's."""

import functools

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

_NOTES = (
    ("own_match", "kdstudy's own reading of the answer"),
    ("strict_match", "the number behind `####`, as lm-evaluation-harness has it"),
    ("flexible_extract", "the last number of the text, as lm-evaluation-harness has it"),
)


class _ByFilter(Measure):
    """Defined where a grader of published filters has graded."""

    def defined_on(self, cell: Cell) -> bool:
        """Return whether a benchmark's answers have it."""
        return cell.by_filter is not None


def _right(cell: Cell, place: int) -> np.ndarray:
    assert cell.by_filter is not None
    return cell.by_filter[:, :, place].mean(axis=1)


MEASURES = tuple(
    _ByFilter(
        name=name,
        unit=Unit.SHARE,
        column=name,
        note=f"{name}: the share of items that are right by {what}.",
        per_item=functools.partial(_right, place=place),
        of="answers",
        interval="wilson",
    )
    for place, (name, what) in enumerate(_NOTES)
)
