"""Risk and coverage: whether the answers a system is sure of are the right ones."""

import numpy as np
from scipy.special import digamma

from kdstudy.measures.base import Draws, Loss
from kdstudy.measures.cell import Cell
from kdstudy.measures.confidence import Confidence, confidence, known
from kdstudy.measures.units import Unit


def excess(found: Confidence) -> Draws:
    """Return the excess area under the risk-coverage curve (E-AURC, Geifman et al. 2019).

    The area is the mean, over every share of the items that are answered, the surest first, of the
    errors among those; the excess is what is above an order that has all errors last. Items of one
    confidence stand in random order, whose mean is exact: with E errors among the W items before a
    group of w with e errors each, its places add e w + (E - e W) (H(W + w) - H(W)), H harmonic.
    """
    _, group = np.unique(-found.claimed, return_inverse=True)
    member = (group[:, None] == np.arange(group.max() + 1)).astype(float)
    errors = member * (1 - found.right)[:, None]

    def area(weights: np.ndarray) -> np.ndarray:
        weights = weights.astype(float)
        w, e = weights @ member, weights @ errors
        before, wrong = np.cumsum(w, axis=1) - w, np.cumsum(e, axis=1) - e
        share = np.divide(e, w, out=np.zeros_like(e), where=w > 0)
        parts = share * w + (wrong - share * before) * (_harmonic(before + w) - _harmonic(before))
        n, total = w.sum(axis=1), e.sum(axis=1)
        best = total - (n - total) * (_harmonic(n) - _harmonic(n - total))
        return (parts.sum(axis=1) - best) / n

    return area


def _harmonic(n: np.ndarray) -> np.ndarray:
    return digamma(n + 1) + np.euler_gamma


def _of(cell: Cell) -> Draws:
    return excess(confidence(cell))


LOSS = Loss(
    name="risk_coverage",
    title="Excess risk, surest answers first",
    unit=Unit.SHARE,
    worse="more",
    how="change",
    of=_of,
    defined_on=known,
    note="Excess risk: the area between the risk-coverage curve and the best one at the same "
    "accuracy (E-AURC); 0 where every right answer is surer than every wrong one.",
    cannot="whether the confidences themselves are right, only their order.",
    cost="choices by likelihood, or three draws per item",
)
