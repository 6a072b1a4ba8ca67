"""Memorised text: how much of what a system writes stands in the training responses."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

WORDS = 8
"""Length of a run of words."""

_TOGETHER = 1024
"""Training texts that are words at once; the words of a whole corpus would take gigabytes."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Runs:
    """The runs of `WORDS` words that some texts hold, as sorted 64-bit hashes."""

    def __init__(self, texts: Iterable[str]):
        """Read the texts; words are apart by blanks, in any case."""
        self._numbers: dict[str, int] = {}
        found, rest = [np.array([], np.uint64)], iter(texts)
        while part := [text.casefold().split() for text in itertools.islice(rest, _TOGETHER)]:
            for word in itertools.chain.from_iterable(part):
                self._numbers.setdefault(word, len(self._numbers) + 1)
            found.append(np.unique(self._hashed(part)[0]))
        self._known = np.unique(np.concatenate(found))

    def shares(self, texts: Iterable[str]) -> np.ndarray:
        """Return of each text the share of its runs that these texts hold; NaN of no run."""
        hashes, counts = self._hashed([text.casefold().split() for text in texts])
        found = np.concatenate([[0], np.cumsum(np.isin(hashes, self._known))])
        ends = np.cumsum(counts)
        sums = found[ends] - found[ends - counts]
        return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    def _hashed(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the hash of every run, one text after another, and how many each text has.

        A run with a word that no text has is 0, which is no run's hash.
        """
        lengths = np.array([len(words) for words in texts], dtype=int)
        counts = np.maximum(lengths - WORDS + 1, 0)
        ids = np.array([self._numbers.get(w, 0) for words in texts for w in words], np.uint64)
        # Of all places, those where a run ends in the text that it begins in.
        starts = np.repeat(np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts), counts)
        starts += np.arange(len(starts))
        hashes, whole = np.zeros(len(starts), np.uint64), np.ones(len(starts), bool)
        for place in range(WORDS):
            word = ids[starts + place]
            hashes = hashes * _FACTOR + word
            whole &= word > 0
        return np.where(whole, hashes, np.uint64(0)), counts


def loss(responses: Iterable[str]) -> Loss:
    """Return the measure against the responses of a corpus's training rows."""
    trained = Runs(responses)

    def _of(cell: Cell) -> Draws:
        shares = trained.shares(cell.completions.ravel()).reshape(cell.completions.shape)
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
