"""KL(teacher, student) over an item's options: what a choice by likelihood hides beside the choice.

Both distributions are the options' shares of their summed probability, at one temperature and
without regard to length, as `accuracy` chooses. Texts are the same for both, so tokenizers may
differ.
"""

import numpy as np

from kdstudy.errors import InputError
from kdstudy.measures.base import Draws, Loss, PairMeasure, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def per_item(mine: Cell, other: Cell) -> np.ndarray:
    """Return KL(other, mine) of every item in nats, [items].

    Infinite where `mine` rules an option out that `other` does not.

    Raises:
        InputError: An item has other numbers of options for the two.
    """
    assert mine.options is not None and other.options is not None
    own, theirs = mine.options, other.options
    if not np.array_equal(own.counts, theirs.counts):
        raise InputError(
            "two systems were asked of other options of one benchmark",
            why="a divergence is between probabilities of the same options",
            remedy="score both on the same items",
        )
    p, log_p, log_q = theirs.probabilities, theirs.log_shares, own.log_shares
    apart = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)
    # Rounding alone makes a divergence of two equal distributions negative.
    return np.maximum((p * apart).sum(axis=1), 0.0)


def _known(cell: Cell) -> bool:
    return cell.options is not None


def _between(student: Cell, teacher: Cell) -> Draws:
    found = per_item(student, teacher)
    if np.isinf(found).any():
        return lambda weights: np.where((weights @ np.isinf(found)) > 0, np.inf, np.nan)
    return weighted_mean(found)


MEASURE = PairMeasure(
    name="option_kl",
    unit=Unit.NATS,
    column="KL over options",
    note="KL over options: KL(reference, system) of the probabilities of an item's options, in "
    "nats per item.",
    per_item=per_item,
    of="options",
    written=False,
    signature="options:shares of summed probability",
)

LOSS = Loss(
    name="options_lost",
    title="KL(teacher, student) over options",
    unit=Unit.NATS,
    worse="more",
    how="distance",
    between=_between,
    defined_on=_known,
    note="KL(teacher, student) over options: of the probabilities that both give an item's "
    "options, in nats per item; 0 where they are the same.",
    cannot="who of the two is nearer the truth, which accuracy and calibration tell.",
    cost="choices by likelihood",
)
