"""Do methods differ? Tests on cells that every method has, with students as blocks."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.anova import AnovaRM

from kdstudy.analysis.cells import ALL, on, scopes
from kdstudy.analysis.clustered import student_mean
from kdstudy.analysis.families import family
from kdstudy.analysis.paired import EQUIVALENCE_MARGIN
from kdstudy.analysis.verdict import Test, empty, format_p, points

EXACT_ARRANGEMENTS = 50_000
"""Up to this many orders of methods inside students Friedman's p is exact."""
SAMPLED_ARRANGEMENTS = 9_999

_CELL = ["student", "teacher", "method"]
_VALUES = ["gain", "items", "seed_variance"]


def matched_tests(rows: pd.DataFrame) -> list[Test]:
    """Return, per task: Friedman, repeated-measures ANOVA, and every pair of methods.

    A pair is compared twice: for a difference (t-test of students' mean differences), and for
    equivalence within `EQUIVALENCE_MARGIN` (two one-sided tests). Only (student, teacher) cells
    that have the methods in question count; a student's cells are averaged.

    Args:
        rows: From `cells.cells`.
    """
    found = []
    for scope in reversed(scopes(rows)):
        known = rows[rows.task == scope].reindex(columns=[*_CELL, *_VALUES])
        wide = known.pivot(index=_CELL[:2], columns=_CELL[2], values=_VALUES)
        wide = {name: wide[name] for name in _VALUES}
        blocks = wide["gain"].dropna().groupby("student").mean()
        found += [friedman(blocks, scope), repeated_measures(blocks, scope)]
        for a, b in itertools.combinations(blocks.columns, 2):
            change = _changes(wide, a, b)
            found += [_difference(change, a, b, scope), _equivalence(change, a, b, scope)]
    return found


def _changes(wide: Mapping[str, pd.DataFrame], a: str, b: str) -> pd.DataFrame:
    """Return the cells that both methods have, as `student_mean` takes them."""
    of_a, of_b = ({name: wide[name][m].to_numpy(float) for name in _VALUES} for m in (a, b))
    change = of_a["gain"] - of_b["gain"]
    both = ~np.isnan(change)
    students, teachers = (wide["gain"].index.get_level_values(i)[both] for i in (0, 1))
    return pd.DataFrame(
        {
            "student": students,
            "teacher": teachers,
            "change": change[both],
            "items": of_a["items"][both],
            "seed_variance": (of_a["seed_variance"] + of_b["seed_variance"])[both],
        }
    )


def friedman(blocks: pd.DataFrame, scope: str = "") -> Test:
    """Return Friedman's rank test of methods (columns) over students (rows).

    The effect is Kendall's W (0 to 1), which has no interval here. The p is that of all (or
    sampled) orders of methods inside students, as the chi-square is rough for six students.
    """
    n, k = blocks.shape
    orders = math.factorial(k) ** n if n * k < 60 else math.inf
    exact = orders <= EXACT_ARRANGEMENTS
    kind = "exact" if exact else f"sampled:{SAMPLED_ARRANGEMENTS}|seed:0"
    shared = _shared("Friedman test", ALL, scope, blocks, f"friedman|{kind}")
    ranks = stats.rankdata(blocks.to_numpy(float).round(12), axis=1)
    tied = not ranks.size or np.ptp(ranks, axis=1).max() < 1e-12
    reason = _why_not(blocks, "no student tells them apart" if tied else "")
    if reason or k == 2:
        reason = reason or "two methods only, their difference says it all"
        return empty(shared, f"Methods cannot be compared {on(scope)} by rank: {reason}.")
    chi2 = float(stats.friedmanchisquare(*ranks.T).statistic)
    p = _rank_p(ranks, exact)
    w = chi2 / (n * (k - 1))
    order = ", ".join(blocks.columns[np.argsort(-ranks.mean(axis=0), kind="stable")])
    sentence = (
        f"Ranked inside {n} students, methods order as {order} {on(scope)} (Friedman chi-square "
        f"{chi2:.2f}, Kendall's W = {w:.2f}, p = {format_p(p)})."
    )
    return Test(
        **shared, statistic=chi2, estimate=w, low=math.nan, high=math.nan, p=p, sentence=sentence
    )


def repeated_measures(blocks: pd.DataFrame, scope: str = "") -> Test:
    """Return the repeated-measures ANOVA of methods (columns) within students (rows).

    Degrees of freedom are scaled by Greenhouse and Geisser's (1959) epsilon, which scipy and
    statsmodels lack. The effect is partial eta squared; its interval inverts the noncentral F
    (Steiger 2004) on the unscaled degrees.
    """
    n = len(blocks)
    shared = _shared("repeated-measures ANOVA", ALL, scope, blocks, "anova-rm|greenhouse-geisser")
    rest = blocks.sub(blocks.mean(axis=1), axis=0)
    flat = np.allclose(rest - rest.mean(), 0, atol=1e-12)
    equal = np.allclose(rest, 0, atol=1e-12)
    alike = "no student tells them apart" if equal else "every student tells them apart alike"
    reason = _why_not(blocks, alike if flat else "")
    if reason:
        return empty(shared, f"Methods cannot be compared {on(scope)} by mean: {reason}.")
    # Numbers for names: the formula language takes one called "nan" for a missing value.
    coded = blocks.set_axis(range(n), axis=0).set_axis(range(blocks.shape[1]), axis=1)
    coded = coded.rename_axis(index="student", columns="method")
    long = coded.stack().rename("gain").reset_index()
    row = AnovaRM(long, "gain", "student", within=["method"]).fit().anova_table.iloc[0]
    f, top, bottom = float(row["F Value"]), int(row["Num DF"]), int(row["Den DF"])
    epsilon = greenhouse_geisser(blocks.to_numpy(float))
    p = float(stats.f.sf(f, epsilon * top, epsilon * bottom))
    eta = f * top / (f * top + bottom)
    low, high = _eta_interval(f, top, bottom)
    sentence = (
        f"Inside {n} students, method explains {100 * eta:.0f}% of what students leave {on(scope)} "
        f"(F = {f:.2f}, epsilon = {epsilon:.2f}, p = {format_p(p)}); a large p does not make "
        "methods equal."
    )
    return Test(**shared, statistic=f, estimate=eta, low=low, high=high, p=p, sentence=sentence)


def greenhouse_geisser(y: np.ndarray) -> float:
    """Return Greenhouse and Geisser's epsilon of `(subjects, conditions)`: 1/(k - 1) to 1."""
    k = y.shape[1]
    s = np.cov(y, rowvar=False)
    s = s - s.mean(axis=0) - s.mean(axis=1, keepdims=True) + s.mean()
    return float(np.clip(np.trace(s) ** 2 / ((k - 1) * (s**2).sum()), 1 / (k - 1), 1))


def _difference(change: pd.DataFrame, a: str, b: str, scope: str) -> Test:
    shared = _pair("matched difference", a, b, scope, change, "t|student means")
    found = student_mean(change, "change")
    if math.isnan(found.error):
        return empty(shared, _cannot(a, b, scope, change), estimate=found.estimate)
    low, high = found.interval()
    told = (
        f"{a} − {b} {on(scope)}: {points(found.estimate)} points over {shared['clusters']} "
        f"students (95% interval {points(low)} to {points(high)}, p = {format_p(found.p)})."
    )
    effect = {"statistic": found.statistic, "estimate": found.estimate, "low": low, "high": high}
    return Test(**shared, **effect, p=found.p, sentence=told)


def _equivalence(change: pd.DataFrame, a: str, b: str, scope: str) -> Test:
    sign = f"tost|margin:{EQUIVALENCE_MARGIN}|student means"
    shared = _pair("equivalence (TOST)", a, b, scope, change, sign)
    # What is refused is a difference of the margin, which changes that share of the items.
    found = student_mean(change, "change", least=EQUIVALENCE_MARGIN)
    if math.isnan(found.error):
        return empty(shared, _cannot(a, b, scope, change), estimate=found.estimate)
    distance = EQUIVALENCE_MARGIN - abs(found.estimate)
    p = found.tail(distance)
    low, high = found.interval()
    inner = found.interval(0.90)
    verdict = "are" if p < 0.05 else "are not shown to be"
    told = (
        f"{a} and {b} {verdict} equivalent within {points(EQUIVALENCE_MARGIN, sign=False)} points "
        f"{on(scope)} (difference {points(found.estimate)}, 90% interval {points(inner[0])} to "
        f"{points(inner[1])}, p = {format_p(p)})."
    )
    effect = {"statistic": distance / found.error, "estimate": found.estimate}
    return Test(**shared, **effect, low=low, high=high, p=p, sentence=told)


def _shared(name: str, subject: str, scope: str, blocks: pd.DataFrame, sign: str) -> dict:
    n, k = blocks.shape
    return {
        "table": "matched",
        "name": name,
        "subject": subject,
        "scope": scope,
        "n": n * k,
        "clusters": n,
        "signature": f"{sign}|methods:{k}|students:{n}",
        "family": family(name, subject, scope),
    }


def _pair(name: str, a: str, b: str, scope: str, change: pd.DataFrame, sign: str) -> dict:
    students = change.student.nunique()
    return {
        "table": "matched",
        "name": name,
        "subject": f"{a} − {b}",
        "scope": scope,
        "n": len(change),
        "clusters": students,
        "signature": f"{sign}|cells:{len(change)}|students:{students}",
        "family": family(name, ALL, scope),
    }


def _cannot(a: str, b: str, scope: str, change: pd.DataFrame) -> str:
    several = change.student.nunique() > 1
    equal = change.change.abs().max() < 1e-12
    alike = "no student tells them apart" if equal else "every student tells them apart alike"
    why = alike if several else "fewer than two students have both"
    return f"{a} and {b} cannot be compared {on(scope)}: {why}."


def _why_not(blocks: pd.DataFrame, flat: str) -> str:
    n, k = blocks.shape
    if k < 2:
        return "one method"
    if n < 2:
        return "fewer than two students have every method"
    return flat


def _rank_p(ranks: np.ndarray, exact: bool) -> float:
    # Ranks keep their ties under every order, so the sum of squared rank sums decides.
    found = stats.permutation_test(
        tuple(ranks.T),
        lambda *columns, axis: sum(c.sum(axis=axis) ** 2 for c in columns),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=math.inf if exact else SAMPLED_ARRANGEMENTS,
        batch=4096,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _eta_interval(f: float, top: int, bottom: int) -> tuple[float, float]:
    ends = [_noncentrality(f, top, bottom, tail) for tail in (0.975, 0.025)]
    if ends[1] == 0 or any(map(math.isnan, ends)):
        return math.nan, math.nan  # F is smaller than any true effect explains, or beyond scipy
    low, high = (x / (x + top + bottom + 1) for x in ends)
    return low, high


def _noncentrality(f: float, top: int, bottom: int, tail: float) -> float:
    """Return the noncentrality under which an F this small has this probability; 0 at least."""
    if stats.f.cdf(f, top, bottom) <= tail:
        return 0.0
    most = 10.0 * (f * top + 10)
    while stats.ncf.cdf(f, top, bottom, most) > tail:
        most *= 2
    try:
        return float(
            optimize.brentq(lambda x: stats.ncf.cdf(f, top, bottom, x) - tail, 1e-12, most)
        )
    except ValueError:  # scipy's noncentral F is NaN where F is huge: runs that hardly differ
        return math.nan
