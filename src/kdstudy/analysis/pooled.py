"""The paper's own tests (its Tables 1 to 5), which take every run for an independent one."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from kdstudy.analysis.cells import ALL, on, scopes, subjects
from kdstudy.analysis.correlations import FACTORS, spearman
from kdstudy.analysis.families import family
from kdstudy.analysis.verdict import Test, empty, format_p, points


def pooled_tests(rows: pd.DataFrame) -> list[Test]:
    """Return the paper's Tables 1 to 5, in that order.

    Table 1: one-sample t-test of the gains, greater than 0, and one-way ANOVA over methods; Tables
    2 to 5: Spearman's correlation of the gain with teacher accuracy, size, agreement, fidelity.

    Args:
        rows: From `cells.cells`: one row per (student, teacher, method, task).
    """
    found: list[Test] = []
    for scope in scopes(rows):
        part = rows[rows.task == scope]
        found += [gain_t(p, subject, scope) for subject, p in subjects(part)]
        found.append(anova(part, scope))
        found += [spearman(part, factor, scope) for factor in FACTORS]
    return sorted(found, key=lambda t: t.table)


def gain_t(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the one-sample t-test of all gains, greater than 0; its interval is two-sided."""
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
        "family": family("one-sample t-test", subject, scope),
    }
    mean = float(gains.mean()) if n else math.nan
    reason = "fewer than two runs" if n < 2 else "every run gained the same" if _flat(gains) else ""
    if reason:
        sentence = f"The gain of {subject} {on(scope)} cannot be tested: {reason}."
        return empty(shared, sentence, estimate=mean)
    result = stats.ttest_1samp(gains, 0, alternative="greater")
    interval = stats.ttest_1samp(gains, 0).confidence_interval()
    named = "distillation" if subject == ALL else subject
    sentence = (
        f"Over {n} runs of {students} students, {named} gained {points(mean)} points {on(scope)} "
        f"(95% interval {points(interval.low)} to {points(interval.high)}; one-sided "
        f"p = {format_p(float(result.pvalue))}, runs as if independent)."
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


def anova(part: pd.DataFrame, scope: str = "") -> Test:
    """Return the one-way ANOVA of gains over methods; its effect is eta squared."""
    methods = sorted(part.method.unique())
    groups = [part[part.method == m].gain.dropna().to_numpy() for m in methods]
    n = sum(map(len, groups))
    shared = {
        "table": "1",
        "name": "one-way ANOVA",
        "subject": ALL,
        "scope": scope,
        "n": n,
        "clusters": part.student.nunique(),
        "signature": f"f_oneway|methods:{len(methods)}|n:{n}",
        "family": family("one-way ANOVA", ALL, scope),
    }
    inside = sum(float(((g - g.mean()) ** 2).sum()) for g in groups if len(g))
    if len(methods) < 2 or n <= len(methods) or inside < 1e-18:
        reason = "one method" if len(methods) < 2 else "no spread inside methods to compare with"
        return empty(shared, f"Methods cannot be compared {on(scope)}: {reason}.")
    result = stats.f_oneway(*groups)
    total = float(((np.concatenate(groups) - np.concatenate(groups).mean()) ** 2).sum())
    share = 1 - inside / total
    sentence = (
        f"Method explains {100 * share:.0f}% of the spread of gains {on(scope)} "
        f"(F = {result.statistic:.2f}, p = {format_p(float(result.pvalue))}, n = {n})."
    )
    numbers = {"statistic": float(result.statistic), "estimate": share, "p": float(result.pvalue)}
    return Test(**shared, **numbers, low=math.nan, high=math.nan, sentence=sentence)


def _flat(values: np.ndarray) -> bool:
    return not len(values) or float(np.ptp(values)) < 1e-12
