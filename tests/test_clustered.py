"""Gain tests with students as units, held to scipy, to enumeration and to simulated truth."""

import functools
import importlib.util
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import cells
from scipy import stats
from statsmodels.formula.api import ols

from kdstudy.analysis import clustered
from kdstudy.analysis.clustered import student_mean
from kdstudy.analysis.mixed import mixed_model

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("calibration", ROOT / "bench" / "calibration.py")
calibration = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(calibration)
rate = functools.cache(calibration.rate)


def of_students(means, teacher="t"):
    names = [f"s{i}" for i in range(len(means))]
    return pd.DataFrame({"student": names, "teacher": teacher, "method": "m", "gain": means})


def test_with_one_teacher_the_default_is_the_t_test_of_students_means():
    rows = cells().assign(teacher="t")
    found = clustered.student_t(rows)
    means = rows.groupby("student").gain.mean()
    expected = stats.ttest_1samp(means, 0)
    ends = expected.confidence_interval()
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert (found.n, found.clusters) == (33, 6)


def test_shared_teachers_widen_the_default_as_in_two_way_clustering():
    rows = cells(student_sd=0.0)
    teachers = {"x": -0.05, "y": 0.0, "z": 0.05, "w": 0.0}
    rows["gain"] += rows.teacher.map(teachers)
    weight = 1 / (6 * rows.groupby("student").gain.transform("size"))
    mean = (weight * rows.gain).sum()
    scored = (weight * (rows.gain - mean)).rename("u")
    parts = {
        key: scored.groupby([rows[c] for c in key]).sum().pow(2).sum()
        for key in (("student",), ("teacher",), ("student", "teacher"))
    }
    one = parts["student",] * 6 / 5
    two = one + parts["teacher",] * 4 / 3 - parts["student", "teacher"] * 11 / 10
    assert two > one  # else this case would show nothing
    found = student_mean(rows)
    assert (found.estimate, found.error) == pytest.approx((mean, math.sqrt(two)))
    assert found.freedom == 5


def test_the_cluster_robust_error_is_the_sandwich_and_its_t_has_students_less_one_degrees():
    rows = cells()
    found = clustered.cluster_robust(rows)
    sums = (rows.gain - rows.gain.mean()).groupby(rows.student).sum()
    error = math.sqrt((sums**2).sum() * 6 / 5) / 33
    t = rows.gain.mean() / error
    assert found.statistic == pytest.approx(t)
    assert found.p == pytest.approx(2 * stats.t.sf(t, 5))
    assert found.high - found.estimate == pytest.approx(error * stats.t.ppf(0.975, 5))


@pytest.mark.parametrize("n", [5, 6, 8])
def test_the_sign_flip_p_counts_all_flips(n):
    means = np.random.default_rng(n).normal(0.02, 0.03, n)
    found = clustered.sign_flip(of_students(means))
    flips = [abs(np.dot(s, means)) for s in itertools.product([1, -1], repeat=n)]
    assert found.p == pytest.approx(np.mean([f >= abs(means.sum()) - 1e-12 for f in flips]))


def flip_p(means):
    flips = np.array(list(itertools.product([1, -1], repeat=len(means)))) @ means
    return np.mean(np.abs(flips) >= abs(means.sum()) - 1e-12)


@pytest.mark.parametrize("n", [6, 7, 9])
def test_the_sign_flip_interval_holds_the_means_that_it_does_not_refuse(n):
    means = np.random.default_rng(n).normal(0.02, 0.03, n)
    found = clustered.sign_flip(of_students(means))
    for end, inward in ((found.low, 1), (found.high, -1)):
        assert flip_p(means - (end + inward * 1e-6)) > 0.05
        assert flip_p(means - (end - inward * 1e-6)) <= 0.05


def test_five_students_allow_no_sign_flip_interval_and_it_says_so():
    found = clustered.sign_flip(of_students([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert found.p == 2 / 2**5 and math.isnan(found.low)
    assert "5 students allow no smaller p than 0.0625" in found.sentence


def test_many_students_are_flipped_by_sample_close_to_the_t_test():
    means = np.random.default_rng(1).normal(0.01, 0.02, 40)
    found, t = (f(of_students(means)) for f in (clustered.sign_flip, clustered.student_t))
    assert found.p == pytest.approx(t.p, rel=0.15) and "sampled" in found.signature
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.002)


def test_the_median_is_scored_by_the_binomial():
    found = clustered.median_sign(of_students([0.1, 0.2, 0.3, 0.4, 0.5, -0.1, 0.6, 0.7]))
    assert found.p == pytest.approx(stats.binomtest(7, 8).pvalue)
    assert (found.low, found.high) == (-0.1, 0.7)  # order statistics 1 and 8: 99.2% sure
    assert "7 of 8 students gained" in found.sentence


@pytest.mark.parametrize("means", [[], [0.1], [0.1, 0.1, 0.1]])
def test_one_student_or_no_spread_is_nan_with_a_reason(means):
    rows = of_students(means).assign(task="average", method="m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for test in (clustered.student_level, clustered.student_t, clustered.cluster_robust):
            found = test(rows, scope="average")
            assert math.isnan(found.p) and math.isnan(found.low)
            assert "cannot be tested" in found.sentence
        if len(means) < 2:
            for test in (clustered.sign_flip, clustered.median_sign):
                assert math.isnan(test(rows, scope="average").p)
        assert math.isnan(mixed_model(rows).p) or len(means) > 1


def test_a_balanced_mixed_model_is_the_anova_of_student_means():
    # Balanced and one-way: REML's mean and error are those of the students' means (Searle 1971).
    rng = np.random.default_rng(3)
    student = np.repeat([f"s{i}" for i in range(8)], 5)
    gain = 0.02 + np.repeat(0.03 * rng.normal(size=8), 5) + 0.01 * rng.normal(size=40)
    rows = pd.DataFrame({"student": student, "teacher": "t", "method": "m", "gain": gain})
    rows["task"] = np.tile([f"k{i}" for i in range(5)], 8)
    rows["gain"] -= rows.groupby("task").gain.transform("mean") - rows.gain.mean()  # no task effect
    found = mixed_model(rows)
    means = rows.groupby("student").gain.mean()
    assert found.estimate == pytest.approx(means.mean())
    assert found.statistic == pytest.approx(means.mean() / stats.sem(means), rel=1e-2)
    between = ols("gain ~ C(student)", rows).fit()
    assert between.f_pvalue < 0.01  # students do differ, so their component is not at 0
    assert "boundary 0: task" in found.sentence


def test_the_mixed_model_recovers_a_simulated_mean():
    truth = calibration.TRUTHS["math"]
    rng, design = np.random.default_rng(5), calibration.design()
    drawn = [mixed_model(calibration.draw(truth, design, rng, 4.0)) for _ in range(30)]
    estimates = np.array([t.estimate for t in drawn])
    error = estimates.std(ddof=1) / math.sqrt(30)
    assert abs(estimates.mean() - 0.04) < 3 * error
    assert sum(t.low < 0.04 < t.high for t in drawn) >= 25


@pytest.mark.parametrize("means", [[0.1, -0.02, 0.03, 0.2, 0.05, 0.01], [0.02, 0.03, -0.3, 0.05]])
def test_the_corrected_interval_holds_the_means_that_the_corrected_test_does_not_refuse(means):
    found = clustered.student_level(of_students(means))
    for end, inward in ((found.low, 1), (found.high, -1)):
        for shift, refused in ((inward * 1e-5, False), (-inward * 1e-5, True)):
            at = clustered.student_level(of_students(np.array(means) - end - shift))
            assert (at.p < 0.05) is refused


def test_without_skewness_the_corrected_test_is_the_t_test():
    means = np.array([-0.05, 0.02, 0.05, 0.03, -0.02, -0.03]) + 0.031  # symmetric about its mean
    found, plain = (f(of_students(means)) for f in (clustered.student_level, clustered.student_t))
    assert found.p == pytest.approx(plain.p) and found.p == pytest.approx(
        stats.ttest_1samp(means, 0).pvalue
    )
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))


def test_where_few_teachers_make_the_error_the_degrees_are_theirs():
    rows = cells(student_sd=0.0)
    rows["gain"] += rows.teacher.map({"x": -0.05, "y": 0.0, "z": 0.05, "w": 0.0})
    found = student_mean(rows)
    assert (found.freedom, found.fewest) == (5, 3)
    alone = student_mean(rows.assign(teacher="t"))
    assert alone.fewest == 5 and found.error > alone.error


@pytest.mark.parametrize("truth", ["math", "students differ", "skewed students"])
def test_the_default_holds_its_level_and_the_pooled_test_does_not(truth):
    # 1,000 draws: a true 5% gives 3.0 to 7.0% in 99.6 of 100 such tests; skewed has a true 6.1%.
    high = 0.08 if truth == "skewed students" else 0.07
    ours = rate(clustered.student_level, calibration.TRUTHS[truth], 1000)
    assert 0.03 <= ours["rate"] <= high and ours["no_p"] == 0
    pooled = rate(calibration.gain_t, calibration.TRUTHS[truth], 200)
    assert pooled["low"] > 0.15


def test_the_plain_t_test_refuses_too_often_where_students_are_skewed():
    truth = calibration.TRUTHS["skewed students"]
    plain, ours = (
        rate(f, truth, 1000)["rate"] for f in (clustered.student_t, clustered.student_level)
    )
    assert plain > 0.08 > ours


NEARLY = np.array([0.05, 0.05 + 1e-5, 0.05, 0.05 + 1e-9])


@pytest.mark.parametrize("items", [100, 1000])
def test_students_that_agree_by_chance_prove_no_more_than_their_items(items):
    # Of 4 students, 0.05 n items each changed at least: more than a t of that error shows nobody.
    rows = of_students(NEARLY).assign(items=items)
    error = math.sqrt(0.05 * 0.95 / items / 4)
    limit = min(float(2 * stats.t.sf(0.05 / error, 3)), 0.01)
    for test in (clustered.student_level, clustered.student_t, clustered.cluster_robust):
        found = test(rows)
        assert found.p == pytest.approx(limit, rel=1e-3), test
        half = stats.norm.ppf(0.975) * error
        assert found.low <= 0.05 - half * 0.999 and found.high >= 0.05 + half * 0.999
    assert "they differ less than items" in clustered.student_level(rows).sentence


@pytest.mark.parametrize("net", [2, 3, 5])
def test_no_p_is_below_all_flips_of_the_students_changed_items(net):
    # Each student answers `net` items more: with so few, flips of all of them are the least p.
    rows = of_students(net / 100 + np.array([0, 1e-9, 0, 2e-9])).assign(items=100)
    for test in (clustered.student_level, clustered.student_t, clustered.cluster_robust):
        assert test(rows).p >= 2.0 ** (1 - 4 * net)


def test_where_items_are_not_told_many_are_taken_and_the_sentence_says_so():
    found = clustered.student_level(of_students(NEARLY))
    assert found.p > 1e-5  # it was 1e-34
    assert "10,000 a task, as none are told" in found.sentence


def test_seeds_that_spread_bound_what_agreeing_students_prove():
    rows = of_students(NEARLY).assign(items=10_000, seed_variance=0.03**2)
    found = clustered.student_level(rows)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * 0.03 / 2, rel=1e-3)
    assert found.p == pytest.approx(0.01)
    wide = clustered.student_level(rows.assign(seed_variance=0.06**2))
    assert wide.p > 0.05 and wide.low < 0 < wide.high


def test_where_students_differ_items_and_seeds_change_nothing():
    means = [0.1, -0.02, 0.03, 0.2, 0.05, 0.01]
    rows = of_students(means).assign(items=500, seed_variance=0.01**2)
    found, expected = clustered.student_t(rows), stats.ttest_1samp(means, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.low == pytest.approx(expected.confidence_interval().low)
