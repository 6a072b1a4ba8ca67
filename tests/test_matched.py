"""Methods on matched cells: textbook numbers, direct formulas, enumeration."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_runs import cells
from scipy import stats

from kdstudy.analysis import matched
from kdstudy.analysis.paired import EQUIVALENCE_MARGIN

# Hollander and Wolfe (1973), p. 140: three ways of rounding first base, 22 players; the example of
# R's friedman.test: chi-squared = 11.143, df = 2, p = 0.003805.
BASES = np.array(
    [
        *[[5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40]],
        *[[5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35]],
        *[[5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45]],
        *[[5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50]],
        *[[5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]],
        *[[5.70, 5.65, 5.55], [6.30, 6.30, 6.25]],
    ]
)


def blocks(values):
    values = np.asarray(values, float)
    names = [f"m{i}" for i in range(values.shape[1])]
    index = pd.Index([f"s{i}" for i in range(len(values))], name="student")
    return pd.DataFrame(values, index, pd.Index(names, name="method"))


def test_friedman_of_hollander_and_wolfes_runners():
    found = matched.friedman(blocks(BASES))
    assert found.statistic == pytest.approx(11.143, abs=5e-4)
    assert found.p == pytest.approx(0.003805, abs=0.003)  # sampled orders against chi-square
    assert found.estimate == pytest.approx(11.143 / (22 * 2), abs=1e-4)


def test_small_friedman_p_counts_all_orders_inside_students():
    values = np.random.default_rng(0).normal(size=(4, 3)) + np.array([0, 0.5, 1])
    found = matched.friedman(blocks(values))
    ranks = stats.rankdata(values, axis=1)

    def spread(rows):
        return ((np.sum(rows, axis=0) - 8) ** 2).sum()

    orders = itertools.product(*(itertools.permutations(r) for r in ranks))
    as_far = [spread(o) >= spread(ranks) - 1e-9 for o in orders]
    assert len(as_far) == 6**4 and found.p == pytest.approx(np.mean(as_far))


def test_anova_with_one_pair_of_methods_is_the_paired_t_test():
    values = np.random.default_rng(1).normal(size=(7, 2))
    found = matched.repeated_measures(blocks(values))
    expected = stats.ttest_rel(*values.T)
    assert found.statistic == pytest.approx(expected.statistic**2)
    assert found.p == pytest.approx(expected.pvalue)
    assert matched.greenhouse_geisser(values) == pytest.approx(1)


def test_greenhouse_geissers_epsilon_by_the_eigenvalues_of_contrasts():
    values = np.random.default_rng(2).normal(size=(9, 4)) * [1, 2, 3, 4]
    contrasts = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3]  # orthonormal, each sums to 0
    eigen = np.linalg.eigvalsh(contrasts.T @ np.cov(values, rowvar=False) @ contrasts)
    expected = eigen.sum() ** 2 / (3 * (eigen**2).sum())
    assert matched.greenhouse_geisser(values) == pytest.approx(expected)
    found = matched.repeated_measures(blocks(values))
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    f = 9 * ((values.mean(0) - values.mean()) ** 2).sum() / 3 / ((rest**2).sum() / 24)
    assert found.statistic == pytest.approx(f)
    assert found.p == pytest.approx(stats.f.sf(f, 3 * expected, 24 * expected))
    assert found.estimate == pytest.approx(f / (f + 8))


def test_compound_symmetry_needs_no_correction():
    base = np.array([[1, 2, 4], [2, 4, 1], [4, 1, 2], [1, 4, 2], [2, 1, 4], [4, 2, 1]], float)
    assert matched.greenhouse_geisser(base) == pytest.approx(1)  # every order once


def test_the_interval_of_eta_squared_inverts_the_noncentral_f():
    # Steiger (2004), by his definition: each end's noncentrality leaves 2.5% beyond this F.
    f, top, bottom = 6.0, 3, 24
    low, high = matched._eta_interval(f, top, bottom)
    for end, tail in ((low, 0.975), (high, 0.025)):
        noncentral = end * (top + bottom + 1) / (1 - end)
        assert stats.ncf.cdf(f, top, bottom, noncentral) == pytest.approx(tail, abs=1e-6)
    assert matched._eta_interval(0.1, top, bottom)[0] == 0


def test_pairs_of_methods_are_compared_on_students_mean_differences():
    rows = cells().assign(teacher=lambda f: f.teacher)
    rows = rows[~((rows.student == "a") & (rows.teacher == "x") & (rows.method == "kd"))]
    found = next(
        t
        for t in matched.matched_tests(rows)
        if t.name == "matched difference" and t.subject == "gkd − kd"
    )
    wide = rows.pivot(index=["student", "teacher"], columns="method", values="gain")
    change = (wide.gkd - wide.kd).dropna().groupby("student").mean()
    assert (found.n, found.clusters) == (10, 6)  # the cell that kd lacks does not count
    assert found.estimate == pytest.approx(change.mean())
    assert found.high - found.low >= 2 * stats.t.ppf(0.975, 5) * stats.sem(change) - 1e-12


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.019, 0.03])
def test_equivalence_is_a_90_percent_interval_inside_the_margin(shift):
    rng = np.random.default_rng(7)
    rows = cells().assign(teacher="t").drop_duplicates(["student", "method"])
    rows.loc[rows.method == "kd", "gain"] = (
        rows[rows.method == "gkd"].gain.to_numpy() - shift + 0.003 * rng.normal(size=6)
    )
    found = next(
        t
        for t in matched.matched_tests(rows)
        if t.name.startswith("equivalence") and t.subject == "gkd − kd"
    )
    change = rows.pivot(index="student", columns="method", values="gain").pipe(
        lambda w: w.gkd - w.kd
    )
    upper = stats.ttest_1samp(change, EQUIVALENCE_MARGIN, alternative="less").pvalue
    lower = stats.ttest_1samp(change, -EQUIVALENCE_MARGIN, alternative="greater").pvalue
    assert found.p == pytest.approx(max(upper, lower))
    assert ("are equivalent" in found.sentence) == (found.p < 0.05)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (cells(methods=("gkd",)), "one method"),
        (cells().query("student == 'a'"), "fewer than two students"),
        (cells().assign(gain=0.1), "no student tells them apart"),
        (cells().query("method != 'kd' or student == 'zzz'"), "two methods only"),
    ],
)
def test_what_cannot_be_compared_is_nan_with_a_reason(rows, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = matched.matched_tests(rows)
    friedman = next(t for t in found if t.name == "Friedman test")
    assert math.isnan(friedman.p) and reason in friedman.sentence
    if reason != "two methods only":
        assert all(math.isnan(t.p) for t in found)
