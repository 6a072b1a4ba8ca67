"""Differences over items and seeds: closed forms, enumeration, scipy, and simulated error rates."""

import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdstudy.analysis.contrasts import Group, contrast
from kdstudy.analysis.flips import flip_p

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("calibration", ROOT / "bench" / "calibration.py")
calibration = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(calibration)


def between(after, before):
    first, second = ([{"b": np.asarray(r, float)} for r in runs] for runs in (after, before))
    return contrast([Group(1.0, first), Group(-1.0, second)])


def changes(up, down, same):
    return np.repeat([1.0, -1.0, 0.0], [up, down, same])


@pytest.mark.parametrize(("up", "down"), [(10, 2), (0, 7), (3, 3), (150, 86), (1, 0), (31, 0)])
def test_flips_of_one_benchmark_are_mcnemars_exact_test(up, down):
    exact = stats.binomtest(up, up + down).pvalue
    assert flip_p([changes(up, down, 50)]) == pytest.approx(exact, rel=1e-9)


def test_flips_of_fractions_and_of_unequal_benchmarks_are_all_counted():
    rng = np.random.default_rng(0)
    first = rng.choice([-1, -1 / 3, 0, 1 / 3, 2 / 3], 6)
    second = rng.choice([-1.0, 0.0, 1.0], 9, p=[0.2, 0.5, 0.3])
    parts = np.r_[first / 6, second / 9] / 2
    signs = np.array(list(itertools.product([1, -1], repeat=15)))
    sums = np.abs(signs @ parts)
    seen = abs(parts.sum())
    assert flip_p([first, second]) == pytest.approx((sums >= seen - 1e-9).mean(), abs=0.003)


@pytest.mark.parametrize("n", [8, 30, 100])
def test_no_p_is_below_what_flips_could_give(n):
    # A normal tail of these says 1e-50 and less; all changed items helped, so two flips of 2^n.
    after, before = np.ones((1, n)), np.zeros((1, n))
    before[0, 0] = 1.0
    assert between(after, before).p >= 2.0 ** (2 - n) * 0.999
    seeds = np.repeat(after, 3, axis=0), np.repeat(before, 3, axis=0)
    assert between(*seeds).p >= 2.0 ** (2 - n) * 0.999


def test_mid_p_takes_half_of_the_outcome_seen():
    expected = stats.binomtest(9, 12).pvalue - stats.binom.pmf(9, 12, 0.5)
    assert flip_p([changes(9, 3, 88)], mid=True) == pytest.approx(expected)
    assert math.isnan(flip_p([changes(0, 0, 9)]))


def test_where_items_do_not_matter_seeds_are_tested_by_t():
    # Every run right on its own share of items in blocks that no item tells apart: the variance
    # over items of the difference is only that of single answers, which the seeds' holds already.
    rng = np.random.default_rng(4)
    after, before = (rng.random((4, 2000)) < p for p in (0.55, 0.50))
    found = between(after, before)
    a, b = after.mean(axis=1), before.mean(axis=1)
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    least = stats.ttest_ind(a, b, equal_var=False)
    assert abs(found.statistic) <= abs(least.statistic) + 1e-9 and found.over_seeds
    assert found.freedom >= 3


def test_the_variance_is_that_of_a_crossed_design():
    # Brute force: mean squares of a two-way layout per group, items' variance of the difference.
    # Seeds differ, so that the whole is far above the least that items alone leave it.
    rng = np.random.default_rng(5)
    hard = rng.normal(size=60)
    after, before = (
        (rng.random((n, 60)) < 1 / (1 + np.exp(-hard - rng.normal(shift, 0.5, (n, 1)))))
        for n, shift in ((3, 0.6), (5, 0.0))
    )
    after, before = after.astype(float), before.astype(float)
    found = between(after, before)
    seeds = both = 0.0
    for x in (after, before):
        n, k = x.shape
        table = [
            [x[s, i] - x[s].mean() - x[:, i].mean() + x.mean() for i in range(k)] for s in range(n)
        ]
        square = sum(v * v for row in table for v in row) / ((n - 1) * (k - 1))
        seeds += np.var([row.mean() for row in x], ddof=1) / n
        both += square / k / n
    items = np.var(after.mean(0) - before.mean(0), ddof=1) / 60
    variance = seeds + max(items - both, 0)
    assert variance > 1.1 * items
    assert found.statistic == pytest.approx(found.estimate / math.sqrt(variance))
    half = found.estimate - found.low
    assert half == pytest.approx(math.sqrt(variance) * stats.t.ppf(0.975, found.freedom))


def test_seeds_that_spread_by_chance_as_if_there_were_none_prove_nothing():
    # Two runs are right equally often, on items that have nothing to do with each other: a seed
    # variance of 0, from one degree of freedom. What items alone leave open stays open.
    rng = np.random.default_rng(9)
    for _ in range(100):
        first, other = (rng.random((2, 100)) < 0.5).astype(float)
        second = rng.permutation(first)
        found = between([first, second], [other])
        change = (first + second) / 2 - other
        least = 1.96 * stats.sem(change)
        assert found.low < found.estimate - 0.8 * least
        assert found.high > found.estimate + 0.8 * least
        assert found.p > stats.norm.sf(abs(change.mean()) / stats.sem(change) / 0.8)


DESIGNS = [(1, 1), (2, 1), (1, 3), (2, 3), (5, 1), (2, 2), (4, 4)]


@pytest.mark.parametrize("runs", DESIGNS, ids=str)
def test_interval_and_p_say_the_same(runs):
    rng = np.random.default_rng(8)
    near = 0
    for _ in range(300):
        sizes = rng.choice([3, 6, 20, 60], size=rng.integers(1, 4))
        gain = rng.choice([0.0, 0.1, 0.3, 0.6])
        groups = []
        for weight, n, right in ((1.0, runs[0], 0.35 + gain), (-1.0, runs[1], 0.35)):
            drawn = [
                {str(k): (rng.random(s) < right).astype(float) for k, s in enumerate(sizes)}
                for _ in range(n)
            ]
            groups.append(Group(weight, drawn))
        found = contrast(groups)
        if math.isnan(found.p):
            continue
        near += 0.01 < found.p < 0.2
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        assert found.low <= found.estimate <= found.high
        assert found.p >= 0.10 or runs == (1, 1) or not found.inner[0] <= 0 <= found.inner[1]
        assert found.p < 0.10 or found.inner[0] <= 0 <= found.inner[1]
    assert near > 20


def test_where_few_large_items_decide_the_flips_are_not_believed_alone():
    # One item of three in one benchmark outweighs twenty of sixty in another: all point one way,
    # so flips give 2 of 2^n, but the interval over items is wide.
    large, small = np.r_[1.0, np.zeros(2)], np.r_[np.ones(6), np.zeros(54)]
    found = contrast(
        [
            Group(1.0, [{"few": large, "many": small}]),
            Group(-1.0, [{"few": np.zeros(3), "many": np.zeros(60)}]),
        ]
    )
    assert flip_p([large, small], mid=True) < 0.05 < found.p
    assert found.low < 0 < found.estimate < found.high


def test_a_mean_over_benchmarks_weighs_them_alike_and_keeps_runs_together():
    rng = np.random.default_rng(6)
    sizes = (("x", 300), ("y", 40))
    seed = np.array([0.15, -0.15, 0.0])[:, None]  # a seed is good on both benchmarks, or bad
    runs = {
        m: {b: (rng.random((3, n)) < 0.5 + g + seed).astype(float) for b, n in sizes}
        for m, g in (("kd", 0.05), ("sft", 0.0))
    }
    groups = [
        Group(w, [{b: x[s] for b, x in runs[m].items()} for s in range(3)])
        for m, w in (("kd", 1.0), ("sft", -1.0))
    ]
    found = contrast(groups)
    means = {m: np.mean([x.mean(axis=1) for x in of.values()], axis=0) for m, of in runs.items()}
    assert found.estimate == pytest.approx(means["kd"].mean() - means["sft"].mean())
    least = sum(np.var(x, ddof=1) / 3 for x in means.values())
    assert (found.estimate / found.statistic) ** 2 >= least - 1e-12  # not the half of it


def test_one_run_beside_several_borrows_their_spread_and_says_so():
    rng = np.random.default_rng(7)
    after, before = rng.random((4, 50)) < 0.6, rng.random((1, 50)) < 0.5
    found = between(after, before)
    assert found.borrowed and found.freedom >= 3
    spread = np.var(after.mean(axis=1), ddof=1)
    assert (found.estimate / found.statistic) ** 2 >= spread * (1 + 1 / 4) - 1e-12


def test_one_run_each_is_tested_over_items_alone():
    after, before = np.r_[np.ones(12), np.zeros(88)], np.r_[np.zeros(9), np.ones(6), np.zeros(85)]
    found = between([after], [before])
    assert not found.over_seeds and found.freedom == math.inf
    expected = stats.binomtest(9, 12).pvalue - stats.binom.pmf(9, 12, 0.5)
    assert found.p == pytest.approx(expected) and found.changed == 12


def test_equal_runs_have_no_p_but_an_interval():
    same = np.r_[np.ones(30), np.zeros(70)]
    found = between([same], [same])
    assert math.isnan(found.p) and found.low < 0 < found.high
    every = between([np.ones(20)], [np.zeros(20)])
    assert every.p == 2.0**-19 and every.low < every.estimate == every.high


BAND = (0.022, 0.08)
"""Of 1,200 draws a true rate of 3 to 7% is in here but for one such test in a thousand."""

UNEQUAL_BAND, STRICT_BAND = (0.005, 0.085), (0.0, 0.03)
"""With one run on one side the test is careful where seeds do nothing; 1% is 0 to 2%, or so."""


@pytest.mark.parametrize(
    ("seeds", "items", "truth"),
    [
        (1, 100, calibration.Items(0.5, method=1.0)),
        (1, 100, calibration.Items(0.9)),
        (2, 100, calibration.Items(0.5, seed=0.5)),
        (2, 100, calibration.Items(0.5)),
        (3, 100, calibration.Items(0.1, seed=0.5, method=1.0)),
        (5, 100, calibration.Items(0.5, seed=0.5)),
    ],
    ids=str,
)
def test_a_true_null_is_refused_about_one_time_in_twenty(seeds, items, truth):
    found = calibration.rate_of_items(truth, seeds, items, 1200)
    assert BAND[0] <= found["rate"] <= BAND[1]


@pytest.mark.parametrize(
    ("seeds", "truth"),
    [
        ((2, 1), calibration.Items(0.5, seed=0.5)),
        ((2, 1), calibration.Items(0.5)),
        ((1, 3), calibration.Items(0.5, seed=0.5, method=1.0)),
        ((3, 2), calibration.Items(0.9, seed=0.1)),
        ((5, 1), calibration.Items(0.5, method=1.0)),
    ],
    ids=str,
)
def test_unequal_seeds_refuse_no_more_and_one_percent_is_one_percent(seeds, truth):
    found = calibration.rate_of_items(truth, seeds, 100, 800)
    assert UNEQUAL_BAND[0] <= found["rate"] <= UNEQUAL_BAND[1]
    assert STRICT_BAND[0] <= found["rate_at_1_percent"] <= STRICT_BAND[1]


def test_the_committed_rates_are_those_of_this_code():
    # The first 800 of 4,000 draws again; the rates that docs/statistics.md promises.
    committed = json.loads((ROOT / "docs" / "calibration.json").read_text())["one_student"]
    name = "10% right, large, items differ"
    known = committed["level"]["2 against 1 seeds, 100 items"][name]["rate"]
    again = calibration.rate_of_items(calibration.ONE_STUDENT[name], (2, 1), 100, 800)["rate"]
    assert abs(again - known) < 4 * math.sqrt(known * (1 - known) / 800)
    rates = [
        x["rate"]
        for seeds in ("2", "3", "5", "3 against 2")
        for items in (100, 1000)
        for truth, x in committed["level"][f"{seeds} seeds, {items} items"].items()
        if "three times as far" not in truth
    ]
    assert min(rates) >= 0.02 and max(rates) <= 0.07


def test_items_alone_would_refuse_far_too_often_where_seeds_differ():
    # The test that this one replaces, on the same draws: seeds averaged, items as the only units.
    truth, rng, refused = calibration.Items(0.5, seed=0.5), np.random.default_rng(0), 0
    for _ in range(200):
        after, before = calibration.answers(truth, 3, 1000, rng)
        d = after.mean(axis=0) - before.mean(axis=0)
        refused += abs(d.mean()) > 1.96 * stats.sem(d)
    assert refused > 60
    assert calibration.rate_of_items(truth, 3, 1000, 200)["rate"] < 0.12


def test_a_gain_is_found_and_more_seeds_find_it_more_often():
    truth = calibration.Items(0.5, seed=0.1, method=0.5)
    few, many = (calibration.rate_of_items(truth, n, 1000, 150, 6.0)["rate"] for n in (2, 5))
    assert 0.1 < few < 0.5 < many
