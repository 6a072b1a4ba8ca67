"""Correlations between and inside students: recorded numbers, enumeration, known structure."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_runs import cells
from scipy import stats

from kdstudy.analysis import correlations
from kdstudy.analysis.correlations import CHANGE, FACTORS, TEACHER

SIZE, AGREEMENT = FACTORS[1], FACTORS[2]

# Bland and Altman (1995, BMJ 310:446): intramural pH and PaCO2, 47 measurements of 8 subjects;
# they give r = -0.51, p = 0.0008 for the correlation inside subjects.
PH = {
    1: ([6.68, 6.53, 6.43, 6.33], [3.97, 4.12, 4.09, 3.97]),
    2: ([6.85, 7.06, 7.13, 7.17], [5.27, 5.37, 5.41, 5.44]),
    3: (
        [7.40, 7.42, 7.41, 7.37, 7.34, 7.35, 7.28, 7.30, 7.34],
        [5.67, 3.64, 4.32, 4.73, 4.96, 5.04, 5.22, 4.82, 5.07],
    ),
    4: ([7.36, 7.33, 7.29, 7.30, 7.35], [5.67, 5.10, 5.53, 4.75, 5.51]),
    5: (
        [7.35, 7.30, 7.30, 7.37, 7.27, 7.28, 7.32, 7.32],
        [4.28, 4.44, 4.32, 3.23, 4.46, 4.72, 4.75, 4.99],
    ),
    6: ([7.38, 7.30, 7.29, 7.33, 7.31, 7.33], [4.78, 4.73, 5.12, 4.93, 5.03, 4.93]),
    7: ([6.86, 6.94, 6.92], [6.85, 6.44, 6.52]),
    8: (
        [7.19, 7.29, 7.21, 7.25, 7.20, 7.19, 6.77, 6.82],
        [5.28, 4.56, 4.34, 4.32, 4.41, 3.69, 6.09, 5.58],
    ),
}


def as_cells(data):
    rows = [
        {"student": str(s), "teacher": f"t{i}", "method": "m", "gain": y, "agreement": x}
        for s, (xs, ys) in data.items()
        for i, (x, y) in enumerate(zip(xs, ys, strict=True))
    ]
    return pd.DataFrame(rows)


def test_within_subjects_of_bland_and_altman():
    found = correlations.within(as_cells(PH), AGREEMENT, "")
    assert (found.n, found.clusters) == (47, 8)
    assert found.estimate == pytest.approx(-0.51, abs=0.005)
    assert found.p == pytest.approx(0.0008, abs=0.0001)
    shuffled = correlations.within_permuted(as_cells(PH), AGREEMENT, "")
    assert shuffled.estimate == pytest.approx(found.estimate)
    assert shuffled.p < 0.005


def test_permutations_inside_students_are_all_counted():
    rng = np.random.default_rng(0)
    data = {s: (rng.normal(size=k), rng.normal(size=k)) for s, k in (("a", 3), ("b", 4), ("c", 1))}
    found = correlations.within_permuted(as_cells(data), AGREEMENT, "")

    def covariance(orders):
        return sum(
            np.dot(np.asarray(x) - np.mean(x), y)
            for x, (_, y) in zip(orders, data.values(), strict=True)
        )

    seen = abs(covariance([x for x, _ in data.values()]))
    orders = itertools.product(*(itertools.permutations(x) for x, _ in data.values()))
    as_far = [abs(covariance(o)) >= seen - 1e-12 for o in orders]
    assert len(as_far) == 6 * 24 and found.p == pytest.approx(np.mean(as_far))


def test_sampled_permutations_are_close_to_the_exact_p(monkeypatch):
    rng = np.random.default_rng(1)
    data = {s: (rng.normal(size=5), rng.normal(size=5)) for s in "abc"[:2]}
    exact = correlations.within_permuted(as_cells(data), AGREEMENT, "")
    monkeypatch.setattr(correlations, "EXACT_ORDERS", 0)
    sampled = correlations.within_permuted(as_cells(data), AGREEMENT, "")
    assert sampled.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p / 4999))
    assert "sampled" in sampled.signature and "all:14400" in exact.signature


def test_a_factor_of_the_pair_counts_each_pair_once():
    rows = cells()
    found = correlations.within(rows, TEACHER, "")
    pairs = rows.groupby(["student", "teacher"])[["gain", "teacher_score"]].mean()
    inside = pairs - pairs.groupby("student").transform("mean")
    r = np.corrcoef(inside.gain, inside.teacher_score)[0, 1]
    t = r * math.sqrt(4 / (1 - r * r))  # 11 pairs less 6 students less the slope
    assert found.n == 11 and found.estimate == pytest.approx(r)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert "11 pairs of 6 students" in found.sentence
    assert "all 72 orders" in correlations.within_permuted(rows, TEACHER, "").sentence


def test_between_students_is_an_exact_rank_test_of_six():
    rows = cells()
    found = correlations.between(rows, SIZE, "", "student")
    means = rows.groupby("student")[["gain", "size"]].mean()
    rhos = [stats.spearmanr(p, means["size"]).statistic for p in itertools.permutations(means.gain)]
    rho = stats.spearmanr(means.gain, means["size"]).statistic
    tail = min(np.mean(np.array(rhos) >= rho - 1e-9), np.mean(np.array(rhos) <= rho + 1e-9))
    assert found.n == found.clusters == 6 and found.estimate == pytest.approx(rho)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert correlations.between(rows, TEACHER, "", "teacher").n == 4


def test_change_on_change_finds_what_raw_agreement_hides():
    # Big students agree more and gain less; inside them more agreement still means more gain.
    rows = cells(student_sd=0)
    level = rows.student.map(dict(zip("abcdef", np.linspace(0, 0.3, 6), strict=True)))
    rows = rows.assign(gain=0.10 - level / 5 + (rows.gain - 0.03))
    rows["agreement_sft"] = 0.5 + level
    rows["agreement"] = rows.agreement_sft + rows.gain + 0.3 * level
    rows["score"] = 0.5 + rows.gain + level
    found = {(t.name, t.subject): t for t in correlations.correlation_tests(rows)}
    raw = correlations.spearman(rows, AGREEMENT, "average")
    change = found["Spearman rank correlation", CHANGE.name]
    inside = found["within-student correlation", AGREEMENT.name]
    assert raw.estimate < -0.5 and inside.estimate > 0.99
    expected = stats.spearmanr(rows.gain, rows.agreement - rows.agreement_sft)
    assert (change.estimate, change.p) == pytest.approx(tuple(expected))
    accuracy = found["Spearman rank correlation, raw accuracy", AGREEMENT.name]
    assert accuracy.estimate == pytest.approx(stats.spearmanr(rows.score, rows.agreement)[0])


@pytest.mark.parametrize(
    "rows",
    [
        cells().query("student == 'd'"),
        cells().assign(gain=0.1, score=0.6),
        cells().assign(agreement=np.nan, teacher_score=np.nan, size=np.nan),
        cells().head(1),
    ],
)
def test_what_cannot_be_estimated_says_why(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = correlations.correlation_tests(rows)
    for t in found:
        assert math.isnan(t.p) == ("cannot be estimated" in t.sentence)
        assert math.isnan(t.p) or abs(t.estimate) <= 1
    assert any(math.isnan(t.p) for t in found)


def test_a_perfect_order_has_no_p_below_all_pairings():
    # scipy's t approximation says 0; of 8! = 40,320 pairings two are as far out.
    n = 8
    names = [f"s{i}" for i in range(n)]
    rows = pd.DataFrame({"student": names, "teacher": "t", "method": "m", "task": "average"})
    rows = rows.assign(gain=np.arange(n) / 100.0, size=np.arange(n) + 1.0)
    size = next(f for f in correlations.FACTORS if f.column == "size")
    found = correlations.spearman(rows, size, "average")
    assert found.estimate == pytest.approx(1) and found.p == pytest.approx(2 / math.factorial(n))
    two = rows.assign(size=[1.0] * 4 + [2.0] * 4)
    tied = correlations.between(two, size, "average", "student")
    assert tied.p >= 2 / math.comb(n, 4) * (1 - 1e-9)


def test_a_perfect_line_inside_students_has_no_p_of_zero():
    rows = pd.DataFrame(
        {"student": list("aaabbb"), "teacher": list("xyzxyz"), "method": "m", "task": "average"}
    ).assign(gain=[0.1, 0.2, 0.3, 0.0, 0.1, 0.2], teacher_score=[0.5, 0.6, 0.7] * 2)
    found = correlations.within(rows, correlations.TEACHER, "average")
    assert found.estimate == pytest.approx(1) and found.p >= 2 / 36
