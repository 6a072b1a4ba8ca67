"""One student with several seeds, where no item is known: what other seeds would show."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from kdstudy.analysis.cells import CELL, scopes
from kdstudy.analysis.methods import NAME, subject_of
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points

FLAT = 1e-12


def seed_gains(frame: pd.DataFrame) -> list[Test]:
    """Return, per task, student, teacher and method, the difference from SFT over their seeds.

    Welch's (1947) t-test of the method's runs against the SFT runs that they are compared with,
    since seeds are draws of each, and need not be the same; with one SFT run, that is taken to vary
    over seeds as the method's do. Where a table gives baselines but not whose they are, runs are
    paired with them. The items stay the same: nothing is said of others.

    Args:
        frame: From `cells.main_runs`.
    """
    found = []
    for scope in reversed(scopes(frame)):
        part = frame[frame.task == scope]
        for cell, runs in part.groupby(CELL, sort=True):
            found.append(_gain(runs, dict(zip(CELL, cell, strict=True)), scope))
    return found


def _gain(runs: pd.DataFrame, cell: dict[str, str], scope: str) -> Test:
    named = runs[runs.baseline_run != ""].drop_duplicates("baseline_run")
    known = (runs.baseline_run != "").all()
    before = named.baseline if known else runs.baseline
    if known and all(runs.baselines):  # every run has the same: all seeds of SFT
        before = pd.Series(runs.baselines.iloc[0])
    estimate, error, freedom, told = _error(runs.score, before, known)
    counts = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
    if known and len(before) not in (1, len(runs)):
        counts += f" of {cell['method']} and {len(before)} of SFT"
    student, method = cell["student"], cell["method"]
    shared = {
        "table": "student",
        "name": NAME,
        "subject": subject_of(student, method, cell["teacher"]),
        "scope": scope,
        "n": len(runs),
        "clusters": len(runs),
        "signature": f"seeds|{told}|n:{len(runs)}|sft:{len(before)}",
        "family": f"{NAME}, {'average' if scope == AVERAGE else 'tasks'}",
    }
    where = "" if scope == AVERAGE else f", {scope}"
    text = f"{method} − SFT on {student}{where}: {points(estimate)} points"
    if math.isnan(error):
        return empty(shared, f"{text}; {_why_not(len(runs), len(before))}.", estimate=estimate)
    t = estimate / error
    p = float(2 * stats.t.sf(abs(t), freedom))
    low, high = stats.t.interval(0.95, freedom, estimate, error)
    text += (
        f" (95% interval {points(float(low))} to {points(float(high))}, p = {format_p(p)}); units "
        f"are {counts}: it holds for other seeds of {student} on these items, not for other items "
        "or students"
    )
    if told == "one run of SFT":
        text += "; SFT has one seed and is taken to vary as the method does"
    elif told == "one run of the method":
        text += f"; {method} has one seed and is taken to vary as SFT does"
    ends = {"low": float(low), "high": float(high)}
    return Test(**shared, statistic=t, estimate=estimate, **ends, p=p, sentence=f"{text}.")


def _error(after: pd.Series, before: pd.Series, known: bool) -> tuple[float, float, float, str]:
    """Return the difference, its standard error and degrees of freedom, and how they were found."""
    n, m = len(after), len(before)
    estimate = float(after.mean() - before.mean())
    if not known and n > 1 and np.ptp(before) > FLAT:
        change = (after - before).to_numpy()
        return *_kept(estimate, change.var(ddof=1) / n, n - 1), "paired"
    if not known:
        m = 1
    a = float(after.var(ddof=1)) if n > 1 else math.nan
    b = float(before.var(ddof=1)) if m > 1 else math.nan
    if n > 1 and m > 1:
        total = a / n + b / m
        parts = (a / n) ** 2 / (n - 1) + (b / m) ** 2 / (m - 1)
        return *_kept(estimate, total, total**2 / parts if parts else math.nan), "welch"
    if n > 1:
        return *_kept(estimate, a * (1 / n + 1), n - 1), "one run of SFT"
    if m > 1:
        return *_kept(estimate, b * (1 + 1 / m), m - 1), "one run of the method"
    return estimate, math.nan, math.nan, "one run each"


def _kept(estimate: float, variance: float, freedom: float) -> tuple[float, float, float]:
    error = math.sqrt(variance) if variance > FLAT**2 else math.nan
    return estimate, error, freedom


def _why_not(runs: int, before: int) -> str:
    if max(runs, before) == 1:
        return (
            "its interval and p cannot be estimated from one seed: give several, or rows per item"
        )
    return "its interval and p cannot be estimated: every seed gave the same"
