"""What a measure is: a number per item of one system, or of two, and how it is shown."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

Interval = Literal["wilson", "bootstrap", "none"]
Of = Literal["answers", "texts", "options", "all"]


def _defined(of: Of, written: bool, cell: Cell) -> bool:
    if cell.options is not None:
        return of == "options" or (not written and of != "texts")
    return of == "all" or (of != "options" and (of == "texts") == cell.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of one system's answers to a benchmark: the mean over items of `per_item`.

    Attributes:
        name: Its name in results.csv, where it is a `metric`.
        unit: What it is counted in.
        column: Its column's title in the report's table of measures.
        note: What it is, in a sentence for the foot of that table.
        per_item: Its value for every item, [items]; draws of an item are averaged there.
        of: Benchmarks that it is defined on: those with right `answers`, free `texts`, choices by
            likelihood (`options`), or `all`.
        written: It is of a text that a model wrote: not defined on choices by likelihood.
        interval: `wilson` for a share of items, `bootstrap` over items, or `none`.
        signature: What says how it is computed, where its name does not.
        draws: How many draws of an item it needs at least.
        whole: Where it is no mean over items, such as a calibration error: the number itself for
            weights of the items. `per_item` is not asked then.
    """

    name: str
    unit: Unit
    column: str
    note: str
    per_item: Callable[[Cell], np.ndarray] | None = None
    of: Of = "all"
    written: bool = True
    interval: Interval = "bootstrap"
    signature: str = ""
    draws: int = 1
    whole: Callable[[Cell], "Draws"] | None = None

    def defined_on(self, cell: Cell) -> bool:
        """Return whether a benchmark's answers have it."""
        return _defined(self.of, self.written, cell) and len(cell.samples) >= self.draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairMeasure:
    """A measure of two systems' answers to one benchmark, item by item: system and reference.

    It is computed for every pair that a study compares (`pairs.compared_pairs`). Attributes are
    `Measure`'s; `per_item` has both, [items].
    """

    name: str
    unit: Unit
    column: str
    note: str
    per_item: Callable[[Cell, Cell], np.ndarray]
    of: Of = "all"
    written: bool = True
    signature: str = ""

    def defined_on(self, cell: Cell) -> bool:
        """Return whether a benchmark's answers have it."""
        return _defined(self.of, self.written, cell)


Draws = Callable[[np.ndarray], np.ndarray]
"""Takes weights of items, [draws, items], and returns a number for each draw, [draws]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """A line of the loss statement: a number of a student beside its teacher's, or its base's.

    It need not be a mean over items, so it is given as a function of their weights: all 1 is the
    number itself, an item drawn twice by a bootstrap weighs 2. Student and reference meet the same
    weights, so an interval of their ratio or difference is a paired one.

    Attributes:
        name: Its name in tables.
        title: What the statement calls it.
        unit: What the numbers themselves are counted in.
        worse: Whether less of it or more of it is a loss.
        how: `kept`, the student's share of the reference's (of what is above `floor`), `change`,
            the student's less the reference's, or `distance`, one number of both.
        against: What the student is compared with; its `base` is its model before training.
        where: Benchmarks it is of: all, `elsewhere` those that nobody trained for, `home` the rest.
        of: Makes `Draws` of a cell; NaN where a draw has no such number.
        between: Of a distance, makes `Draws` of the student's cell and the reference's.
        defined_on: Whether a cell has it.
        floor: What nothing learned scores, from a cell and the benchmark's chance accuracy.
        note: What it is, in a sentence.
        cannot: What it cannot tell, in a sentence.
        cost: What it takes beside answers that are there already.
        moves: Of a mean over items, that of every item, [items]: a bootstrap is too sure of a
            difference that few items make (`losses.least_known`).
        pairs: How many pairs of answers an item's difference from the reference compares.
    """

    name: str
    title: str
    unit: Unit
    worse: Literal["less", "more"]
    how: Literal["kept", "change", "distance"]
    against: Literal["teacher", "base"] = "teacher"
    where: Literal["all", "home", "elsewhere"] = "all"
    of: Callable[[Cell], Draws] | None = None
    between: Callable[[Cell, Cell], Draws] | None = None
    defined_on: Callable[[Cell], bool]
    floor: Callable[[Cell, float], float] = lambda cell, chance: 0.0
    note: str
    cannot: str
    cost: str = "nothing further"
    moves: Callable[[Any], np.ndarray] | None = None
    pairs: int = 1


def weighted_mean(values: np.ndarray, among: np.ndarray | None = None) -> Draws:
    """Return the weighted mean of values of items, [items].

    Args:
        values: One number per item.
        among: How much each item counts, [items]; all alike where left out. Of none, NaN.
    """
    known = np.ones(len(values)) if among is None else among.astype(float)
    both = np.column_stack([known * values, known])

    def mean(weights: np.ndarray) -> np.ndarray:
        sums, counts = (weights @ both).T
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)

    return mean
