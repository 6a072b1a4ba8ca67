"""Overconfidence: how much more often a system claims to be right than it is."""

from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.confidence import confidence, known
from kdstudy.measures.units import Unit


def _claimed_too_much(cell: Cell) -> Draws:
    found = confidence(cell)
    return weighted_mean(found.claimed - found.right)


LOSS = Loss(
    name="overconfidence",
    title="Overconfidence",
    unit=Unit.POINTS,
    worse="more",
    how="change",
    of=_claimed_too_much,
    defined_on=known,
    note="Overconfidence: mean confidence less accuracy. Confidence is the likeliest option's "
    "share of the probability of all, or the commonest answer's share of the draws.",
    cannot="which answers are claimed too much: too little on some hides too much on others, which "
    "the calibration error tells.",
    cost="choices by likelihood, or three draws per item",
)
