"""Forced agreement, seeds, collapse and power, against direct computation and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from made_runs import cells as made
from made_runs import runs
from scipy import stats

from kdstudy.analysis import diagnostics
from kdstudy.analysis.cells import cells, main_runs
from kdstudy.analysis.results import AVERAGE


def at(tests, scope=AVERAGE):
    return next(t for t in tests if t.scope == scope)


def test_agreement_that_accuracy_forces_is_all_explained():
    rows = made()
    lower = rows.score + rows.teacher_score - 1
    upper = 1 - (rows.score - rows.teacher_score).abs()
    forced = at(diagnostics.bounds_tests(rows.assign(agreement=(lower + upper) / 2)))
    assert forced.estimate == pytest.approx(1) and "outside" not in forced.sentence
    noise = np.random.default_rng(0).normal(0, 0.05, len(rows))
    half = at(diagnostics.bounds_tests(rows.assign(agreement=(lower + upper) / 2 + noise)))
    assert half.estimate == pytest.approx(
        np.corrcoef((lower + upper) / 2, (lower + upper) / 2 + noise)[0, 1] ** 2
    )
    assert half.low < half.estimate < half.high
    impossible = at(diagnostics.bounds_tests(rows.assign(agreement=upper + 0.01)))
    assert "33 lie outside" in impossible.sentence


def test_the_bounds_hold_for_answers_of_any_two_systems():
    # Brute force: a mean over tasks has the mean of the tasks' bounds, and keeps to them.
    rng = np.random.default_rng(1)
    rows = []
    for student in "abcd":
        for task in ("x", "y"):
            truth, s, t = rng.integers(0, 3, (3, 50))
            s = np.where(rng.random(50) < rng.random(), truth, s)
            t = np.where(rng.random(50) < rng.random(), truth, t)
            rows.append((student, task, (s == truth).mean(), (t == truth).mean(), (s == t).mean()))
    frame = pd.DataFrame(rows, columns=["student", "task", "score", "teacher_score", "agreement"])
    frame = frame.assign(teacher="t", method="m", baseline=0.1, seed=0)
    found = diagnostics.bounds_tests(cells(main_runs(frame)))
    assert all("outside" not in t.sentence for t in found)
    a, b = frame.score, frame.teacher_score
    low = np.maximum(0, a + b - 1).mean()
    assert f"between {100 * low:.0f}% and" in at(found).sentence


def test_seeds_spread_is_recovered_and_one_seed_is_nan():
    assert math.isnan(at(diagnostics.seed_tests(main_runs(runs(seeds=1)))).estimate)
    rng = np.random.default_rng(2)
    rows = pd.concat([runs(1).assign(seed=s) for s in range(6)], ignore_index=True)
    rows["score"] += rng.normal(0, 0.02, len(rows))
    frame = main_runs(rows)
    found = at(diagnostics.seed_tests(frame), "task0")
    groups = frame[frame.task == "task0"].groupby(["student", "teacher", "method"]).gain
    assert found.estimate == pytest.approx(math.sqrt(groups.var(ddof=1).mean()))
    assert found.low < 0.02 < found.high and found.low < found.estimate < found.high
    assert found.p == pytest.approx(stats.f_oneway(*[g for _, g in groups]).pvalue)
    average = at(diagnostics.seed_tests(frame))
    assert average.estimate == pytest.approx(0.02 / math.sqrt(3), rel=0.2)  # of three tasks


def test_collapsed_runs_are_counted_and_left_out():
    rows = runs()
    bad = (rows.student == "a") & (rows.method == "kd") & (rows.task == "task0")
    rows.loc[bad, "score"] = 0.02
    found = diagnostics.collapse_tests(main_runs(rows))
    hit, average = at(found, "task0"), at(found)
    assert hit.statistic == 3 and "3 of 33 runs collapsed on task0" in hit.sentence
    kept = rows[(rows.task == "task0") & ~bad]
    kept = (kept.score - kept.baseline).groupby(kept.student).mean()
    assert hit.estimate == pytest.approx(kept.mean())
    assert average.statistic == 0 and math.isnan(average.p)
    assert {t.scope for t in found} == {"task0", AVERAGE}


def test_under_chance_is_collapsed_where_chance_is_known():
    rows = runs()
    rows.loc[0, "score"] = 0.2  # above a quarter of 0.5
    assert not at(diagnostics.collapse_tests(main_runs(rows))).statistic
    found = diagnostics.collapse_tests(main_runs(rows), {"task0": 0.25})
    assert at(found, "task0").statistic == 1


def test_the_smallest_detectable_effect_is_found_four_times_in_five():
    effect = diagnostics.smallest_effect(6)
    rng = np.random.default_rng(4)
    drawn = rng.normal(effect, 1, (20_000, 6))
    share = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert share == pytest.approx(0.80, abs=0.01)
    found = at(diagnostics.power_tests(made().assign(teacher="t")))
    error = stats.sem(made().groupby("student").gain.mean())
    assert found.estimate == pytest.approx(effect * error * math.sqrt(6))
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize("rows", [made().query("student == 'a'"), made().assign(gain=0.1)])
def test_power_without_spread_between_students_is_nan(rows):
    found = at(diagnostics.power_tests(rows))
    assert math.isnan(found.estimate) and "cannot be estimated" in found.sentence
