"""What a claim is judged by: the replayed cells, the runs at temperature 1, and sound tests."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdstudy.analysis.cells import cells, main_runs
from kdstudy.analysis.families import holm
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test
from kdstudy.paper import published
from kdstudy.paper.replay import ALPHA, replay

STANDS = "stands"
IN_PART = "stands in part"
FALLS = "does not stand"
UNKNOWN = "cannot be told from what was released"

NAMES = ("math", "commonsense")
COLLAPSED = 0.5
"""A run has collapsed if some task falls below this share of its student's SFT accuracy."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim of the paper and what becomes of it.

    Attributes:
        key: Anchor on the page.
        says: The claim, in our words.
        where: Where the paper makes it.
        printed: What it prints, with numbers.
        recomputed: What the released numbers give, done as the paper did.
        sound: What tests say that respect how the study was built.
        verdict: `STANDS`, `IN_PART`, `FALLS` or `UNKNOWN`; a rule of the numbers, never typed in.
        because: The verdict's reason in one sentence.
    """

    key: str
    says: str
    where: str
    printed: str
    recomputed: list[str]
    sound: list[str]
    verdict: str
    because: str


class Evidence:
    """Everything that claims read, computed once."""

    @functools.cached_property
    def best(self) -> pd.DataFrame:
        """The cells as the paper took them: best temperature on the test set."""
        return published.cells("max")

    @functools.cached_property
    def tau1(self) -> pd.DataFrame:
        """The cells at temperature 1, with `collapsed`, true for every task of a collapsed run."""
        rows = published.cells("tau1")
        low = (rows.score < COLLAPSED * rows.baseline) & (rows.task != published.AVERAGE)
        run = [rows[c] for c in published.CELL if c != "task"]
        return rows.assign(collapsed=low.groupby(run).transform("any"))

    @functools.cached_property
    def replays(self) -> dict[str, dict]:
        """The replay of Tables 1-5 per aggregation."""
        return {a: replay(a) for a in ("max", "tau1", "printed")}

    @functools.cached_property
    def agreement_runs(self) -> pd.DataFrame:
        """Which runs the released agreements can belong to."""
        return published.agreement_runs()

    def sound(self, benchmark: str, intact: bool = False) -> pd.DataFrame:
        """Return the cells at temperature 1, in fractions, as the sound tests read them.

        Agreement goes to the RevKD run that it was measured on and to no other.

        Args:
            benchmark: `math` or `commonsense`.
            intact: Leave out collapsed runs.

        Returns:
            What `cells.cells` returns; its task `average` is unrounded.
        """
        return self._sound[benchmark, intact]

    def average(self, benchmark: str, intact: bool = False) -> pd.DataFrame:
        """Return the task `average` of `sound`."""
        rows = self._sound[benchmark, intact]
        return rows[rows.task == AVERAGE]

    @functools.cached_property
    def _sound(self) -> dict[tuple[str, bool], pd.DataFrame]:
        rows = self.tau1[self.tau1.task != published.AVERAGE]
        own = self.agreement_runs.query("method == 'RevKD' and temperature == 1 and outside == 0")
        key = ["benchmark", "teacher", "student", "method"]
        measured = pd.MultiIndex.from_frame(rows[key]).isin(pd.MultiIndex.from_frame(own[key]))
        together = ["agreement", "agreement_sft"]
        fractions = rows[["score", "baseline", "teacher_score", *together]] / 100
        fractions.loc[~measured, together] = math.nan
        rows = rows.assign(**fractions, temperature=1.0, size=1e9 * rows["size"])
        return {
            (name, intact): cells(
                main_runs(rows[(rows.benchmark == name) & ~(intact & rows.collapsed)])
            )
            for name in NAMES
            for intact in (False, True)
        }

    def cell(self, aggregation: str, table: str, panel: str, row: str, task: str) -> dict:
        """Return one cell of a replay."""
        for cell in self.replays[aggregation]["cells"]:
            if (cell["table"], cell["panel"], cell["row"], cell["task"]) == (
                *(table, panel),
                *(row, task),
            ):
                return cell
        raise KeyError(f"no cell {table}{panel}, {row}, {task}")

    def averages(self, rows: pd.DataFrame, benchmark: str) -> pd.DataFrame:
        """Return the average rows of one benchmark group."""
        return rows[(rows.benchmark == benchmark) & (rows.task == published.AVERAGE)]


def significant(test: Test) -> bool:
    """Return whether one test, alone in its question, refuses its null at 5%."""
    return test.p < ALPHA


def survivors(tests: Sequence[Test]) -> list[Test]:
    """Return the tests of one question that refuse their null at 5% after Holm's correction."""
    known = [t for t in tests if not math.isnan(t.p)]
    if not known:
        return []
    adjusted = holm(np.array([t.p for t in known]))
    return [t for t, p in zip(known, adjusted, strict=True) if p <= ALPHA]


def listed(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def told(tests: Mapping[str, Test]) -> list[str]:
    """Return each test's sentence after the benchmark that it is about."""
    return [f"{name.capitalize()}: {test.sentence}" for name, test in tests.items()]
