"""One system's graded answers to one benchmark, as arrays that measures read."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from kdstudy.errors import InputError
from kdstudy.records import Overlap, Score

GROUPS: dict[str, tuple[Overlap, ...]] = {
    "clean": ("none",),
    "renumbered": ("masked",),
    "contaminated": ("exact", "normalised"),
}
"""Items apart by what the corpus holds of them: nothing, the question with other numbers, it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One system on one benchmark; arrays have one row per item and one column per draw.

    Attributes:
        completions: The texts themselves.
        extracted: The answers found in them, in canonical form; "" where none was found.
        text: The benchmark asks for free texts: `quality` is ROUGE-L, and nothing is right.
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

    return Cell(
        ids=ids,
        samples=samples,
        outcomes=read("outcome", str),
        quality=read("quality", float),
        tokens=read("tokens", float),
        completions=read("completion", object),
        extracted=read("extracted", object),
        rules=rules,
        text=rules.startswith("text-"),
    )
