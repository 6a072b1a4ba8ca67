"""The tests of a study against scipy called directly, textbook values and exact enumeration."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from fake_study import fake_study
from made_table import AGREEMENTS, GAINS, made_table
from scipy import stats as scipy_stats

from kdstudy.analysis import analysis, stats
from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.results import AVERAGE, collect
from kdstudy.analysis.stats import format_p
from kdstudy.records import Score, System


def find(tests, table, name="", subject="", scope="bench"):
    found = [t for t in tests if (t.table, t.scope) == (table, scope)]
    found = [t for t in found if name in t.name and subject in t.subject]
    assert len(found) == 1, found
    return found[0]


def test_table_1_is_scipys_one_sided_t_test():
    found = find(stats.run_tests(made_table()), "1", "t-test", "all methods")
    expected = scipy_stats.ttest_1samp(GAINS, 0, alternative="greater")
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.n, found.clusters) == (12, 3)
    half = scipy_stats.t.ppf(0.975, 11) * scipy_stats.sem(GAINS)
    assert (found.low, found.high) == pytest.approx((np.mean(GAINS) - half, np.mean(GAINS) + half))


def test_one_sample_t_of_students_sleep_data():
    # Student (1908), the additional hours of sleep: t = 4.0621 on 9 degrees, one-sided p 0.001416.
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    sleep = [hours / 10 for hours in sleep]  # as gains, which are fractions
    table = made_table(
        gains=sleep, agreements=[0.5] * 10, students=["s"], methods=list("abcdefghij")
    )
    found = find(stats.run_tests(table), "1", "t-test", "all methods")
    assert found.statistic == pytest.approx(4.0621, abs=1e-4)
    assert found.p == pytest.approx(0.001416, abs=1e-6)


def test_anova_is_scipys_and_its_estimate_is_eta_squared():
    found = find(stats.run_tests(made_table()), "1", "ANOVA")
    groups = [GAINS[i::4] for i in range(4)]
    expected = scipy_stats.f_oneway(*groups)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    between, within = 3, 8
    f = expected.statistic
    assert found.estimate == pytest.approx(between * f / (between * f + within))


def test_spearman_against_size_handles_ties_as_scipy_does():
    found = find(stats.run_tests(made_table()), "3")
    sizes = np.repeat([1e6, 1e7, 1e8], 4)
    expected = scipy_stats.spearmanr(GAINS, sizes)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.low < found.estimate < found.high < 0


def test_small_rank_correlations_have_an_exact_p():
    gains, agreements = [0.1, 0.3, 0.2, 0.5, 0.4], [0.5, 0.6, 0.7, 0.8, 0.9]
    table = made_table(gains=gains, agreements=agreements, students=["s"], methods=list("abcde"))
    found = find(stats.run_tests(table), "4")

    def rho(order):
        return scipy_stats.spearmanr(order, agreements).statistic

    all_rho = [rho(order) for order in itertools.permutations(gains)]
    at_least = [r for r in all_rho if r >= rho(gains) - 1e-12]
    assert found.p == pytest.approx(2 * len(at_least) / math.factorial(5))
    assert "exact" in found.signature


def test_a_perfect_rank_correlation_claims_no_certainty():
    table = made_table(
        gains=[0.1, 0.2, 0.3, 0.4],
        agreements=[0.5, 0.6, 0.7, 0.8],
        students=["s"],
        methods=list("abcd"),
    )
    found = find(stats.run_tests(table), "4")
    assert found.estimate == pytest.approx(1)
    assert found.p == pytest.approx(2 / math.factorial(4))
    assert math.isnan(found.low) and math.isnan(found.high)


def test_one_teacher_cannot_be_correlated():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(stats.run_tests(made_table()), "2")
    assert math.isnan(found.p) and math.isnan(found.statistic)
    assert "one teacher: cannot be estimated" in found.sentence


@pytest.mark.parametrize(
    ("students", "methods", "gains"),
    [
        (["s"], ["gkd"], [0.1]),
        (["s"], ["gkd", "revkd"], [0.1, 0.1]),
        (["s", "m"], ["gkd"], [0.1] * 2),
    ],
)
def test_too_little_or_constant_input_is_nan_with_a_reason(students, methods, gains):
    table = made_table(gains, [0.5] * len(gains), students, methods)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stats.run_tests(table)
    names = ("student-level t-test", "cluster-robust least squares", "mixed model")
    unknown = [t for t in found if t.table in ("1", "2", "3", "4", "5", "correlation")]
    unknown += [t for t in found if t.name in names]
    assert len(unknown) > 20
    for test in unknown:
        assert math.isnan(test.p)
        assert "cannot be" in test.sentence


def test_a_second_seed_is_no_new_student():
    once, twice = (stats.run_tests(made_table(seeds=s)) for s in ((0,), (0, 1)))
    assert find(once, "1", "t-test", "all").n == find(twice, "1", "t-test", "all").n == 12
    assert find(once, "3").p == pytest.approx(find(twice, "3").p)


def test_within_students_the_sign_can_turn():
    tests = stats.run_tests(made_table())
    pooled = find(tests, "4")
    inside = [t for t in tests if t.name == "within-student correlation" and t.scope == "bench"]
    inside = next(t for t in inside if t.subject == "agreement with the teacher")
    assert pooled.estimate < -0.7 and inside.estimate > 0.5
    gains, agreements = (
        np.reshape(x, (3, 4)) - np.reshape(x, (3, 4)).mean(axis=1, keepdims=True)
        for x in (GAINS, AGREEMENTS)
    )
    r = np.corrcoef(gains.ravel(), agreements.ravel())[0, 1]
    t = r * math.sqrt(8 / (1 - r * r))  # 12 runs less 3 students less the slope
    assert inside.estimate == pytest.approx(r)
    assert inside.p == pytest.approx(2 * scipy_stats.t.sf(t, 8))


def paired_table(better, worse, n=100, draws=1):
    """A table of one run that turned `better` items right and `worse` items wrong."""
    system = System(label="r", kind="distilled", model="s", teachers=("t",), method="gkd")
    sft = System(label="sft", kind="sft", model="s")
    teacher = System(label="t", kind="teacher", model="t")
    before = [0] * better + [1] * worse + [1] * (n - better - worse)
    after = [1] * better + [0] * worse + [1] * (n - better - worse)
    scores = {
        name: [
            Score(
                benchmark="bench",
                example_id=f"{i:04d}",
                sample=draw,
                completion="x",
                extracted="1" if right else "2",
                rule="number-corrected",
                outcome="correct" if right else "wrong",
                quality=float(right),
                tokens=1,
            )
            for i, right in enumerate(rights)
            for draw in range(draws)
        ]
        for name, rights in (("r", after), ("sft", before), ("t", after))
    }
    table = collect([system, sft, teacher], scores, {}, {}, "made", partial=True)
    return stats.paired_tests(table)


@pytest.mark.parametrize(("better", "worse"), [(10, 2), (3, 3), (1, 0), (0, 7), (40, 25)])
def test_mcnemar_is_the_exact_binomial_over_all_outcomes(better, worse):
    found = next(t for t in paired_table(better, worse) if t.scope == "bench")
    changed = better + worse
    extreme = min(better, worse)
    tail = sum(math.comb(changed, k) for k in range(extreme + 1)) / 2**changed
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.statistic == changed
    assert found.estimate == pytest.approx((better - worse) / 100)


def test_mcnemar_of_agrestis_approval_ratings():
    # Agresti (1990, p. 350): 150 and 86 changed their mind; exact p = 3.716e-05.
    found = next(t for t in paired_table(150, 86, n=1600) if t.scope == "bench")
    assert found.p == pytest.approx(3.716e-05, rel=1e-3)


def test_nothing_changed_or_several_draws_is_not_tested():
    still = next(t for t in paired_table(0, 0) if t.scope == "bench")
    assert math.isnan(still.p) and "no item changed" in still.sentence
    assert still.low < 0 < still.high
    for drawn in paired_table(5, 2, draws=2):
        assert math.isnan(drawn.p) and "several draws" in drawn.sentence


@pytest.fixture(scope="module")
def study():
    return fake_study(n=40, ablations=False)


@pytest.fixture(scope="module")
def study_tests(study):
    table = collect(
        study.systems,
        study.scores,
        study.pairs,
        study.parameters,
        study.name,
        bootstrap=Bootstrap(resamples=100),
    )
    return stats.study_tests(table, study.systems, study.scores)


def test_holm_is_done_by_hand_within_each_family(study_tests):
    for average in (True, False):
        family = [t for t in study_tests if t.table == "paired" and (t.scope == AVERAGE) == average]
        known = sorted((t for t in family if not math.isnan(t.p)), key=lambda t: t.p)
        highest = 0.0
        for rank, test in enumerate(known):
            highest = max(highest, min(1.0, (len(known) - rank) * test.p))
            assert test.p_adjusted == pytest.approx(highest)


def test_method_differences_are_paired_by_item(study, study_tests):
    found = find(study_tests, "methods", subject="gkd − revkd", scope="choice")
    right = {
        label: np.array([s.outcome == "correct" for s in rows if s.benchmark == "choice"], float)
        for label, rows in study.scores.items()
    }
    changes = np.mean(
        [
            right[f"{s}/gkd/zoo-l-sft"] - right[f"{s}/revkd/zoo-l-sft"]
            for s in ("zoo-xs", "zoo-s", "zoo-m")
        ],
        axis=0,
    )
    assert found.estimate == pytest.approx(changes.mean())
    half = 1.959964 * scipy_stats.sem(changes)
    low, high = changes.mean() - half, changes.mean() + half
    if found.p >= 0.05:  # here flips refuse 0 by a hair less than a normal interval
        low, high = min(low, 0), max(high, 0)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)


def test_a_verdict_says_what_the_interval_supports(study_tests):
    verdicts = [t for t in study_tests if t.table == "methods"]
    assert len(verdicts) == 10 * 4  # pairs of four methods and SFT, on three benchmarks and on all
    assert {t.subject for t in verdicts if "sft" in t.subject} == {
        f"{method} − sft" for method in ("gkd", "revkd", "seqkd", "word_kd")
    }
    for t in verdicts:
        a, b = t.subject.split(" − ")
        words = {
            "better": f"{a} is better than {b}",
            "worse": f"{b} is better than {a}",
            "equivalent": f"{a} and {b} are equivalent",
            "undecided": f"Cannot tell {a} and {b} apart",
        }
        assert t.sentence.startswith(words[t.verdict])
        assert (t.p_adjusted < 0.05) >= (t.verdict in ("better", "worse"))
        assert t.verdict != "worse" or t.estimate < 0
        assert t.verdict != "equivalent" or abs(t.estimate) < stats.EQUIVALENCE_MARGIN
    assert all(t.verdict == "" for t in study_tests if t.table != "methods")


def test_every_test_has_a_sentence_and_nan_says_why(study_tests):
    reasons = ("cannot be", "no McNemar", "fewer than", "no item tells", "nothing is tested")
    for t in study_tests:
        assert t.sentence.endswith(".") and t.signature and t.n >= 0
        if t.table != "power":  # an effect, not a test
            assert not math.isnan(t.p) or any(reason in t.sentence for reason in reasons)


def test_p_values_are_printed_exactly():
    printed = [format_p(p) for p in (0.03124, 4.1234e-08, 1.0, 0.0, 0.5, math.nan)]
    assert printed == ["0.0312", "4.1e-08", "1", "0", "0.5", "–"]


def test_the_lead_is_halls_transformed_t_of_students_means():
    found = analysis.lead(stats.run_tests(made_table()))
    means = np.reshape(GAINS, (3, 4)).mean(axis=1)
    t, g = scipy_stats.ttest_1samp(means, 0).statistic, scipy_stats.skew(means)
    # Hall (1992), with x = t / sqrt(n) and one n for the sample's skewness and its bias.
    x = t / math.sqrt(3)
    hall = math.sqrt(3) * (x + g * x**2 / 3 + g**2 * x**3 / 27 + g / 18)
    assert (found.scope, found.clusters, found.n) == (AVERAGE, 3, 12)
    assert (found.statistic, found.p) == pytest.approx((hall, 2 * scipy_stats.t.sf(abs(hall), 2)))


def test_a_method_with_its_own_temperature_stays_and_ablations_do_not_count():
    table = made_table()
    plain = {t.signature: t.p for t in stats.run_tests(table) if not math.isnan(t.p)}
    own = table.assign(temperature=table.temperature.where(table.method != "gkd", 2.0))
    runs = table[table.kind == "distilled"]
    other = runs.assign(system=runs.system + "/tau=5", ablation="temperature", temperature=5.0)
    worse = other.assign(value=other.value.where(other.metric != "gain", -0.5))
    both = pd.concat([own, worse], ignore_index=True)
    assert {t.signature: t.p for t in stats.run_tests(both) if not math.isnan(t.p)} == plain


@pytest.mark.parametrize("kept", [[], ["t"], ["s/sft"], ["t", "s/sft"], ["s/gkd/0"]])
def test_a_table_without_gains_has_no_tests(kept):
    table = made_table()
    some = table[table.system.isin(kept) & (table.metric != "gain")]
    assert stats.study_tests(some) == []


def test_one_finished_run_is_a_number_without_certainty():
    table = made_table()
    some = table[table.system.isin(["t", "s/sft", "s/gkd/0"])]
    found = stats.run_tests(some)
    assert analysis.lead(found).estimate == pytest.approx(GAINS[3])
    assert all(math.isnan(t.p) for t in found)


def test_held_out_tokens_and_free_texts_are_no_benchmarks_of_a_test():
    table = made_table()
    runs = table[(table.kind == "distilled") & (table.metric == "agreement")]
    more = [
        runs.assign(benchmark="held_out", metric="token_top1", value=0.9),
        runs.assign(benchmark="follow", metric="rouge_l", reference="", value=0.3),
        runs.assign(benchmark="follow", metric="rouge_l_gain", value=0.1),
    ]
    found = stats.run_tests(pd.concat([table, *more], ignore_index=True))
    assert {t.scope for t in found} == {"bench", AVERAGE}
    assert "Free-text tasks are left out" in found[0].sentence
    plain = [(t.signature, t.p) for t in stats.run_tests(table) if not math.isnan(t.p)]
    assert [(t.signature, t.p) for t in found if not math.isnan(t.p)] == plain
