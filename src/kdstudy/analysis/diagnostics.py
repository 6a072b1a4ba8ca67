"""What to know before believing a test: forced agreement, seeds, collapsed runs, power."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

from kdstudy.analysis.cells import ALL, CELL, cells, on, scopes
from kdstudy.analysis.clustered import student_mean
from kdstudy.analysis.correlations import least_p
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points

POWER = 0.80
COLLAPSED_SHARE = 0.25
"""A run under this share of its SFT score, or under chance, has collapsed."""


def bounds_tests(rows: pd.DataFrame) -> list[Test]:
    """Return, per task, how much of the agreement with the teacher the two accuracies force.

    Two systems with accuracies s and t agree on at least s + t - 1 and at most 1 - |s - t| of the
    items. The estimate is the share of agreement's variance over cells that the middle of these
    bounds explains (squared Pearson correlation, Fisher's interval).

    Args:
        rows: From `cells.cells`.
    """
    s, t = rows.score, rows.teacher_score
    rows = rows.assign(lower=(s + t - 1).clip(lower=0), upper=1 - (s - t).abs())
    tasks = rows[rows.task != AVERAGE].dropna(subset=["lower"])
    # Bounds of a mean over tasks are the means of the tasks' bounds: narrower than its own.
    narrow = tasks.groupby(CELL)[["lower", "upper"]].mean()
    whole = tasks.groupby(CELL).size() == rows[rows.task != AVERAGE].task.nunique()
    narrow = narrow[whole].reindex(pd.MultiIndex.from_frame(rows[CELL])).set_axis(rows.index)
    average = rows.task == AVERAGE
    for column in ("lower", "upper"):
        rows[column] = narrow[column].where(average).fillna(rows[column])
    return [_bounds(rows[rows.task == scope], scope) for scope in scopes(rows)]


def seed_tests(frame: pd.DataFrame) -> list[Test]:
    """Return, per task, the standard deviation of the gain over seeds of the same cell.

    Pooled over cells with at least two seeds; chi-square interval; p of the one-way ANOVA of cells
    against seeds (small: cells differ by more than seeds do).

    Args:
        frame: From `cells.main_runs`.
    """
    found = [_seeds(frame[frame.task == scope], scope) for scope in scopes(frame)]
    return [t for t in found if t.scope == AVERAGE or not math.isnan(t.estimate)]


def collapse_tests(frame: pd.DataFrame, chance: Mapping[str, float] | None = None) -> list[Test]:
    """Return the mean gain without collapsed runs, for the average and tasks that have some.

    Args:
        frame: From `cells.main_runs`.
        chance: Chance accuracy by task; with every task's given, also that of the average.
    """
    chance = dict(chance or {})
    tasks = [t for t in scopes(frame) if t != AVERAGE]
    if tasks and all(t in chance for t in tasks):
        chance.setdefault(AVERAGE, float(np.mean([chance[t] for t in tasks])))
    floor = frame.task.map(chance).astype(float)
    frame = frame.assign(
        bad=(frame.score < floor) | (frame.score < COLLAPSED_SHARE * frame.baseline),
        floor=floor,
    )
    found = [_collapse(frame[frame.task == scope], scope) for scope in scopes(frame)]
    return [t for t in found if t.scope == AVERAGE or t.statistic]


def power_tests(rows: pd.DataFrame) -> list[Test]:
    """Return, per task, the smallest mean gain the plain t-test finds four times in five.

    From the standard error that this design had (`clustered.student_mean`) and the noncentral t;
    the interval carries the uncertainty of that error (chi-square). There is no p.

    Args:
        rows: From `cells.cells`.
    """
    return [_power(rows[rows.task == scope], scope) for scope in scopes(rows)]


def _bounds(part: pd.DataFrame, scope: str) -> Test:
    part = part.dropna(subset=["agreement", "lower", "upper"])
    n, students = len(part), part.student.nunique()
    shared = _shared("bounds", "bounds of agreement", "agreement with the teacher", scope)
    shared |= {"n": n, "clusters": students, "signature": f"pearsonr2|middle of bounds|n:{n}"}
    middle = (part.lower + part.upper) / 2
    if n < 3 or min(np.ptp(middle), np.ptp(part.agreement)) < 1e-12:
        why = "not measured" if not n else "fewer than three runs" if n < 3 else "nothing varies"
        text = f"What accuracy forces of agreement {on(scope)} cannot be estimated: {why}."
        return empty(shared, text)
    found = stats.pearsonr(middle, part.agreement)
    r = float(found.statistic)
    low, high = _squared(found.confidence_interval()) if n > 3 else (math.nan, math.nan)
    outside = (part.agreement < part.lower - 1e-9) | (part.agreement > part.upper + 1e-9)
    sentence = (
        f"Accuracies alone force agreement {on(scope)} between {100 * part.lower.mean():.0f}% and "
        f"{100 * part.upper.mean():.0f}% (it is {100 * part.agreement.mean():.0f}%); the middle of "
        f"these bounds explains {100 * r * r:.0f}% of its variance over {n} runs of {students} "
        f"students"
    )
    if outside.any():
        sentence += f"; {outside.sum()} lie outside, so they are not from the same answers"
    return Test(
        **shared,
        statistic=r,
        estimate=r * r,
        low=low,
        high=high,
        p=max(float(found.pvalue), least_p(middle, part.agreement)),
        sentence=sentence + ".",
    )


def _squared(interval) -> tuple[float, float]:
    low, high = (float(x) for x in interval)
    ends = sorted((low**2, high**2))
    return (0.0 if low < 0 < high else ends[0]), ends[1]


def _seeds(part: pd.DataFrame, scope: str) -> Test:
    groups = [g.to_numpy() for _, g in part.groupby(CELL).gain]
    repeated = [g for g in groups if len(g) > 1]
    n = sum(map(len, repeated))
    shared = _shared("seeds", "spread between seeds", ALL, scope)
    shared |= {"n": n, "clusters": len(repeated), "signature": f"pooled-sd|f_oneway|n:{n}"}
    if not repeated:
        text = f"One seed per run: what another would change {on(scope)} cannot be estimated."
        return empty(shared, text)
    freedom = n - len(repeated)
    squares = sum(float(((g - g.mean()) ** 2).sum()) for g in repeated)
    sd = math.sqrt(squares / freedom)
    if sd < 1e-12:
        text = f"Seeds gave equal gains {on(scope)}: their spread cannot be estimated."
        return empty(shared, text, estimate=0.0)
    low, high = (math.sqrt(squares / stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    f, p = stats.f_oneway(*repeated) if len(repeated) > 1 else (math.nan, math.nan)
    tail = (
        f"; cells differ more than seeds with p = {format_p(float(p))}" if len(repeated) > 1 else ""
    )
    sentence = (
        f"Another seed changes a gain {on(scope)} by {points(sd, sign=False)} points (standard "
        f"deviation over {n} runs of {len(repeated)} cells, 95% interval "
        f"{points(low, sign=False)} to {points(high, sign=False)}){tail}."
    )
    return Test(
        **shared, statistic=float(f), estimate=sd, low=low, high=high, p=float(p), sentence=sentence
    )


def _collapse(part: pd.DataFrame, scope: str) -> Test:
    rest = part[~part.bad]
    n, bad = len(part), int(part.bad.sum())
    shared = _shared("collapse", "gain without collapsed runs", ALL, scope)
    shared |= {
        "n": len(rest),
        "clusters": rest.student.nunique(),
        "signature": f"chance or under {COLLAPSED_SHARE} of SFT|t|student means|n:{len(rest)}",
    }
    before = student_mean(cells(part)).estimate if n else math.nan
    told = part.floor.notna().all()
    limit = "under chance, or under a quarter of SFT" if told else "under a quarter of SFT"
    limit += "" if told else "; what chance gives is not known here"
    if not bad:
        text = f"None of {n} runs collapsed {on(scope)} ({limit}), so none is left out and nothing"
        text += " is tested."
        return empty(shared, text, statistic=0.0, estimate=before)
    after = student_mean(cells(rest))
    text = (
        f"{bad} of {n} runs collapsed {on(scope)} ({limit}): mean gain {points(before)} points "
        f"with them"
    )
    if math.isnan(after.error):
        text += "; without them it cannot be tested."
        return empty(shared, text, statistic=float(bad), estimate=after.estimate)
    low, high = after.interval()
    text += (
        f", {points(after.estimate)} without (95% interval {points(low)} to {points(high)}, "
        f"p = {format_p(after.p)})."
    )
    effect = {"statistic": float(bad), "estimate": after.estimate, "low": low, "high": high}
    return Test(**shared, **effect, p=after.p, sentence=text)


def _power(part: pd.DataFrame, scope: str) -> Test:
    students = part.student.nunique()
    shared = _shared("power", "minimum detectable effect", ALL, scope)
    sign = f"two-sided 5%|power:{POWER}|t:students-1"
    shared |= {"n": len(part), "clusters": students, "signature": sign}
    found = student_mean(part)
    if math.isnan(found.error):
        why = "no spread between students" if students > 1 else "fewer than two students"
        return empty(shared, f"Power {on(scope)} cannot be estimated: {why}.")
    error = max(found.error, found.floor)
    effect = smallest_effect(students) * math.sqrt(students) * error
    freedom = found.freedom
    low, high = (effect * math.sqrt(freedom / stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    sentence = (
        f"With {students} students that differ as these do, a mean gain under "
        f"{points(effect, sign=False)} points {on(scope)} would be missed more than one time in "
        f"five by the plain t-test, and still more often where it is corrected for skewness (95% "
        f"interval {points(low, sign=False)} to {points(high, sign=False)})."
    )
    return Test(
        **shared,
        statistic=effect / error,
        estimate=effect,
        low=low,
        high=high,
        p=math.nan,
        sentence=sentence,
    )


def smallest_effect(students: int) -> float:
    """Return the effect, in standard deviations of students' means, that has 80% power at 5%."""
    design = {"nobs": students, "alpha": 0.05, "power": POWER, "alternative": "two-sided"}
    return float(TTestPower().solve_power(effect_size=None, **design))


def _shared(table: str, name: str, subject: str, scope: str) -> dict:
    return {"table": table, "name": name, "subject": subject, "scope": scope}
