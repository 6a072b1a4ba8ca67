"""How sure a system is of its answers, where its answers say so."""

from typing import NamedTuple

import numpy as np

from kdstudy.measures import majority
from kdstudy.measures.cell import Cell

LEAST_DRAWS = 3
"""Of fewer draws the share of the commonest answer says little."""


class Confidence(NamedTuple):
    """Of every item how sure the system is of its answer, and whether that is right; [items]."""

    claimed: np.ndarray
    right: np.ndarray


def known(cell: Cell) -> bool:
    """Return whether a cell's answers say how sure they are."""
    return cell.options is not None or (not cell.text and len(cell.samples) >= LEAST_DRAWS)


def confidence(cell: Cell) -> Confidence:
    """Return the likeliest option's share of the probability, or the commonest answer's of draws.

    Of draws the answer is the commonest one (ties by chance); an item without any answer is claimed
    with 0.
    """
    if cell.options is not None:
        options = cell.options
        chosen = options.right(np.ones_like(options.characters))
        return Confidence(options.probabilities.max(axis=1), chosen.astype(float))
    answers = cell.answers()
    shares = [max((item.count(a) for a in set(item) - {None}), default=0) for item in answers]
    claimed = np.array(shares) / len(cell.samples)
    return Confidence(claimed, np.array([majority.right(item) for item in answers]))
