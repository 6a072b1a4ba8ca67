"""A line of the loss statement for which models were asked again: a number of a student, item by
item, beside its teacher's or its base's."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from kdstudy.measures.base import Draws
from kdstudy.measures.units import Unit

Numbers = Callable[[pd.DataFrame], Draws]
"""Takes a row per item and makes of them a number for weights of the items; NaN where none is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Such a line; it is a change, the student's number less the reference's.

    Both are numbers of the same rows, so that a bootstrap of these is a paired one.

    Attributes:
        student: Its numbers.
        reference: What it is set beside.
        counted: Which rows there is something to count in, [rows].
        changes: Of a difference of shares each item's own, [rows], NaN of no item. Of few items a
            bootstrap is too sure, so the interval then holds 0 unless flips of these refuse it.
        parts: Of a number of one part of the rows less that of the others, which rows are of the
            first, [rows]. Then what must refuse 0 is another choice of so many rows.

    Other attributes are `Loss`'s.
    """

    name: str
    title: str
    unit: Unit
    worse: Literal["less", "more"]
    against: Literal["teacher", "base"] = "teacher"
    student: Numbers
    reference: Numbers
    counted: Callable[[pd.DataFrame], pd.Series]
    changes: Callable[[pd.DataFrame], np.ndarray] | None = None
    parts: Callable[[pd.DataFrame], np.ndarray] | None = None
    note: str
    cannot: str
    cost: str
