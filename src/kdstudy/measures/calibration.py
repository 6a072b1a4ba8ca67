"""Calibration error: how far confidence is from accuracy, wherever it stands."""

import numpy as np

from kdstudy.measures.base import Draws, Loss, Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.confidence import confidence, known
from kdstudy.measures.units import Unit

BINS = 10
"""Bins of equally many items, by confidence (adaptive, Nguyen and O'Connor 2015)."""


def calibration_error(cell: Cell) -> Draws:
    """Return the expected calibration error over `BINS` bins; equal confidences share a bin."""
    found = confidence(cell)
    inside = bins(found.claimed)
    apart = inside * (found.claimed - found.right)[:, None]

    def error(weights: np.ndarray) -> np.ndarray:
        return np.abs(weights @ apart).sum(axis=1) / weights.sum(axis=1)

    return error


def bins(claimed: np.ndarray) -> np.ndarray:
    """Return which of the bins each item is in, as [items, bins] of 0 and 1."""
    ends = np.unique(np.quantile(claimed, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    place = np.searchsorted(ends, claimed, side="left")
    return (place[:, None] == np.arange(len(ends) + 1)).astype(float)


_CHANCE = "chance alone gives it about 0.8 √(bins · p(1 − p) / items)"

MEASURE = Measure(
    name="option_ece",
    unit=Unit.SHARE,
    column="Calibration error",
    note=f"Calibration error: mean distance of the likeliest option's share of the probability "
    f"from accuracy, over {BINS} bins of as many items each; of few items {_CHANCE}.",
    whole=calibration_error,
    of="options",
    signature=f"bins:{BINS} of equal size",
)

LOSS = Loss(
    name="calibration_error",
    title="Calibration error",
    unit=Unit.SHARE,
    worse="more",
    how="change",
    of=calibration_error,
    defined_on=known,
    note=f"Calibration error: mean distance of confidence from accuracy over {BINS} bins of as "
    "many items each.",
    cannot=f"much of few items: {_CHANCE}, to student and teacher alike.",
    cost="choices by likelihood, or three draws per item",
)
