"""Memorised text: how much of what a system writes stands in the training responses."""

from collections.abc import Iterable

import numpy as np

from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

WORDS = 8
"""Length of a run of words."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Runs:
    """The runs of `WORDS` words that some texts hold, as sorted 64-bit hashes."""

    def __init__(self, texts: Iterable[str]):
        """Read the texts; words are apart by blanks, in any case."""
        self._numbers: dict[str, int] = {}
        self._powers = np.cumprod(np.full(WORDS, _FACTOR), dtype=np.uint64)
        parts = [self._hashed(text, learn=True) for text in texts]
        self._known = np.unique(np.concatenate(parts)) if parts else np.array([], np.uint64)

    def share(self, text: str) -> float:
        """Return the share of a text's runs that these texts hold; NaN where it has none."""
        found = self._hashed(text, learn=False)
        return float(np.isin(found, self._known).mean()) if len(found) else np.nan

    def _hashed(self, text: str, *, learn: bool) -> np.ndarray:
        words = text.casefold().split()
        if len(words) < WORDS:
            return np.array([], np.uint64)
        if learn:
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)
        ids = np.array([self._numbers.get(word, 0) for word in words], dtype=np.uint64)
        runs = np.lib.stride_tricks.sliding_window_view(ids, WORDS)
        known = runs.all(axis=1)  # a run with a word that no training text has is in none
        return np.where(known, (runs * self._powers).sum(axis=1, dtype=np.uint64), np.uint64(0))


def loss(responses: Iterable[str]) -> Loss:
    """Return the measure against the responses of a corpus's training rows."""
    trained = Runs(responses)

    def _of(cell: Cell) -> Draws:
        shares = np.array([[trained.share(text) for text in item] for item in cell.completions])
        known = ~np.isnan(shares)
        counts = known.sum(axis=1)
        sums = np.where(known, shares, 0).sum(axis=1)
        means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
        return weighted_mean(means, among=counts > 0)

    return Loss(
        name="copied",
        title="Training text repeated",
        unit=Unit.SHARE,
        worse="more",
        how="change",
        of=_of,
        defined_on=lambda cell: cell.options is None,
        note=f"Training text repeated: the share of a text's runs of {WORDS} words that a response "
        "of a training row holds word by word.",
        cannot="memory from style: a form that all rows have is repeated by whoever learned it, "
        "teacher included; nor what was learned from text of a teacher.",
        cost="reading the corpus once more",
    )
