"""pass@k: the chance that one of k draws is right (Chen et al. 2021, equation 1)."""

import functools

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

KS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Values of k that a table has columns for, as far as there are draws; pass@1 is accuracy."""


def pass_at_k(right: np.ndarray, draws: int, k: int) -> np.ndarray:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) per item, [items].

    Args:
        right: c, how many of an item's draws are right, [items].
        draws: n, how many there are.
        k: At most n.
    """
    wrong = draws - right
    steps = np.arange(k)
    # The chance that k draws without replacement are all wrong; 0 where fewer than k are.
    factors = np.clip((wrong[:, None] - steps) / (draws - steps), 0, None)
    return 1 - factors.prod(axis=1)


def _per_item(cell: Cell, k: int) -> np.ndarray:
    right = (cell.outcomes == "correct").sum(axis=1)
    return pass_at_k(right, len(cell.samples), k)


MEASURES = tuple(
    Measure(
        name=f"pass_at_{k}",
        unit=Unit.SHARE,
        column=f"pass@{k}",
        note=f"pass@{k}: the chance that at least one of {k} draws is right, estimated from all.",
        per_item=functools.partial(_per_item, k=k),
        of="answers",
        signature="unbiased",
        draws=k,
    )
    for k in KS
)
