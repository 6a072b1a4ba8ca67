"""What a measure is: a number per item of one system, or of two, and how it is shown."""

import dataclasses
from collections.abc import Callable
from typing import Literal

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
    """

    name: str
    unit: Unit
    column: str
    note: str
    per_item: Callable[[Cell], np.ndarray]
    of: Of = "all"
    written: bool = True
    interval: Interval = "bootstrap"
    signature: str = ""
    draws: int = 1

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
