"""One system's graded answers to one benchmark, as arrays that measures read."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from kdstudy.errors import InputError
from kdstudy.records import Overlap, Score, is_text

GROUPS: dict[str, tuple[Overlap, ...]] = {
    "clean": ("none",),
    "renumbered": ("masked",),
    "contaminated": ("exact", "normalised"),
}
"""Items apart by what the corpus holds of them: nothing, the question with other numbers, it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a system makes of the options of its items; K is the most that an item has.

    Attributes:
        logprobs: Log-probability of each option in nats, [items, K]; -inf where there is none.
        characters: Length of each in characters, [items, K]; 1 where there is none.
        bytes: In bytes of UTF-8, [items, K]; 1 where there is none.
        target: Which is right, [items].
        counts: How many options each item has, [items].
    """

    logprobs: np.ndarray
    characters: np.ndarray
    bytes: np.ndarray
    target: np.ndarray
    counts: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Each option's share of the probability of all, [items, K]."""
        shares = np.exp(self.logprobs - self.logprobs.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    @property
    def log_shares(self) -> np.ndarray:
        """Logarithm of `probabilities`, of small ones too; -inf where there is no option."""
        above = self.logprobs - self.logprobs.max(axis=1, keepdims=True)
        return above - np.log(np.exp(above).sum(axis=1, keepdims=True))

    def right(self, lengths: np.ndarray) -> np.ndarray:
        """Return whether the option of the highest log-probability over length is right."""
        return (self.logprobs / lengths).argmax(axis=1) == self.target


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One system on one benchmark; arrays have one row per item and one column per draw.

    Attributes:
        completions: The texts themselves.
        extracted: The answers found in them, in canonical form; "" where none was found.
        text: The benchmark asks for free texts: `quality` is ROUGE-L, and nothing is right.
        options: Of choices by likelihood, what was found of the options; then no text was written,
            and `completions` are the texts of the chosen options.
        thought: Tokens of each text's thought, its mark included; None where they are not known.
        by_filter: Whether each text is right, by kdstudy's reading and by published filters
            (`Score.by_filter`), [items, draws, filters]; None where no grader says it.
    """

    ids: tuple[str, ...]
    samples: tuple[int, ...]
    outcomes: np.ndarray
    quality: np.ndarray
    tokens: np.ndarray
    completions: np.ndarray
    extracted: np.ndarray
    rules: str
    text: bool
    options: Options | None = None
    thought: np.ndarray | None = None
    by_filter: np.ndarray | None = None

    def share(self, *outcomes: str) -> np.ndarray:
        """Return, per item, the share of draws with one of these outcomes."""
        return np.isin(self.outcomes, outcomes).mean(axis=1)

    def answers(self) -> list[list[str | None]]:
        """Return, per item, each draw's answer, equal for draws that agree; None for no answer.

        All right answers are one answer, however they are written: the gold one.
        """
        right, none = self.outcomes == "correct", ~np.isin(self.outcomes, ("correct", "wrong"))
        return [
            [
                None if n else "right" if r else f"wrong: {text}"
                for r, n, text in zip(*item, strict=True)
            ]
            for item in zip(right, none, self.extracted, strict=True)
        ]

    def within(self, overlaps: Mapping[str, Overlap], group: str) -> np.ndarray:
        """Return, per item, whether it belongs to one of `GROUPS`."""
        return np.array([overlaps[i] in GROUPS[group] for i in self.ids])


def cells_of(label: str, rows: Sequence[Score]) -> dict[str, Cell]:
    """Group one system's graded generations by benchmark, in the order of the items' ids.

    Raises:
        InputError: An (item, draw) is there twice, or items have different draws.
    """
    drawn: dict[str, dict[tuple[str, int], Score]] = {}
    for row in rows:
        part = drawn.setdefault(row.benchmark, {})
        if (row.example_id, row.sample) in part:
            raise InputError(f"{label}: {row.benchmark} item {row.example_id} is scored twice")
        part[row.example_id, row.sample] = row
    return {
        benchmark: _cell(f"{label}: {benchmark}", drawn[benchmark]) for benchmark in sorted(drawn)
    }


def _cell(where: str, drawn: Mapping[tuple[str, int], Score]) -> Cell:
    ids, samples = (tuple(sorted(set(names))) for names in zip(*drawn, strict=True))
    if len(drawn) != len(ids) * len(samples):
        raise InputError(f"{where} items have different numbers of draws")
    rows = [[drawn[item, sample] for sample in samples] for item in ids]
    rules = "+".join(sorted({row.rule for row in drawn.values()}))

    def read(field: str, kind: type) -> np.ndarray:
        return np.array([[getattr(row, field) for row in draws] for draws in rows], dtype=kind)

    thought = read("thought", float)
    graded = all(row.by_filter for row in drawn.values())

    return Cell(
        ids=ids,
        samples=samples,
        outcomes=read("outcome", str),
        quality=read("quality", float),
        tokens=read("tokens", float),
        completions=read("completion", object),
        extracted=read("extracted", object),
        rules=rules,
        text=is_text(rules),
        options=_options([draws[0] for draws in rows], where),
        thought=thought if (thought >= 0).all() else None,
        by_filter=read("by_filter", float) if graded else None,
    )


def _options(rows: Sequence[Score], where: str) -> Options | None:
    """Return the options of rows of one benchmark, None where texts were written.

    Raises:
        InputError: Some were written, and some chosen by likelihood.
    """
    counts = [len(row.option_logprobs) for row in rows]
    if not any(counts):
        return None
    if not all(counts):
        raise InputError(f"{where}: some answers are texts, and some are choices by likelihood")

    def wide(name: str, fill: float) -> np.ndarray:
        found = np.full((len(rows), max(counts)), fill)
        for line, row, count in zip(found, rows, counts, strict=True):
            line[:count] = getattr(row, name)
        return found

    return Options(
        logprobs=wide("option_logprobs", -np.inf),
        characters=wide("option_characters", 1),
        bytes=wide("option_bytes", 1),
        target=np.array([row.target for row in rows]),
        counts=np.array(counts),
    )
