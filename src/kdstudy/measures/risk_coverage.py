"""Risk and coverage: whether the answers a system is sure of are the right ones."""

import numpy as np
from scipy.special import digamma

from kdstudy.measures.base import Draws, Loss
from kdstudy.measures.cell import Cell
from kdstudy.measures.confidence import Confidence, confidence, known
from kdstudy.measures.units import Unit

_CHUNK = 64
"""Draws at once: a matrix of a thousand draws of ten thousand items is large."""


def excess(found: Confidence) -> Draws:
    """Return the excess area under the risk-coverage curve (E-AURC, Geifman et al. 2019).

    The area is the mean, over every share of the items that are answered, the surest first, of the
    errors among those; the excess is what is above an order that has all errors last. Items of one
    confidence stand in random order, whose mean is exact: with E errors among the W items before a
    group of w with e errors each, its places add e w + (E - e W) (H(W + w) - H(W)), H harmonic.
    Weights are whole numbers: how often an item is there.
    """
    order = np.argsort(-found.claimed, kind="stable")
    errors = 1 - found.right[order]
    _, starts = np.unique(-found.claimed[order], return_index=True)

    def area(weights: np.ndarray, harmonic: np.ndarray) -> np.ndarray:
        drawn = weights[:, order].astype(float)
        w, e = drawn, drawn * errors
        if len(starts) < len(order):
            w, e = (np.add.reduceat(x, starts, axis=1) for x in (w, e))
        before, wrong = np.cumsum(w, axis=1) - w, np.cumsum(e, axis=1) - e
        share = np.divide(e, w, out=np.zeros_like(e), where=w > 0)
        steps = harmonic[(before + w).astype(int)] - harmonic[before.astype(int)]
        parts = share * w + (wrong - share * before) * steps
        n, total = w.sum(axis=1), e.sum(axis=1)
        best = total - (n - total) * (_harmonic(n) - _harmonic(n - total))
        return (parts.sum(axis=1) - best) / n

    def of_all(weights: np.ndarray) -> np.ndarray:
        most = int(weights.sum(axis=1).max())
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])
        chunks = (weights[i : i + _CHUNK] for i in range(0, len(weights), _CHUNK))
        return np.concatenate([area(chunk, harmonic) for chunk in chunks])

    return of_all


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
