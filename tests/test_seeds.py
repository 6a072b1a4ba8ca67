"""One student with several seeds: what is said of it from a table, from items, in the report."""

import math

import numpy as np
import pandas as pd
import pytest
from fake_study import fake_study
from scipy import stats
from typer.testing import CliRunner

from kdstudy.analysis.analysis import analyze, analyze_items, lead, leads
from kdstudy.analysis.results import collect
from kdstudy.analysis.runs import read_runs
from kdstudy.analysis.stats import study_tests
from kdstudy.analysis.verdict import points
from kdstudy.cli import app
from kdstudy.report.data import ReportData
from kdstudy.report.sections import answer, generalization
from kdstudy.report.sections.generalization import gains, paired_sheet
from kdstudy.report.sections.warnings import warnings
from kdstudy.report.seeds import Seeds

HEADER = "student,method,task,seed,accuracy"
SFT, KD = (0.402, 0.415, 0.409), (0.455, 0.471, 0.449)


def hand(tmp_path, sft=SFT, kd=KD, header=HEADER):
    rows = [f"s,sft,gsm,{i},{x}" for i, x in enumerate(sft)]
    rows += [f"s,kd,gsm,{i},{x}" for i, x in enumerate(kd)]
    path = tmp_path / "hand.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_student_with_three_seeds_is_tested_over_its_seeds(tmp_path):
    found = analyze(read_runs(hand(tmp_path)))
    first = lead(found)
    expected = stats.ttest_ind(KD, SFT, equal_var=False)
    ends = expected.confidence_interval()
    assert first is found[0] and (first.table, first.subject) == ("student", "s/kd")
    assert first.estimate == pytest.approx(np.mean(KD) - np.mean(SFT))
    assert (first.statistic, first.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert (first.low, first.high) == pytest.approx((ends.low, ends.high))
    assert "other seeds of s on these items, not for other items or students" in first.sentence


def test_the_command_states_the_gain_first(tmp_path):
    path = hand(tmp_path, (40, 41, 42), (45, 46, 47))
    said = CliRunner().invoke(app, ["analyze", str(path)])
    assert said.exit_code == 0
    first = said.stdout.splitlines()[0]
    assert first.startswith("[student] kd − SFT on s: +5.0 points (95% interval +2.7 to +7.3, p = ")
    assert "cannot be" not in said.stdout  # what these rows cannot answer is counted, not listed


@pytest.mark.parametrize(
    ("sft", "kd", "words"),
    [
        ((40,), (45,), "cannot be estimated from one seed"),
        ((40, 40, 40), (45, 45, 45), "every seed gave the same"),
        ((40,), (44, 45, 46), "SFT has one seed and is taken to vary as the method does"),
    ],
)
def test_few_or_equal_seeds_state_the_gain_and_say_what_is_missing(tmp_path, sft, kd, words):
    first = lead(analyze(read_runs(hand(tmp_path, sft, kd))))
    assert first.sentence.startswith("kd − SFT on s: +5.0 points") and words in first.sentence
    if len(kd) + len(sft) == 4:  # the variance of one seed, of one run and of three
        error = math.sqrt(0.01**2 * (1 + 1 / 3))
        assert first.statistic == pytest.approx(0.05 / error)
        assert first.p == pytest.approx(2 * stats.t.sf(0.05 / error, 2))


def test_given_baselines_that_differ_are_paired(tmp_path):
    rows = [f"s,kd,gsm,{i},{a},{b}" for i, (a, b) in enumerate(zip(KD, SFT, strict=True))]
    path = tmp_path / "hand.csv"
    path.write_text("\n".join([f"{HEADER},baseline", *rows]) + "\n")
    first = lead(analyze(read_runs(path)))
    assert first.p == pytest.approx(stats.ttest_rel(KD, SFT).pvalue)


@pytest.mark.parametrize(
    ("sft", "kd"),
    [
        ((0.40, 0.42), (0.45, 0.47, 0.44)),
        ((0.40, 0.43, 0.41), (0.45, 0.47)),
        ((0.40, 0.42, 0.41), (0.45,)),
    ],
)
def test_unequal_seeds_are_compared_with_the_mean_of_all_sft_seeds(tmp_path, sft, kd):
    path = hand(tmp_path, sft, kd)
    runs = read_runs(path)
    assert runs.baseline.to_numpy() == pytest.approx(np.mean(sft))
    first = lead(analyze(runs))
    assert first.estimate == pytest.approx(np.mean(kd) - np.mean(sft))
    if len(kd) == 1:
        spread = np.var(sft, ddof=1) * (1 + 1 / len(sft))
        assert first.statistic == pytest.approx(first.estimate / math.sqrt(spread))
        return
    expected = stats.ttest_ind(kd, sft, equal_var=False)
    assert (first.statistic, first.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert f"{len(kd)} seeds of kd and {len(sft)} of SFT" in first.sentence


def test_unequal_seeds_of_several_tasks_are_averaged_within_each_sft_seed(tmp_path):
    sft = np.array([[0.40, 0.60], [0.44, 0.50]])
    kd = np.array([[0.45, 0.62], [0.47, 0.55], [0.41, 0.66]])
    rows = [
        f"s,{m},{t},{i},{x[k]}"
        for m, of in (("sft", sft), ("kd", kd))
        for i, x in enumerate(of)
        for k, t in enumerate("ab")
    ]
    path = tmp_path / "hand.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    first = lead(analyze(read_runs(path)))
    expected = stats.ttest_ind(kd.mean(axis=1), sft.mean(axis=1), equal_var=False)
    assert (first.scope, first.p) == ("average", pytest.approx(expected.pvalue))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_rows_changes_nothing(tmp_path, seed):
    # One SFT run serves both seeds of kd: told by its labels in another order it would be two.
    rng = np.random.default_rng(7)
    rows = [f"s,sft,{t},,{rng.random():.3f}" for t in "abc"]
    rows += [
        f"s,{m},{t},{i},{rng.random():.3f}" for m in ("kd", "gkd") for i in (0, 1) for t in "abc"
    ]
    rows += [
        f"u,{m},{t},{i},{rng.random():.3f}"
        for m, n in (("sft", 2), ("kd", 3))
        for i in range(n)
        for t in "abc"
    ]
    path = tmp_path / "hand.csv"
    said = []
    for order in (np.arange(len(rows)), np.random.default_rng(seed).permutation(len(rows))):
        path.write_text("\n".join([HEADER, *(rows[i] for i in order)]) + "\n")
        said.append(CliRunner().invoke(app, ["analyze", str(path), "--json"]).stdout)
    assert said[0] == said[1] and "SFT has one seed" in said[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_item_rows_changes_nothing(seed):
    rows = item_rows(3)
    shuffled = rows.sample(frac=1, random_state=seed)
    assert repr(analyze_items(shuffled)) == repr(analyze_items(rows))


def test_several_students_still_lead_and_each_is_told_beside(tmp_path):
    path = tmp_path / "hand.csv"
    rng = np.random.default_rng(0)
    rows = [
        f"{s},{m},gsm,{i},{0.4 + 0.05 * (m == 'kd') + 0.01 * rng.normal():.4f}"
        for s in "abc" for m in ("sft", "kd") for i in range(3)
    ]  # fmt: skip
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    found = analyze(read_runs(path))
    assert found[0] is lead(found) and found[0].table == "gain" and found[0].clusters == 3
    assert {t.subject for t in found if t.table == "student"} == {"a/kd", "b/kd", "c/kd"}


def item_rows(seeds, n=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        (f"s/{m}/{s}", "s", "" if m == "sft" else "t", m, s, "b", f"{i:03d}", int(rng.random() < p))
        for m, p in (("sft", 0.4), ("kd", 0.6), ("gkd", 0.55))
        for s in range(seeds)
        for i in range(n)
    ]
    columns = ["system", "student", "teacher", "method", "seed", "benchmark", "example_id"]
    return pd.DataFrame(rows, columns=[*columns, "correct"])


def test_item_rows_with_seeds_are_draws_of_one_system():
    found = analyze_items(item_rows(3))
    own = [t for t in found if t.table == "student" and t.scope == "b"]
    assert [t.subject for t in own] == ["s/gkd/t", "s/kd/t"]
    assert all(t.clusters == 3 and "60 items and 3 seeds" in t.sentence for t in own)
    assert len([t for t in found if t.table == "paired" and t.scope == "b"]) == 6
    pairs = {t.subject for t in found if t.table == "methods"}
    assert pairs == {"gkd − kd", "gkd − sft", "kd − sft"}


def test_one_seed_holds_for_these_runs_only():
    first = next(t for t in analyze_items(item_rows(1)) if t.table == "student")
    assert "other items and these two runs, not for other seeds or students" in first.sentence


@pytest.fixture(scope="module")
def one_student():
    """The invented study's smallest student with three seeds; kd's third seed is the best run."""
    s = fake_study(n=40, ablations=False)
    rng = np.random.default_rng(1)
    systems, scores = [], {}
    for system in s.systems:
        if system.kind == "distilled" and (system.model, system.method) != ("zoo-xs", "gkd"):
            continue
        if system.kind in ("sft", "distilled") and system.model == "zoo-xs":
            for k in range(3):
                label = f"{system.label}/seed={k}"
                systems.append(type(system)(**_with(system, label=label, seed=k)))
                scores[label] = [_flip(r, rng) for r in s.scores[system.label]]
        elif system.kind == "teacher":
            systems.append(system)
            scores[system.label] = s.scores[system.label]
    table = collect(systems, scores, {}, s.parameters, "one", partial=True)
    return table, study_tests(table, systems, scores), systems, scores


def _with(system, **changed):
    return {f: getattr(system, f) for f in system.__dataclass_fields__} | changed


def _flip(score, rng):
    if rng.random() > 0.1:
        return score
    right = score.outcome != "correct"
    outcome = "correct" if right else "wrong"
    return type(score)(**_with(score, outcome=outcome, quality=float(right)))


def test_the_reports_first_sentence_is_the_methods_gain_on_this_student(one_student):
    table, tests, _, scores = one_student
    first = leads(tests)
    assert [t.subject for t in first] == ["zoo-xs/gkd/zoo-l-sft"] and first[0].clusters == 3
    right = {
        label: np.mean([
            np.mean([s.outcome == "correct" for s in rows if s.benchmark == b])
            for b in sorted({s.benchmark for s in rows})
        ])
        for label, rows in scores.items()
    }  # fmt: skip
    gkd, sft = (np.mean([v for k, v in right.items() if m in k]) for m in ("xs/gkd", "xs/sft"))
    assert first[0].estimate == pytest.approx(gkd - sft)
    seeds = Seeds(table, tests)
    for said in (answer.sentence(seeds, tests), generalization.sentence(seeds, tests)):
        assert said.startswith("gkd − SFT on zoo-xs, mean of 3 benchmarks: ")
        assert "120 items and 3 seeds" in said.split(". ")[0] + said


def test_a_gain_has_one_interval_wherever_it_is_told(one_student):
    table, tests = one_student[:2]
    own = next(t for t in tests if t.table == "student" and t.scope == "average")
    ends = f"{points(own.low)} to {points(own.high)}"
    assert ends in answer.sentence(Seeds(table, tests), tests)
    drawn = gains(Seeds(table, tests)).data["rows"]
    mean = drawn[(drawn.system == own.subject) & (drawn.benchmark == "average")]
    mean = mean[mean.part == "mean"].iloc[0]
    assert (mean.low, mean.high) == pytest.approx((100 * own.low, 100 * own.high))
    entry = next(
        e for e in paired_sheet(tests).entries
        if [c.text for c in e.cells[:2]] == [own.subject, "average"]
    )  # fmt: skip
    assert ends in [c.text for c in entry.cells]
    method = own.subject.split("/")[1]
    pair = next(
        t for t in tests
        if (t.table, t.subject, t.scope) == ("methods", f"{method} − sft", "average")
    )  # fmt: skip
    assert (pair.estimate, pair.low, pair.high, pair.p) == pytest.approx(
        (own.estimate, own.low, own.high, own.p)
    )
    said = generalization.sentence(Seeds(table, tests), tests)
    assert "distilled systems beat" in said and "this many items and seeds" in said


def test_what_would_be_missed_fits_the_interval_that_is_told(one_student):
    table, tests = one_student[:2]
    own = [t for t in tests if t.table == "student" and t.scope == "average"]
    # 80% power asks for 0.84 standard errors beyond the interval's half.
    expected = np.median([
        (t.high - t.low) / 2 + 0.8416 * abs(t.estimate / t.statistic) for t in own
    ])  # fmt: skip
    said = " ".join(warnings(ReportData(table=table, tests=tests)))
    assert f"A gain under about {points(expected, sign=False)} points" in said
    assert "with these items and seeds." in said


def test_no_seed_is_the_best_student(one_student):
    table, tests, *_ = one_student
    said = answer.sentence(Seeds(table, tests), tests)
    assert "seed=" not in said and "best student" not in said
    assert "over 3 seeds)" in said


def test_the_sheet_has_a_row_per_system_and_its_runs_below(one_student):
    sheet = paired_sheet(one_student[1])
    assert list(sheet.frame.System) == ["zoo-xs/gkd/zoo-l-sft"] * 4
    assert [len(e.runs) for e in sheet.entries] == [3] * 4
    assert set(sheet.frame.Units) == {"3 seeds, items"}


def test_the_command_reads_item_rows_and_says_the_gain_first(tmp_path):
    rows = item_rows(3)
    path = tmp_path / "items.csv"
    rows.rename(columns={"example_id": "Item"}).to_csv(path, index=False)
    said = CliRunner().invoke(app, ["analyze", str(path)])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    right = rows.groupby("method").correct.mean()
    gain = 100 * (right["gkd"] - right["sft"])
    assert lines[0].startswith(f"[student] gkd − SFT on s: {gain:+.1f} points (95% interval ")
    assert lines[1].startswith("[student] kd − SFT on s")


@pytest.mark.parametrize(
    ("old", "new", "words"), [(",1\n", ",yes\n", "is 'yes', not 0 or 1"), ("seed", "System", "two")]
)
def test_item_rows_that_cannot_be_read_are_refused(tmp_path, old, new, words):
    path = tmp_path / "items.csv"
    path.write_text(item_rows(1).to_csv(index=False).replace(old, new, 1))
    said = CliRunner().invoke(app, ["analyze", str(path)])
    assert words in str(said.exception)


def test_one_free_text_has_no_interval_and_equal_ones_an_exact_one():
    from kdstudy.analysis.scores import Graded, levels
    from kdstudy.records import Score

    def rated(n):
        return [
            Score(
                benchmark="t", example_id=f"{i}", sample=0, completion="a b", extracted="",
                rule="text-corrected", outcome="rated", quality=1.0, tokens=2,
            )
            for i in range(n)
        ]  # fmt: skip

    one, four = (levels(Graded(system="s", scores=rated(n)))[0] for n in (1, 4))
    assert math.isnan(one.low) and "nan" not in one.sentence
    assert four.low == pytest.approx(0.025**0.25) and four.high == 1.0


def test_an_item_counts_once_however_often_it_was_drawn():
    from kdstudy.analysis.scores import Graded, levels
    from kdstudy.records import Score

    # Eight draws of a hard item, one of each of three easy ones: 3/4 of items, not 3/11 of rows.
    draws = [("hard", i, "wrong") for i in range(8)] + [(x, 0, "correct") for x in "abc"]
    rows = [
        Score(
            benchmark="t", example_id=item, sample=i, completion="x", extracted="1",
            rule="number-corrected", outcome=outcome, quality=float(outcome == "correct"), tokens=2,
        )
        for item, i, outcome in draws
    ]  # fmt: skip
    level = levels(Graded(system="s", scores=rows))[0]
    ends = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert (level.value, level.low, level.high) == pytest.approx((0.75, ends.low, ends.high))
    assert level.n == 4 and "75.0% of 4 items" in level.sentence
