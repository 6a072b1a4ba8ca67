"""The study's own tests: the paper's Tables 1-5, and the paired per-item tests beside them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdstudy.analyze.correlations import FACTORS, within
from kdstudy.analyze.families import corrected
from kdstudy.analyze.paired import EQUIVALENCE_MARGIN, method_tests, paired_tests
from kdstudy.analyze.pooled import pooled_tests
from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.verdict import Test, format_p, points
from kdstudy.records import Score, System

__all__ = [
    "EQUIVALENCE_MARGIN",
    "Test",
    "format_p",
    "grid",
    "method_tests",
    "paired_tests",
    "paper_tests",
    "points",
    "scopes",
    "study_tests",
    "within_tests",
]

_COLUMNS = {
    "benchmark": "task",
    "parameters": "size",
    "accuracy": "score",
    "bleu_corpus": "fidelity",
    "teacher_accuracy": "teacher_score",
}


def study_tests(
    table: pd.DataFrame,
    systems: Sequence[System] = (),
    scores: Mapping[str, Sequence[Score]] | None = None,
) -> list[Test]:
    """Return every test of a study; comparisons between methods need the graded items."""
    found = [*paper_tests(table), *within_tests(table), *paired_tests(table)]
    if scores:
        found += method_tests(systems, scores)
    return found


def paper_tests(table: pd.DataFrame) -> list[Test]:
    """Return the paper's Tables 1-5 for this study's main grid.

    One row per (student, teacher, method), seeds averaged first: a second seed is no new student.
    """
    return corrected(pooled_tests(_cells(table)))


def within_tests(table: pd.DataFrame) -> list[Test]:
    """Return correlations of gain with a factor inside students (repeated-measures correlation).

    A pooled correlation mixes differences between students with those between runs of one
    student; these hold the student fixed (Bland and Altman 1995).
    """
    rows = _cells(table)
    return corrected(
        [
            within(rows[rows.task == scope], factor, scope, table="within")
            for factor in FACTORS
            for scope in scopes(table)
        ]
    )


def scopes(table: pd.DataFrame) -> list[str]:
    """Return the benchmarks of a table, the average last."""
    names = sorted(set(table.benchmark) - {AVERAGE})
    return [*names, AVERAGE] if AVERAGE in set(table.benchmark) else names


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (student, teacher, method, benchmark) of the main grid, seeds averaged.

    Columns: those four, parameters, accuracy, gain, agreement, bleu_corpus, teacher_accuracy.
    """
    wanted = ["accuracy", "gain", "agreement", "bleu_corpus"]
    main = table[(table.kind == "distilled") & (table.ablation == "")]
    with_teacher = main[main.metric.isin(wanted[2:]) & (main.reference == main.teacher)]
    rows = pd.concat([main[main.metric.isin(wanted[:2])], with_teacher])
    key = ["student", "teacher", "method", "benchmark", "parameters"]
    wide = rows.pivot_table(
        index=key, columns="metric", values="value", aggfunc="mean", dropna=False, observed=True
    )
    wide = wide.reindex(columns=wanted).dropna(how="all").reset_index()
    accuracy = table[table.metric == "accuracy"].set_index(["system", "benchmark"]).value
    where = pd.MultiIndex.from_frame(wide[["teacher", "benchmark"]])
    wide["teacher_accuracy"] = accuracy.reindex(where).to_numpy()
    wide["parameters"] = wide.parameters.astype(float)
    return wide


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return `grid` in the columns of `cells.cells`; fidelity stays BLEU, which ranks alike."""
    return grid(table).rename(columns=_COLUMNS)
