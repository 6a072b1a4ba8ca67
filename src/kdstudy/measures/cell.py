"""One system's graded answers to one benchmark, as arrays that measures read."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

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
    values = ["outcome", "quality", "tokens", "completion", "extracted"]
    columns = ["benchmark", "example_id", "sample", *values, "rule"]
    frame = pd.DataFrame([[getattr(r, c) for c in columns] for r in rows], columns=columns)
    doubled = frame[frame.duplicated(columns[:3])]
    if len(doubled):
        first = doubled.iloc[0]
        raise InputError(f"{label}: {first.benchmark} item {first.example_id} is scored twice")
    cells = {}
    for benchmark, part in frame.groupby("benchmark", sort=True):
        wide = part.pivot(index="example_id", columns="sample", values=values)
        if wide.isna().any(axis=None):
            raise InputError(f"{label}: {benchmark} items have different numbers of draws")
        rules = "+".join(sorted(set(part.rule)))
        cells[str(benchmark)] = Cell(
            ids=tuple(wide.index),
            samples=tuple(wide["outcome"].columns),
            outcomes=wide["outcome"].to_numpy(str),
            quality=wide["quality"].to_numpy(float),
            tokens=wide["tokens"].to_numpy(float),
            completions=wide["completion"].to_numpy(object),
            extracted=wide["extracted"].to_numpy(object),
            rules=rules,
            text=rules.startswith("text-"),
        )
    return cells
