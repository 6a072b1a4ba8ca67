"""What the gain goes with: pooled, between students, and inside students."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS

from kdstudy.analysis.cells import on, scopes
from kdstudy.analysis.families import family
from kdstudy.analysis.verdict import Test, empty, format_p, signed

EXACT_PAIRINGS = 7
"""Up to this many rows a rank correlation's p is exact: 7! = 5,040 pairings."""
EXACT_ORDERS = 20_000
"""Up to this many orders inside students all are tried; above it a seeded sample."""
SAMPLED_ORDERS = 4_999


@dataclasses.dataclass(frozen=True, slots=True)
class Factor:
    """Something a gain may go with.

    Attributes:
        column: Its column in the cells.
        name: Its name in a sentence.
        constant: What to say when it does not vary.
        table: Number of the paper's table about it.
    """

    column: str
    name: str
    constant: str
    table: str = "correlation"


TEACHER = Factor("teacher_score", "teacher accuracy", "one teacher", "2")
FACTORS = (
    TEACHER,
    Factor("size", "student size", "one student size", "3"),
    Factor("agreement", "agreement with the teacher", "agreement does not vary", "4"),
    Factor("fidelity", "fidelity to the teacher", "fidelity does not vary", "5"),
)
CHANGE = Factor("agreement_change", "change of agreement over SFT", "agreement changes alike")
_OUTCOMES = {"gain": "Gain", "score": "Raw accuracy"}


def correlation_tests(rows: pd.DataFrame) -> list[Test]:
    """Return what the gain goes with, beside the paper's pooled rank correlations.

    Per factor and task: pooled rank correlation of raw accuracy; rank correlation between
    students' means (and between teachers' for the teacher's accuracy); correlation inside
    students, with the usual p and with a permutation p; and the change of agreement over SFT
    against the gain (change on change).

    Args:
        rows: From `cells.cells`.
    """
    rows = rows.assign(agreement_change=rows.agreement - rows.agreement_sft)
    found: list[Test] = []
    for scope in scopes(rows):
        part = rows[rows.task == scope]
        found.append(spearman(part, CHANGE, scope))
        for factor in (*FACTORS, CHANGE):
            found.append(spearman(part, factor, scope, outcome="score"))
            found.append(between(part, factor, scope, "student"))
            found += [within(part, factor, scope), within_permuted(part, factor, scope)]
        found.append(between(part, TEACHER, scope, "teacher"))
    return found


def spearman(part: pd.DataFrame, factor: Factor, scope: str, outcome: str = "gain") -> Test:
    """Return the pooled Spearman correlation over cells, as the paper's Tables 2 to 5 do.

    Its p takes every cell for an independent one, which runs of one student are not.
    """
    rows = part[[outcome, factor.column, "student"]].dropna()
    students = rows.student.nunique()
    name = "Spearman rank correlation" + (", raw accuracy" if outcome == "score" else "")
    table = factor.table if outcome == "gain" else "correlation"
    found = _ranked(rows, factor, scope, outcome, {"table": table, "name": name}, students)
    what = f"{_OUTCOMES[outcome]} and {factor.name} {on(scope)}: rho"
    return _told(found, what, f"n = {len(rows)} runs of {students} students")


def between(part: pd.DataFrame, factor: Factor, scope: str, unit: str) -> Test:
    """Return the Spearman correlation between the means of students, or of teachers.

    One row per unit, so its p is one for that many units; up to seven it is exact.
    """
    rows = part[["gain", factor.column, unit]].dropna().groupby(unit).mean()
    head = {"table": "correlation", "name": f"Spearman between {unit}s"}
    found = _ranked(rows, factor, scope, "gain", head, len(rows))
    what = f"Between {unit}s, mean gain and {factor.name} {on(scope)}: rho"
    return _told(found, what, f"n = {len(rows)} {unit}s")


def within(part: pd.DataFrame, factor: Factor, scope: str, table: str = "correlation") -> Test:
    """Return the correlation of gain and factor inside students (Bland and Altman 1995).

    A factor that is one number per student and teacher is tested with one row per pair: methods
    that share it are no further evidence about it.
    """
    inside = _inside(part, factor)
    n, students = len(inside.of), inside.students
    shared = _head(factor, scope, n, students) | {
        "table": table,
        "name": "within-student correlation",
        "signature": f"rmcorr|gain~{factor.column}+student|n:{n}",
        "family": family("within-student correlation", factor.name, scope),
    }
    reason = _why_not_within(inside, factor)
    if reason:
        return _unknown_within(shared, factor, scope, reason)
    dummies = (inside.of[:, None] == np.arange(students)).astype(float)
    fit = OLS(inside.gain, np.column_stack([inside.factor, dummies])).fit()
    freedom = n - students - 1
    t, p = float(fit.tvalues[0]), float(fit.pvalues[0])
    r = t / math.sqrt(t * t + freedom) if math.isfinite(t) else math.copysign(1.0, t)
    if abs(r) > 1 - 1e-12:  # nothing is left to estimate an error from: then orders decide
        p = max(p, min(1.0, 2 / inside.orders))
    low, high = _fisher(inside.centred(inside.gain), inside.centred(inside.factor), freedom + 2)
    sentence = (
        f"Within students, gain and {factor.name} {on(scope)}: r = {signed(r)}, "
        f"p = {format_p(p)}, n = {n} {inside.unit} of {students} students."
    )
    return Test(**shared, statistic=r, estimate=r, low=low, high=high, p=p, sentence=sentence)


def within_permuted(part: pd.DataFrame, factor: Factor, scope: str) -> Test:
    """Return `within` with the p of all (or sampled) orders of the factor inside students.

    Exact when, inside a student, every pairing of gains and factor is as likely as another.
    """
    inside = _inside(part, factor)
    n, students, orders = len(inside.of), inside.students, inside.orders
    exact = orders <= EXACT_ORDERS
    kind = f"all:{orders}" if exact else f"sampled:{SAMPLED_ORDERS}|seed:0"
    shared = _head(factor, scope, n, students) | {
        "table": "correlation",
        "name": "within-student correlation, permutation",
        "signature": f"rmcorr|gain~{factor.column}+student|orders:{kind}|n:{n}",
        "family": family("within-student correlation, permutation", factor.name, scope),
    }
    reason = _why_not_within(inside, factor)
    if reason:
        return _unknown_within(shared, factor, scope, reason)
    x, y = inside.centred(inside.factor), inside.centred(inside.gain)
    r = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    groups = [np.flatnonzero(inside.of == student) for student in range(students)]
    p = _permutation_p(x, y, groups, exact)
    low, high = _fisher(y, x, n - students + 1)
    how = f"all {orders:,}" if exact else f"{SAMPLED_ORDERS:,} random"
    sentence = (
        f"Within students, gain and {factor.name} {on(scope)}: r = {signed(r)}, "
        f"p = {format_p(p)} over {how} orders of {n} {inside.unit} inside "
        f"{students} students."
    )
    return Test(**shared, statistic=r, estimate=r, low=low, high=high, p=p, sentence=sentence)


def least_p(x: np.ndarray, y: np.ndarray, tied: bool = True) -> float:
    """Return the least two-sided p that all pairings could give, equal ones as one if `tied`."""

    def alike(values: np.ndarray) -> float:
        return sum(math.lgamma(k + 1) for k in np.unique(values, return_counts=True)[1])

    pairings = math.lgamma(len(x) + 1) - (max(alike(x), alike(y)) if tied else 0)
    return min(1.0, 2 * math.exp(-pairings))


def _ranked(
    rows: pd.DataFrame, factor: Factor, scope: str, outcome: str, head: dict, clusters: int
) -> Test:
    n = len(rows)
    exact = n <= EXACT_PAIRINGS
    p_kind = "exact" if exact else "t"
    shared = _head(factor, scope, n, clusters) | head
    shared["signature"] = f"spearmanr|{outcome}~{factor.column}|p:{p_kind}|n:{n}"
    shared["family"] = family(head["name"], factor.name, scope)
    y, x = rows[outcome].to_numpy(float), rows[factor.column].to_numpy(float)
    reason = _why_no_correlation(y, x, factor.constant)
    if reason:
        what = _OUTCOMES[outcome]
        return empty(
            shared, f"{what} against {factor.name} {on(scope)}: {reason}: cannot be estimated."
        )
    rho, p = stats.spearmanr(y, x)
    # The t behind a larger table's p says 0 of a perfect order, where pairings still say 2 of n!.
    # The paper's own tables keep its t where ties make pairings fewer.
    tied = head["table"] == "correlation"
    p = _exact_p(x, y) if exact else max(float(p), least_p(x, y, tied))
    low, high = _fisher(stats.rankdata(y), stats.rankdata(x))
    numbers = {"statistic": float(rho), "estimate": float(rho), "low": low, "high": high}
    return Test(**shared, **numbers, p=p, sentence="")


def _told(test: Test, what: str, count: str) -> Test:
    if test.sentence:
        return test
    p = format_p(test.p)
    return dataclasses.replace(
        test, sentence=f"{what} = {signed(test.estimate)}, p = {p}, {count}."
    )


def _head(factor: Factor, scope: str, n: int, clusters: int) -> dict:
    return {"subject": factor.name, "scope": scope, "n": n, "clusters": clusters}


@dataclasses.dataclass(frozen=True, slots=True)
class _Inside:
    """Gain and factor of students: one row per cell, or per pair where the factor has one value.

    Attributes:
        of: Which student a row is of, from 0.
        unit: What a row is, in the plural.
    """

    of: np.ndarray
    gain: np.ndarray
    factor: np.ndarray
    unit: str

    @property
    def students(self) -> int:
        return int(self.of.max(initial=-1)) + 1

    @property
    def orders(self) -> int:
        """How many orders the rows have inside their students."""
        return math.prod(math.factorial(int(k)) for k in np.bincount(self.of))

    def centred(self, values: np.ndarray) -> np.ndarray:
        """Return what of the values is not their student's mean."""
        return values - (np.bincount(self.of, values) / np.bincount(self.of))[self.of]


def _inside(part: pd.DataFrame, factor: Factor) -> _Inside:
    gain, x = part.gain.to_numpy(float), part[factor.column].to_numpy(float)
    known = ~(np.isnan(gain) | np.isnan(x))
    gain, x = gain[known], x[known]
    pairs = list(zip(part.student[known], part.teacher[known], strict=True))
    place = {pair: i for i, pair in enumerate(sorted(set(pairs)))}
    pair = np.array([place[p] for p in pairs], dtype=int)
    least, most = np.full(len(place), np.inf), np.full(len(place), -np.inf)
    np.minimum.at(least, pair, x)
    np.maximum.at(most, pair, x)
    per_pair = bool(len(x)) and bool((most - least < 1e-12).all())
    if per_pair:
        pairs, sizes = list(place), np.bincount(pair)
        gain, x = np.bincount(pair, gain) / sizes, np.bincount(pair, x) / sizes
    _, of = np.unique(
        np.array([student for student, _ in pairs], dtype=object), return_inverse=True
    )
    return _Inside(of, gain, x, "pairs" if per_pair else "runs")


def _why_not_within(inside: _Inside, factor: Factor) -> str:
    if not len(inside.of):
        return "not measured"
    if _flat(inside.centred(inside.factor)):
        return f"{factor.constant} within a student"
    freedom = len(inside.of) - inside.students - 1
    if freedom < 2:
        return "too few runs per student"
    return "every run of a student gained the same" if _flat(inside.centred(inside.gain)) else ""


def _unknown_within(shared: dict, factor: Factor, scope: str, reason: str) -> Test:
    text = f"Within students, {factor.name} {on(scope)}: {reason}: cannot be estimated."
    return empty(shared, text)


def _why_no_correlation(gain: np.ndarray, factor: np.ndarray, constant: str) -> str:
    if not len(factor):
        return "not measured"
    if len(gain) < 3:
        return "fewer than three rows"
    if _flat(factor):
        return constant
    return "every run gained the same" if _flat(gain) else ""


def _exact_p(x: np.ndarray, y: np.ndarray) -> float:
    centred = stats.rankdata(y) - (len(y) + 1) / 2
    result = stats.permutation_test(
        (stats.rankdata(x),),
        lambda ranks, axis: (ranks * centred).sum(axis=axis),  # grows with rho
        permutation_type="pairings",
        n_resamples=math.inf,
        vectorized=True,
    )
    return float(result.pvalue)


def _permutation_p(
    x: np.ndarray, y: np.ndarray, groups: Sequence[np.ndarray], exact: bool
) -> float:
    """Return how often an order inside the groups gives a sum of products as far from 0.

    Orders inside a group change neither sum of squares, so the sum decides. scipy's
    permutation_test has no permutations inside groups.
    """
    if exact:
        sums = np.zeros(1)
        for group in groups:
            orders = np.array(list(itertools.permutations(x[group])))
            sums = np.add.outer(sums, orders @ y[group]).ravel()
        extra = 0
    else:
        rng = np.random.default_rng(0)
        sums = np.zeros(SAMPLED_ORDERS)
        for group in groups:
            drawn = np.broadcast_to(x[group], (SAMPLED_ORDERS, len(group)))
            sums += rng.permuted(drawn, axis=1) @ y[group]
        extra = 1
    seen = abs(float(x @ y)) * (1 - 1e-12) - 1e-15
    return float((np.count_nonzero(np.abs(sums) >= seen) + extra) / (len(sums) + extra))


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


def _flat(values: Sequence[float]) -> bool:
    values = np.asarray(values, dtype=float)
    return not len(values) or float(np.ptp(values)) < 1e-12
