"""Does distillation gain? Tests whose unit is the student, not the run.

Several runs of one student share its SFT run and everything that student is, so they are no
independent evidence. Which of these tests holds its level in the paper's design, also where
students' gains are skewed, is simulated in `bench/calibration.py`; `DEFAULT` is the one that does.
"""

import dataclasses
import math

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS, WLS

from kdstudy.analysis.cells import ALL, on, scopes, subjects
from kdstudy.analysis.families import family
from kdstudy.analysis.verdict import Test, empty, format_p, points

DEFAULT = "student-level t-test, corrected for skewness"
ENUMERATED_STUDENTS = 12
"""Up to this many students all 2^G sign flips are tried; above it a seeded sample."""
SAMPLED_FLIPS = 9999
FEW_STUDENTS = 20
"""Under so many, cluster-robust errors are known to be too small (Cameron and Miller 2015)."""
FLAT = 1e-12
MOST_ITEMS = 10_000
"""Items of a task where a table does not tell: few benchmarks have more."""
FAR_TAIL = 0.01
"""Below this p neither students that agree by chance nor Hall's expansion are trusted alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mean:
    """A mean over students with its standard error and degrees of freedom; NaN where unknown.

    Attributes:
        skewness: Of the students' means (third moment over the standard deviation cubed).
        fewest: Clusters less 1 of the error: of students, or of teachers where there are fewer
            and theirs is the larger error.
        floor: The standard error that items and seeds alone give it at least (`sampled`).
    """

    estimate: float
    error: float
    freedom: int
    skewness: float = 0.0
    fewest: int = 0
    floor: float = 0.0

    @property
    def statistic(self) -> float:
        return self.estimate / self.error

    @property
    def agreeing(self) -> bool:
        """Whether the students differ less than items and seeds alone let them."""
        return self.error < self.floor

    @property
    def p(self) -> float:
        """Two-sided p against 0."""
        return 2 * self.tail(abs(self.estimate))

    def tail(self, distance: float) -> float:
        """Return the one-sided p of an estimate so far beyond what is refused.

        Of the t-test over students, but no smaller than that of the normal test over items and
        seeds alone, on the same students; nor, in the far tail, than that of t with the larger
        error: students that agree by chance may refuse 0 at the usual levels, as often as the
        level says, but not with a p that neither they nor their items could give.
        """
        p = float(stats.t.sf(distance / self.error, self.freedom))
        if distance <= 0:
            return p
        sure = float(stats.t.sf(distance / max(self.error, self.floor), self.freedom))
        return max(p, self._of_items(distance), min(sure, FAR_TAIL / 2))

    def _of_items(self, distance: float) -> float:
        return float(stats.norm.sf(distance / self.floor)) if self.floor else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        half = self.error * float(stats.t.ppf((1 + confidence) / 2, self.freedom))
        return self._widened(self.estimate - half, self.estimate + half, confidence)

    def _widened(self, low: float, high: float, confidence: float) -> tuple[float, float]:
        """Return the interval no narrower than that over items and seeds alone."""
        half = self.floor * float(stats.norm.ppf((1 + confidence) / 2))
        return min(low, self.estimate - half), max(high, self.estimate + half)

    @property
    def corrected(self) -> float:
        """The statistic with its skewness taken out by Hall's (1992) cubic transformation."""
        g, n = self.skewness, self.freedom + 1
        x = self.statistic / math.sqrt(n)
        return math.sqrt(n) * (x + g * x**2 / 3 + g**2 * x**3 / 27 + g / (6 * n))

    @property
    def corrected_p(self) -> float:
        """Two-sided p against 0 of `corrected`, by t on `fewest` degrees of freedom.

        No smaller than items and seeds alone allow (`tail`), nor, below `FAR_TAIL`, than the plain
        p: there the cubic of a large t turns 1e-13 into 1e-34, which no expansion near 0 can know.
        """
        p = float(2 * stats.t.sf(abs(self.corrected), self.fewest))
        return max(p, 2 * self._of_items(abs(self.estimate)), min(self.p, FAR_TAIL))

    def corrected_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the means that `corrected` does not refuse: its cubic has one inverse."""
        g, n = self.skewness, self.freedom + 1
        limit = float(stats.t.ppf((1 + confidence) / 2, self.fewest)) / math.sqrt(n)

        def plain(y: float) -> float:
            if abs(g) < FLAT:
                return y
            return 3 * (math.cbrt(1 + g * (y - g / (6 * n))) - 1) / g

        low, high = (self.estimate - self.error * math.sqrt(n) * plain(y) for y in (limit, -limit))
        return self._widened(low, high, confidence)


def student_mean(rows: pd.DataFrame, column: str = "gain", least: float = 0.0) -> Mean:
    """Return the mean of students' means and a standard error that students and teachers share.

    Every student weighs the same. The squared error is the larger of two: clustered by student
    (then this is the t-test of the students' means), and clustered by student and by teacher
    (Cameron, Gelbach and Miller 2011), since a good teacher lifts several students at once. The
    larger of the two because the second is unreliable with few teachers (after the max-se of
    MacKinnon, Nielsen and Webb 2024). Degrees of freedom: students less 1.

    Args:
        rows: Columns student, teacher and `column`; if known, items and seed_variance.
        column: What is averaged, a change in accuracy.
        least: Least share of items that such a change changes (`sampled`).
    """
    students, of = np.unique(rows.student.to_numpy(object), return_inverse=True)
    teachers, shared = np.unique(rows.teacher.to_numpy(object), return_inverse=True)
    values, n = rows[column].to_numpy(float), len(students)
    means = _by_group(of, values, n)
    estimate = _mean(means)
    if n < 2:
        return Mean(estimate, math.nan, 0)
    model = WLS(values, np.ones(len(values)), weights=1 / np.bincount(of)[of])
    variance, fewest = _variance(model, of), n - 1
    if len(teachers) > 1:
        twice = _variance(model, np.column_stack([of, shared]))
        if twice > variance:
            variance, fewest = twice, min(n, len(teachers)) - 1
    error = math.sqrt(variance) if variance > FLAT**2 else math.nan
    floor = math.sqrt(sampled(rows, column, least))
    return Mean(estimate, error, n - 1, _skewness(means), fewest, floor)


def student_means(rows: pd.DataFrame) -> np.ndarray:
    """Return each student's mean gain."""
    students, of = np.unique(rows.student.to_numpy(object), return_inverse=True)
    return _by_group(of, rows.gain.to_numpy(float), len(students))


def sampled(rows: pd.DataFrame, column: str = "gain", least: float = 0.0) -> float:
    """Return the least variance that items and seeds alone give the mean of students' means.

    A student's accuracy that changes by g over n items has changed on |g| n of them at least, so
    that its change varies over items by |g| (1 - |g|) / n at least; and its mean over cells varies
    by what the cells' scores do over seeds. Students are taken to vary each on its own.

    Args:
        rows: As `student_mean` takes them; `MOST_ITEMS` where items are not known.
        column: A change in accuracy.
        least: Least share of items that are taken to change.
    """
    students, of = np.unique(rows.student.to_numpy(object), return_inverse=True)
    n = len(students)
    change, items, seeds = (
        _by_group(of, rows[c].to_numpy(float) if c in rows else np.full(len(rows), math.nan), n)
        for c in (column, "items", "seed_variance")
    )
    items = np.where(np.isnan(items), MOST_ITEMS, items)
    # An accuracy moves by one item at least.
    changed = np.maximum(np.abs(change), np.maximum(least, 1 / items))
    of_items = _mean(changed * (1 - changed) / items)
    of_seeds = _mean(seeds / np.bincount(of, minlength=n))
    return float(np.nanmax([of_items, of_seeds])) / n


def _by_group(groups: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Return the mean of the known values in each of n groups, NaN where none is known."""
    known = ~np.isnan(values)
    sums = np.bincount(groups[known], values[known], minlength=n)
    counts = np.bincount(groups[known], minlength=n)
    return np.divide(sums, counts, out=np.full(n, math.nan), where=counts > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    spread = float((centred**2).mean())
    return float((centred**3).mean()) / spread**1.5 if spread > FLAT**2 else 0.0


def gain_tests(rows: pd.DataFrame) -> list[Test]:
    """Return five tests of the mean gain per task, for all methods and for each.

    The default, corrected for skewness; the plain t-test of students; cluster-robust least squares
    over runs; the exact sign-flip permutation of students; and the sign test of the median student
    (which no collapsed run can move far).

    Args:
        rows: From `cells.cells`.
    """
    tests = (student_level, student_t, cluster_robust, sign_flip, median_sign)
    parts = [
        (subject, scope, part)
        for scope in reversed(scopes(rows))
        for subject, part in subjects(rows[rows.task == scope])
    ]
    return [test(part, subject, scope) for test in tests for subject, scope, part in parts]


def student_level(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the default test: `student_mean` against 0, two-sided, corrected for skewness.

    Where one student gains far more than the others, or collapses, a t-test of a few students
    refuses a true null too often. Hall's (1992) transformation takes the skewness out of t; where
    the error comes from shared teachers, the degrees are those of the fewer clusters (Cameron,
    Gelbach and Miller 2011).
    """
    found = student_mean(part)
    sign = "hall|two-sided|se:max(student,student+teacher)|least:items,seeds"
    shared = _shared(part, DEFAULT, subject, scope, f"{sign}|df:{found.fewest}")
    if math.isnan(found.error):
        return _unknown(shared, part, found.estimate)
    ends, p = found.corrected_interval(), found.corrected_p
    said = f"as units{_agreeing(found, part)}"
    return _of_students(shared, found.corrected, found.estimate, ends, p, said)


def student_t(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the t-test of `student_mean` against 0, two-sided."""
    found = student_mean(part)
    sign = "t|two-sided|se:max(student,student+teacher)|least:items,seeds"
    shared = _shared(part, "student-level t-test", subject, scope, sign)
    if math.isnan(found.error):
        return _unknown(shared, part, found.estimate)
    said = f"as units, not corrected for skewness{_agreeing(found, part)}"
    return _of_students(shared, found.statistic, found.estimate, found.interval(), found.p, said)


def _of_students(
    shared: dict, statistic: float, estimate: float, ends: tuple[float, float], p: float, said: str
) -> Test:
    low, high = ends
    sentence = (
        f"Over {shared['clusters']} students ({shared['n']} cells), {_named(shared['subject'])} "
        f"changed accuracy {on(shared['scope'])} by {points(estimate)} points (95% interval "
        f"{points(low)} to {points(high)}, p = {format_p(p)}, students {said})."
    )
    effect = {"statistic": statistic, "estimate": estimate, "low": low, "high": high}
    return Test(**shared, **effect, p=p, sentence=sentence)


def cluster_robust(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the mean over runs with a cluster-robust error (CR1) and t on G - 1 degrees."""
    name = "cluster-robust least squares"
    shared = _shared(part, name, subject, scope, "ols|CR1:student|least:items,seeds|t:G-1")
    mean = float(part.gain.mean())
    if shared["clusters"] < 2:
        return _unknown(shared, part, mean)
    model = OLS(part.gain.to_numpy(), np.ones(len(part)))
    groups = np.unique(part.student.to_numpy(object), return_inverse=True)[1]
    if _variance(model, groups) < FLAT**2:
        return _unknown(shared, part, mean)
    error, floor = math.sqrt(_variance(model, groups)), math.sqrt(sampled(part))
    found = Mean(mean, error, shared["clusters"] - 1, floor=floor)
    (low, high), p = found.interval(), found.p
    sentence = (
        f"Mean over {len(part)} cells of {_named(subject)} {on(scope)}: {points(mean)} points, "
        f"error clustered by student (95% interval {points(low)} to {points(high)}, "
        f"p = {format_p(p)}){_few(shared['clusters'])}."
    )
    effect = {"statistic": found.statistic, "estimate": mean}
    return Test(**shared, **effect, low=low, high=high, p=p, sentence=sentence)


def sign_flip(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the permutation test that flips the signs of whole students' means.

    Exact when the students' gains are independent and symmetric about 0 under the null. Its
    interval (Hartigan 1969) holds all means that the test does not refuse; with fewer than six
    students it refuses none, and the interval is NaN.
    """
    means = student_means(part)
    n = len(means)
    exact = n <= ENUMERATED_STUDENTS
    name = f"{'exact ' if exact else ''}sign-flip permutation of students"
    kind = "2^G" if exact else f"sampled:{SAMPLED_FLIPS}|seed:0"
    shared = _shared(part, name, subject, scope, f"sign-flip|mean of student means|{kind}")
    if n < 2 or np.abs(means).max() < FLAT:
        return _unknown(shared, part, float(means.mean()) if n else math.nan)
    found = stats.permutation_test(
        (means,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=math.inf if exact else SAMPLED_FLIPS,
        rng=np.random.default_rng(0),
    )
    p, least = float(found.pvalue), 2.0 ** (1 - n)
    low, high = _flip_interval(means, exact)
    mean = float(means.mean())
    floor = f"; {n} students allow no smaller p than {format_p(least)}" if least > 0.01 else ""
    sentence = (
        f"Flipping the signs of {n} students' gains, {_named(subject)} {on(scope)} "
        f"({points(mean)} points) has p = {format_p(p)}{floor}."
    )
    return Test(**shared, statistic=mean, estimate=mean, low=low, high=high, p=p, sentence=sentence)


def median_sign(part: pd.DataFrame, subject: str = ALL, scope: str = "") -> Test:
    """Return the exact sign test of the median student's gain and its interval."""
    means = student_means(part)
    name = "sign test of the median student"
    shared = _shared(part, name, subject, scope, "quantile_test|0.5|student means")
    if len(means) < 2 or np.abs(means).max() < FLAT:
        return _unknown(shared, part, float(means.mean()) if len(means) else math.nan)
    found = stats.quantile_test(means, q=0, p=0.5)
    low, high = found.confidence_interval(0.95)
    up, median = int((means > 0).sum()), float(np.median(means))
    sentence = (
        f"{up} of {len(means)} students gained from {_named(subject)} {on(scope)}; the median "
        f"student by {points(median)} points (p = {format_p(float(found.pvalue))})."
    )
    ends = {"low": float(low), "high": float(high)}
    return Test(
        **shared,
        statistic=float(up),
        estimate=median,
        **ends,
        p=float(found.pvalue),
        sentence=sentence,
    )


def _agreeing(found: Mean, part: pd.DataFrame) -> str:
    if not found.agreeing:
        return ""
    known = "items" in part and part["items"].notna().all()
    taken = "" if known else f" (of {MOST_ITEMS:,} a task, as none are told)"
    return f"; they differ less than items{taken} and seeds alone let them, which bounds both"


def _few(students: int) -> str:
    few = students < FEW_STUDENTS
    return f"; with {students} students this p is somewhat too small" if few else ""


def _variance(model: OLS, groups: np.ndarray) -> float:
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    return float(fit.cov_params()[0, 0])


def _flip_interval(means: np.ndarray, exact: bool) -> tuple[float, float]:
    """Return the 95% interval: order statistics of the means of all (or sampled) subsets."""
    n = len(means)
    if exact:
        chosen = np.arange(1, 2**n)[:, None] >> np.arange(n) & 1
    else:
        chosen = np.random.default_rng(0).integers(0, 2, (SAMPLED_FLIPS, n))
        chosen = chosen[chosen.any(axis=1)]
    subsets = np.sort(chosen @ means / chosen.sum(axis=1))
    outside = math.floor(0.025 * (len(subsets) + 1))
    if outside == 0:
        return math.nan, math.nan
    return float(subsets[outside - 1]), float(subsets[-outside])


def _shared(part: pd.DataFrame, name: str, subject: str, scope: str, sign: str) -> dict:
    n, students = len(part), part.student.nunique()
    return {
        "table": "gain",
        "name": name,
        "subject": subject,
        "scope": scope,
        "n": n,
        "clusters": students,
        "signature": f"{sign}|n:{n}|students:{students}|teachers:{part.teacher.nunique()}",
        "family": family(name, subject, scope),
    }


def _unknown(shared: dict, part: pd.DataFrame, mean: float) -> Test:
    students = part.student.nunique()
    why = "every student gained the same" if students > 1 else "fewer than two students"
    text = f"The gain of {shared['subject']} {on(shared['scope'])} cannot be tested: {why}."
    return empty(shared, text, estimate=mean)


def _named(subject: str) -> str:
    return "distillation" if subject == ALL else subject
