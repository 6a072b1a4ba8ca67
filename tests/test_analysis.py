"""The whole analysis: what it returns for any table, and item rows of any origin."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_runs import runs
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdstudy.analysis.analysis import analyze, analyze_items, lead
from kdstudy.analysis.families import corrected
from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test
from kdstudy.errors import InputError

FEW = Bootstrap(resamples=200)


@pytest.fixture(scope="module")
def tests():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return analyze(runs(seeds=2))


def test_every_test_is_whole(tests):
    for t in tests:
        assert t.sentence.endswith(".") and t.signature
        assert t.family or t.table in ("bounds", "seeds", "collapse", "power")
        assert t.n >= 0 and t.clusters >= 0
        if math.isnan(t.p):
            known = ("cannot be", "nothing is tested", "would be missed", "as these do")
            assert any(k in t.sentence for k in known), t.sentence
        else:
            assert 0 <= t.p <= 1
        if not math.isnan(t.low):
            assert t.low <= t.estimate <= t.high, t
    keys = [(t.table, t.name, t.subject, t.scope) for t in tests]
    assert len(keys) == len(set(keys))


def test_the_first_test_is_the_lead_and_is_its_own_family(tests):
    first = lead(tests)
    assert tests[0] is first and first.p_adjusted == first.q == first.p
    assert (first.n, first.clusters, first.scope) == (33, 6, AVERAGE)


def test_the_papers_protocol_is_its_five_tables_and_part_of_ours(tests):
    paper = analyze(runs(seeds=2), protocol="paper")
    assert [t.table for t in paper] == sorted(t.table for t in paper)
    assert {t.table for t in paper} == set("12345")
    theirs = [t for t in tests if t.table in set("12345")]
    assert [(t.name, t.scope, t.p) for t in paper if t.p == t.p] == [
        (t.name, t.scope, t.p) for t in theirs if t.p == t.p
    ]


def test_holm_and_bh_within_each_family(tests):
    members: dict[str, list[Test]] = {}
    for t in tests:
        if t.family and not math.isnan(t.p):
            members.setdefault(t.family, []).append(t)
    largest = sorted(members.values(), key=len)[-6:]
    assert len(largest[0]) > 3
    for family in largest:
        p = [t.p for t in family]
        holm, bh = (multipletests(p, method=m)[1] for m in ("holm", "fdr_bh"))
        np.testing.assert_allclose([t.p_adjusted for t in family], holm)
        np.testing.assert_allclose([t.q for t in family], bh)


def test_a_test_without_a_p_or_a_family_is_not_corrected():
    def made(p, family):
        numbers = dict.fromkeys(("statistic", "estimate", "low", "high"), 0.0)
        text = dict.fromkeys(("table", "name", "subject", "scope", "signature", "sentence"), "x")
        return Test(**numbers, **text, p=p, n=1, clusters=1, family=family)

    found = corrected([made(0.02, "f"), made(math.nan, "f"), made(0.01, ""), made(0.03, "f")])
    assert [t.p_adjusted for t in found if t.p == t.p and t.family] == pytest.approx([0.04, 0.04])
    assert math.isnan(found[1].p_adjusted) and math.isnan(found[2].p_adjusted)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r[r.student == "a"],
        lambda r: r[r.method == "kd"],
        lambda r: r[r.task == "task0"],
        lambda r: r.head(1),
        lambda r: r.head(2),
        lambda r: r.assign(score=0.5),
        lambda r: r.assign(score=r.score.round(1)),
        lambda r: r.drop(r.index[3]),
        lambda r: r.assign(agreement=np.nan, teacher_score=np.nan, size=np.nan),
        lambda r: r.assign(teacher=""),
        lambda r: r.assign(score=r.score.where(r.index != 5)),
        lambda r: r[r.student.isin(["a", "b"])],
        lambda r: r.assign(teacher=r.student + "'s"),
        lambda r: r[(r.teacher == "z")],
    ],
    ids=lambda f: "",
)
def test_degenerate_tables_give_nan_with_a_sentence_and_no_warning(change):
    rows = change(runs())
    if rows.duplicated(["student", "teacher", "method", "task"]).any():
        rows = rows.drop_duplicates(["student", "teacher", "method", "task"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyze(rows)
    for t in found:
        assert t.sentence.endswith(".")
        assert not (math.isnan(t.p) and t.table not in ("collapse", "power")) or (
            "cannot be" in t.sentence
        ), t
        # never certain: a zero-width interval, or a p of 0
        assert t.low != t.high and t.p != 0, t


def test_what_is_left_out_is_said_first():
    rows = pd.concat([runs(), runs().assign(temperature=5.0).head(3)])
    assert "3 runs at another temperature than 1 are left out." in analyze(rows)[0].sentence


def test_without_a_complete_run_a_task_leads():
    rows = runs()
    rows = rows[(rows.method == "kd") == (rows.task == "task0")]
    first = lead(analyze(rows))
    assert first.scope == "task2" and first.n == 22
    assert "33 runs lack a task and are not in the average." in first.sentence
    with pytest.raises(InputError, match="no lead"):
        lead(analyze(rows, "paper"))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InputError, match="no protocol"):
        analyze(runs(), protocol="reference")


def graded(changes, sample=0):
    """Items of an SFT and a distilled system: (before, after) per item of one benchmark."""
    rows = []
    for i, pair in enumerate(changes):
        for method, correct in zip(("sft", "gkd"), pair, strict=True):
            rows.append((f"s/{method}", "s", "t", method, "b", f"{i:04d}", sample, correct))
    columns = ["system", "student", "teacher", "method", "benchmark", "example_id", "sample"]
    return pd.DataFrame(rows, columns=[*columns, "correct"])


def test_mcnemar_of_agrestis_approval_ratings_from_item_rows():
    # Agresti (1990, p. 350): 794, 150, 86, 570; exact p = 3.716e-05.
    changes = [(0, 1)] * 150 + [(1, 0)] * 86 + [(1, 1)] * 794 + [(0, 0)] * 570
    found = analyze_items(graded(changes), bootstrap=FEW)
    test = next(t for t in found if t.scope == "b")
    assert test.p == pytest.approx(3.716e-05, rel=1e-3)
    assert test.estimate == pytest.approx(64 / 1600)
    error = math.sqrt(236 - 64**2 / 1600) / 1600
    assert (test.low, test.high) == pytest.approx((0.04 - 2 * error, 0.04 + 2 * error), abs=0.004)
    assert test.p_adjusted == test.p and test.family


def test_item_rows_agree_with_a_named_baseline_and_with_methods():
    rng = np.random.default_rng(0)
    first = graded(list(zip(rng.integers(0, 2, 80), rng.integers(0, 2, 80), strict=True)))
    other = first[first.method == "gkd"].assign(system="s/kd", method="kd")
    other = other.assign(correct=rng.integers(0, 2, 80))
    both = pd.concat([first, other])
    by_student = analyze_items(both, bootstrap=FEW)
    named = analyze_items(both, baseline="s/sft", bootstrap=FEW)
    assert [t.p for t in by_student] == [t.p for t in named]
    pair = next(t for t in by_student if t.table == "methods" and t.scope == "b")
    gkd, kd = (both[both.method == m].correct.to_numpy(float) for m in ("gkd", "kd"))
    assert pair.estimate == pytest.approx((gkd - kd).mean())
    assert pair.statistic == pytest.approx((gkd - kd).mean() / stats.sem(gkd - kd))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.drop(columns="correct"), "no column correct"),
        (lambda r: r.assign(correct=2), "not 0 or 1"),
        (lambda r: pd.concat([r, r.tail(1)]), "there twice"),
        (lambda r: r[r.method != "sft"], "0 systems could be its SFT baseline"),
        (lambda r: r.drop(columns=["student", "method"]), "no baseline"),
        (lambda r: r.iloc[:-1], "covers other items"),
        (lambda r: r.assign(benchmark=AVERAGE), "may not be called"),
        (lambda r: r.head(0), "is empty"),
    ],
)
def test_item_rows_that_cannot_be_compared_are_refused(change, said):
    rows = change(graded([(0, 1), (1, 1), (1, 0)]))
    with pytest.raises(InputError, match=said):
        analyze_items(rows, bootstrap=FEW)
