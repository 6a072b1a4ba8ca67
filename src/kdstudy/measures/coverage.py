"""What a student keeps of its teacher's coverage: items that one of several draws answers right."""

import numpy as np

from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.pass_at_k import KS, pass_at_k
from kdstudy.measures.units import Unit


def widest(cell: Cell) -> int:
    """Return the largest k that tables have a pass@k of with so many draws; 1 for one draw."""
    return max((k for k in KS if k <= len(cell.samples)), default=1)


def _of_items(cell: Cell) -> np.ndarray:
    found = np.asarray((cell.outcomes == "correct").sum(axis=1))
    return pass_at_k(found, len(cell.samples), widest(cell))


def _coverage(cell: Cell) -> Draws:
    return weighted_mean(_of_items(cell))


LOSS = Loss(
    name="coverage_kept",
    title="Coverage",
    unit=Unit.SHARE,
    worse="less",
    how="kept",
    of=_coverage,
    moves=_of_items,
    defined_on=lambda cell: not (cell.text or cell.options) and widest(cell) > 1,
    floor=lambda cell, chance: 1 - (1 - chance) ** widest(cell),
    note="Coverage kept: pass@k of the student over its teacher's, both less what guessing "
    "scores; k is the largest power of two that there are draws for.",
    cannot="whether an answer that one of k draws gives could be picked out of them.",
    cost="several draws per item (`generation: {samples: N}`)",
)
