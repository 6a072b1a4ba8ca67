"""The study's own tests: the paper's Tables 1-5, and the paired per-item tests beside them."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS

from kdstudy.analyze.paired import EQUIVALENCE_MARGIN, method_tests, paired_tests
from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.verdict import Test, empty, format_p, points, signed
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

EXACT_PAIRINGS = 7
"""Up to this many rows a rank correlation's p is exact: 7! = 5,040 pairings."""

FACTORS = {
    "2": ("teacher_accuracy", "teacher accuracy", "one teacher"),
    "3": ("parameters", "student size", "one student size"),
    "4": ("agreement", "agreement with the teacher", "agreement does not vary"),
    "5": ("bleu_corpus", "fidelity to the teacher", "fidelity does not vary"),
}
"""Paper table number -> (column of `grid`, its name in a sentence, what to say when constant)."""


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
    rows = grid(table)
    found: list[Test] = []
    for scope in scopes(table):
        part = rows[rows.benchmark == scope]
        found.append(_gain_test(part, "all methods", scope))
        methods = sorted(part.method.unique())
        found += [_gain_test(part[part.method == m], m, scope) for m in methods]
        found.append(_anova(part, methods, scope))
        found += [_spearman(part, number, scope) for number in FACTORS]
    return sorted(found, key=lambda t: t.table)


def within_tests(table: pd.DataFrame) -> list[Test]:
    """Return correlations of gain with a factor inside students (repeated-measures correlation).

    A pooled correlation mixes differences between students with those between runs of one
    student; these hold the student fixed (Bland and Altman 1995).
    """
    rows = grid(table)
    return [
        _within(rows[rows.benchmark == scope], number, scope)
        for number in FACTORS
        for scope in scopes(table)
    ]


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


def _gain_test(part: pd.DataFrame, subject: str, scope: str) -> Test:
    gains = part.gain.dropna().to_numpy()
    n, students = len(gains), part.student.nunique()
    shared = {
        "table": "1",
        "name": "one-sample t-test",
        "subject": subject,
        "scope": scope,
        "n": n,
        "clusters": students,
        "signature": f"ttest_1samp|greater|n:{n}|students:{students}",
    }
    mean = float(gains.mean()) if n else math.nan
    reason = "fewer than two runs" if n < 2 else "every run gained the same" if _flat(gains) else ""
    if reason:
        sentence = f"The gain of {subject} on {scope} cannot be tested: {reason}."
        return empty(shared, sentence, estimate=mean)
    result = stats.ttest_1samp(gains, 0, alternative="greater")
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    sentence = (
        f"Over {n} runs of {students} students, {_named(subject)} gained {points(mean)} points on "
        f"{scope} (95% interval {points(interval.low)} to {points(interval.high)}; one-sided "
        f"p = {format_p(float(result.pvalue))})."
    )
    return Test(
        **shared,
        statistic=float(result.statistic),
        estimate=mean,
        low=float(interval.low),
        high=float(interval.high),
        p=float(result.pvalue),
        sentence=sentence,
    )


def _anova(part: pd.DataFrame, methods: Sequence[str], scope: str) -> Test:
    groups = [part[part.method == m].gain.dropna().to_numpy() for m in methods]
    n = sum(map(len, groups))
    shared = {
        "table": "1",
        "name": "one-way ANOVA",
        "subject": "all methods",
        "scope": scope,
        "n": n,
        "clusters": part.student.nunique(),
        "signature": f"f_oneway|methods:{len(methods)}|n:{n}",
    }
    inside = sum(float(((g - g.mean()) ** 2).sum()) for g in groups if len(g))
    if len(methods) < 2 or n <= len(methods) or inside < 1e-18:
        reason = "one method" if len(methods) < 2 else "no spread inside methods to compare with"
        return empty(shared, f"Methods cannot be compared on {scope}: {reason}.")
    result = stats.f_oneway(*groups)
    total = float(((np.concatenate(groups) - np.concatenate(groups).mean()) ** 2).sum())
    share = 1 - inside / total
    sentence = (
        f"Method explains {100 * share:.0f}% of the spread of gains on {scope} "
        f"(F = {result.statistic:.2f}, p = {format_p(float(result.pvalue))}, n = {n})."
    )
    numbers = {"statistic": float(result.statistic), "estimate": share, "p": float(result.pvalue)}
    return Test(**shared, **numbers, low=math.nan, high=math.nan, sentence=sentence)


def _spearman(part: pd.DataFrame, number: str, scope: str) -> Test:
    column, factor, constant = FACTORS[number]
    rows = part[["gain", column, "student"]].dropna()
    n = len(rows)
    exact = n <= EXACT_PAIRINGS
    shared = {
        "table": number,
        "name": "Spearman rank correlation",
        "subject": factor,
        "scope": scope,
        "n": n,
        "clusters": rows.student.nunique(),
        "signature": f"spearmanr|gain~{column}|p:{'exact' if exact else 't'}|n:{n}",
    }
    reason = _why_no_correlation(rows.gain.to_numpy(), rows[column].to_numpy(), constant)
    if reason:
        return empty(shared, f"Gain against {factor} on {scope}: {reason}: cannot be estimated.")
    rho, p = stats.spearmanr(rows.gain, rows[column])
    if exact:
        p = _exact_p(rows[column].to_numpy(), rows.gain.to_numpy())
    low, high = _fisher(stats.rankdata(rows.gain), stats.rankdata(rows[column]))
    sentence = (
        f"Gain and {factor} on {scope}: rho = {signed(rho)}, p = {format_p(float(p))}, "
        f"n = {n} runs of {shared['clusters']} students."
    )
    numbers = {"statistic": float(rho), "estimate": float(rho), "low": low, "high": high}
    return Test(**shared, **numbers, p=float(p), sentence=sentence)


def _within(part: pd.DataFrame, number: str, scope: str) -> Test:
    column, factor, constant = FACTORS[number]
    rows = part[["gain", column, "student"]].dropna()
    n, students = len(rows), rows.student.nunique()
    shared = {
        "table": "within",
        "name": "within-student correlation",
        "subject": factor,
        "scope": scope,
        "n": n,
        "clusters": students,
        "signature": f"rmcorr|gain~{column}+student|n:{n}",
    }
    inside = rows[["gain", column]] - rows.groupby("student")[["gain", column]].transform("mean")
    freedom = n - students - 1
    reason = f"{constant} within a student" if _flat(inside[column]) else ""
    reason = reason or ("too few runs per student" if freedom < 2 or _flat(inside.gain) else "")
    if reason:
        return empty(
            shared, f"Within students, {factor} on {scope}: {reason}: cannot be estimated."
        )
    dummies = pd.get_dummies(rows.student, dtype=float)
    fit = OLS(rows.gain, pd.concat([rows[column], dummies], axis=1)).fit()
    t = float(fit.tvalues[column])
    r = t / math.sqrt(t * t + freedom)
    p = float(fit.pvalues[column])
    sentence = (
        f"Within students, gain and {factor} on {scope}: r = {signed(r)}, p = {format_p(p)}, "
        f"n = {n} runs of {students} students."
    )
    low, high = _fisher(inside.gain.to_numpy(), inside[column].to_numpy(), rows=freedom + 2)
    return Test(**shared, statistic=r, estimate=r, low=low, high=high, p=p, sentence=sentence)


def _why_no_correlation(gain: np.ndarray, factor: np.ndarray, constant: str) -> str:
    if len(gain) < 3:
        return "fewer than three runs"
    if _flat(factor):
        return constant
    return "every run gained the same" if _flat(gain) else ""


def _exact_p(x: np.ndarray, y: np.ndarray) -> float:
    result = stats.permutation_test(
        (x,),
        lambda x: stats.spearmanr(x, y).statistic,
        permutation_type="pairings",
        n_resamples=math.inf,
        vectorized=False,
    )
    return float(result.pvalue)


def _fisher(x: np.ndarray, y: np.ndarray, rows: int | None = None) -> tuple[float, float]:
    """Return Fisher's interval; NaN where its width would be zero or infinite."""
    n = len(x) if rows is None else rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        r = float(stats.pearsonr(x, y).statistic)
    if n < 4 or abs(r) > 1 - 1e-12:
        return math.nan, math.nan
    low, high = np.tanh(stats.norm.interval(0.95, np.arctanh(r), 1 / math.sqrt(n - 3)))
    return float(low), float(high)


def _flat(values) -> bool:
    values = np.asarray(values, dtype=float)
    return not len(values) or float(np.ptp(values)) < 1e-12


def _named(subject: str) -> str:
    return "distillation" if subject == "all methods" else subject
