"""Every test of a study: of its runs, of its items against SFT, and of methods item by item."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from kdstudy.analysis.analysis import analyze
from kdstudy.analysis.fidelity_gaps import Pairs, Tokens, unlike_tests
from kdstudy.analysis.methods import called, compare_methods, runs_of, student_tests
from kdstudy.analysis.paired import EQUIVALENCE_MARGIN, paired_tests
from kdstudy.analysis.results import AVERAGE, names_of
from kdstudy.analysis.runs import from_results
from kdstudy.analysis.verdict import Test, format_p, points
from kdstudy.records import Score, System

__all__ = [
    "EQUIVALENCE_MARGIN",
    "Test",
    "format_p",
    "main_grid",
    "points",
    "run_tests",
    "study_tests",
]


def study_tests(
    table: pd.DataFrame,
    systems: Sequence[System] = (),
    scores: Mapping[str, Sequence[Score]] | None = None,
    chance: Mapping[str, float] | None = None,
    pairs: Pairs | None = None,
    tokens: Tokens | None = None,
) -> list[Test]:
    """Return every test that a study, finished or not, has rows for.

    Args:
        table: From `results.collect` or `results.read_csv`.
        systems: The study's systems.
        scores: Graded generations by system label; without them methods are not compared by item.
        chance: Chance accuracy by benchmark, under which a run counts as collapsed.
        pairs: Compared answers by (system, reference); without them fidelity is not tested.
        tokens: Token-level sums by (system, reference).
    """
    runs = runs_of(systems, scores or {})
    names = names_of(table)
    found = run_tests(table, chance, student_tests(runs, called(systems, names)))
    unlike = unlike_tests(systems, pairs or {}, tokens or {}, names)
    return [*found, *paired_tests(table), *compare_methods(runs), *unlike]


def run_tests(
    table: pd.DataFrame,
    chance: Mapping[str, float] | None = None,
    by_student: Sequence[Test] = (),
) -> list[Test]:
    """Return `analysis.analyze` of the main grid; no tests where no run has a gain."""
    runs = main_grid(table)
    if runs is None:
        return list(by_student)
    return analyze(runs, chance=chance, by_student=by_student)


def main_grid(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return the main grid's runs (`runs.from_results`), or None where none has a gain.

    A method may have its own temperature there, so no run is set aside for it.
    """
    main = table[table.ablation == ""]
    gains = (main.kind == "distilled") & (main.metric == "gain") & (main.benchmark != AVERAGE)
    return from_results(main).assign(temperature=math.nan) if gains.any() else None
