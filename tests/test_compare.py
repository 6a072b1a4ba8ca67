"""Two studies side by side: matched as told, differences and p as outside oracles have them."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdstudy.analysis.results import COLUMNS as RESULT_COLUMNS
from kdstudy.errors import InputError
from kdstudy.records import System
from kdstudy.report.compare.differences import COLUMNS, compare, systems_only
from kdstudy.report.compare.match import StudyRows, other_models, study_differences, unmatched
from kdstudy.report.compare.words import decided, findings

SFT = System(label="xs/sft", kind="sft", model="xs", method="sft", seed=6)
KD = System(
    label="xs/gkd/l", kind="distilled", model="xs", teachers=("l/teacher",), method="gkd", seed=6
)
HOT = dataclasses.replace(KD, label="xs/gkd/l/tau=2", ablation="temperature", temperature=2.0)
NOTHING = pd.DataFrame(columns=RESULT_COLUMNS)


def graded(system, benchmark, quality, *, first=0, rule="number-corrected", gold="7"):
    """Return item rows: one per item, or one per item and draw when quality has two axes."""
    quality = np.asarray(quality, float)
    quality = quality[:, None] if quality.ndim == 1 else quality
    return [
        {
            "system": system.label,
            "benchmark": benchmark,
            "example_id": f"{benchmark}-{first + i:04d}",
            "sample": draw,
            "quality": value,
            "rule": rule,
            "gold": gold,
        }
        for i, row in enumerate(quality)
        for draw, value in enumerate(row)
    ]


def study(name, items, systems=(SFT, KD), **more):
    more = {"study": {}, "table": NOTHING} | more
    return StudyRows(name=name, systems=systems, items=pd.DataFrame(items), **more)


def one(table, system=KD, benchmark="gsm8k", metric="accuracy"):
    fits = (table.system_a == system.label) & (table.benchmark == benchmark)
    (row,) = table[fits & (table.metric == metric)].to_dict("records")
    return row


def answers(both, only_a, only_b, neither):
    """Return right/wrong of A and of B for so many items of each kind."""
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


@pytest.mark.parametrize("counts", [(30, 4, 15, 11), (0, 9, 1, 0), (5, 3, 3, 5)])
def test_matched_items_give_mcnemars_exact_p(counts):
    a, b = answers(*counts)
    table = compare(study("a", graded(KD, "gsm8k", a)), study("b", graded(KD, "gsm8k", b)))
    row = one(table)
    assert list(table.columns) == COLUMNS
    assert (row["worse"], row["better"], row["n"]) == (counts[1], counts[2], sum(counts))
    expected = stats.binomtest(counts[2], counts[1] + counts[2], 0.5).pvalue
    assert row["p"] == pytest.approx(expected, rel=1e-12)
    assert row["a"] == pytest.approx((counts[0] + counts[1]) / sum(counts))
    assert row["difference"] == pytest.approx((counts[2] - counts[1]) / sum(counts))
    assert row["how"] == "paired"


def test_the_interval_covers_the_true_difference_about_95_times_in_100():
    rng = np.random.default_rng(7)
    n, rise, fall = 150, 0.20, 0.08  # shares of items that B alone and A alone get right
    first, second = [], []
    for trial in range(250):
        kind = rng.choice(4, size=n, p=[0.4, rise, fall, 1 - 0.4 - rise - fall])
        first += graded(KD, f"{trial}", np.isin(kind, [0, 2]))
        second += graded(KD, f"{trial}", np.isin(kind, [0, 1]))
    table = compare(study("a", first), study("b", second))
    table = table[table.benchmark != "average"]
    share = ((table.low <= rise - fall) & (rise - fall <= table.high)).mean()
    # Four standard errors around 0.95, and the percentile bootstrap runs a little narrow.
    assert len(table) == 250 and 0.89 <= share <= 0.99


def test_items_of_one_study_alone_are_left_out_and_counted():
    # Items 0-39 in A, 10-59 in B: 30 in both.
    quality = np.random.default_rng(3).integers(0, 2, size=(2, 60))
    a = study("a", graded(KD, "gsm8k", quality[0, :40]))
    b = study("b", graded(KD, "gsm8k", quality[1, 10:], first=10))
    row = one(compare(a, b))
    assert (row["n"], row["n_a"], row["n_b"]) == (30, 40, 50)
    assert row["a"] == pytest.approx(quality[0, 10:40].mean())
    assert row["b"] == pytest.approx(quality[1, 10:40].mean())
    said = unmatched(a, b)
    items = said[said.what == "items"]
    assert list(items.name) == ["10 of 40 items of gsm8k", "20 of 50 items of gsm8k"]
    assert list(items.study) == ["a", "b"]


def test_an_item_with_another_gold_answer_is_another_item():
    a = study("a", graded(KD, "gsm8k", [1, 1, 0, 0]))
    changed = graded(KD, "gsm8k", [0, 0, 1, 1])
    changed[0]["gold"] = "8"
    b = study("b", changed)
    row = one(compare(a, b))
    assert (row["n"], row["worse"], row["better"]) == (3, 1, 2)
    assert "1 items of gsm8k" in set(unmatched(a, b).name)


def test_without_a_common_item_the_difference_is_unpaired():
    # Newcombe (1998), Statistics in Medicine 17:873-890, Table II, example (a), method 10.
    a = study("a", graded(KD, "gsm8k", [1] * 48 + [0] * 32))
    b = study("b", graded(KD, "gsm8k", [1] * 56 + [0] * 14, first=1000))
    row = one(compare(a, b))
    assert row["difference"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert row["how"] == "unpaired" and row["n"] == 0
    assert math.isnan(row["p"]) and math.isnan(row["p_holm"])


def test_several_draws_per_item_count_once_and_have_no_mcnemar():
    drawn = [[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    a = study("a", graded(KD, "gsm8k", drawn))
    b = study("b", graded(KD, "gsm8k", [1, 0, 0]))
    row = one(compare(a, b))
    assert row["a"] == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert row["difference"] == pytest.approx((0.25 + 0 - 0.5) / 3)
    assert row["n"] == 3 and math.isnan(row["p"])
    assert "draws:4,1" in row["signature"]


def test_free_texts_are_compared_by_rouge_l_without_a_p():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(0.1, 0.4, size=(60, 5)), rng.uniform(0.2, 0.5, size=(80, 5))
    rule = {"rule": "text-rouge_l"}
    same = study("a", graded(KD, "dolly", a, **rule)), study("b", graded(KD, "dolly", b, **rule))
    row = one(compare(*same), benchmark="dolly", metric="rouge_l")
    assert row["n"] == 60 and math.isnan(row["p"])
    assert row["difference"] == pytest.approx((b[:60] - a).mean())
    assert row["low"] < row["difference"] < row["high"]
    other = same[0], study("b", graded(KD, "dolly", b, first=500, **rule))
    row = one(compare(*other), benchmark="dolly", metric="rouge_l")
    welch = stats.ttest_ind(b.mean(1), a.mean(1), equal_var=False).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((welch.low, welch.high))


def test_a_benchmark_of_texts_here_and_of_answers_there_has_no_match():
    a = study("a", graded(KD, "own", [1, 0]) + graded(KD, "gsm8k", [1, 0]))
    b = study("b", graded(KD, "own", [0.2, 0.3], rule="text-x") + graded(KD, "gsm8k", [1, 0]))
    assert set(compare(a, b).benchmark) == {"gsm8k", "average"}
    (row,) = unmatched(a, b).query("what == 'benchmark'").to_dict("records")
    assert row["name"] == "own" and "free texts" in row["why"]


def test_what_is_decided_goes_by_holms_p_and_without_one_by_the_interval():
    sure, none = answers(20, 0, 30, 0), answers(20, 5, 5, 20)
    texts = np.full((40, 2), 0.2), np.full((40, 2), 0.2) + np.linspace(0.1, 0.3, 40)[:, None]
    a, b = (
        study(
            "ab"[side],
            graded(KD, "up", sure[side])
            + graded(KD, "no", none[side])
            + graded(KD, "far", [0, 1] * 30, first=900 * side)
            + graded(KD, "text", texts[side], rule="text-rouge_l"),
        )
        for side in (0, 1)
    )
    table = compare(a, b)
    table["sure"] = decided(table)
    found = table[table.benchmark != "average"].set_index("benchmark").sure.to_dict()
    assert found == {"up": True, "no": False, "far": False, "text": True}
    said = findings(table)["benchmarks"]
    assert "Of 3 pairs" in said[0] and "1 had a higher accuracy in B and 0 a lower" in said[0]
    assert "Holm's p below 0.05; where there is no p, 95% interval without 0" in said[0]
    assert "1 had a higher ROUGE-L of free texts in B" in said[1]


def test_an_averages_estimate_interval_and_p_are_of_the_mean_of_benchmarks():
    first, second = answers(20, 2, 10, 8), answers(50, 9, 6, 35)
    a = study("a", graded(KD, "x", first[0]) + graded(KD, "y", second[0]))
    b = study("b", graded(KD, "x", first[1]) + graded(KD, "y", second[1]))
    table = compare(a, b)
    x, y, mean = (one(table, benchmark=name) for name in ("x", "y", "average"))
    assert mean["difference"] == pytest.approx((8 / 40 - 3 / 100) / 2)
    # All flips: 10 of 12 changed items of x and 6 of 15 of y helped, each x item worth 1/40.
    ups = np.array(list(itertools.product(range(13), range(16))))
    sums = (2 * ups[:, 0] - 12) / 40 / 2 + (2 * ups[:, 1] - 15) / 100 / 2
    ways = stats.binom.pmf(ups[:, 0], 12, 0.5) * stats.binom.pmf(ups[:, 1], 15, 0.5)
    exact = ways[np.abs(sums) >= abs((8 / 40 - 3 / 100) / 2) - 1e-12].sum()
    assert mean["p"] == pytest.approx(exact, rel=0.01) and exact < 0.1
    assert stats.binomtest(16, 27, 0.5).pvalue > 0.3  # pooled items are another quantity
    assert (mean["better"], mean["worse"]) == (16, 11)
    below = math.hypot(x["difference"] - x["low"], y["difference"] - y["low"]) / 2
    assert mean["difference"] - mean["low"] == pytest.approx(below)
    assert mean["n"] == 140


@pytest.mark.parametrize("up", range(8, 21))
def test_interval_and_p_of_a_difference_say_the_same(up):
    first, second = answers(30, 8, up, 62 - up), answers(5, 1, 6, 8)
    a = study("a", graded(KD, "x", first[0]) + graded(KD, "y", second[0]))
    b = study("b", graded(KD, "x", first[1]) + graded(KD, "y", second[1]))
    for row in compare(a, b).itertuples():
        assert (row.p < 0.05) == (not row.low <= 0 <= row.high)


def test_holm_corrects_each_family_for_itself():
    kinds = {"x": (20, 2, 12, 8), "y": (20, 3, 11, 8), "z": (20, 6, 9, 8)}
    cells = {name: answers(*counts) for name, counts in kinds.items()}
    sides = []
    for side in (0, 1):
        items = [r for s in (KD, HOT) for n, c in cells.items() for r in graded(s, n, c[side])]
        sides.append(study("ab"[side], items, (KD, HOT)))
    table = compare(*sides)
    p = [stats.binomtest(c[2], c[1] + c[2], 0.5).pvalue for c in kinds.values()]
    ordered = [3 * p[0], max(3 * p[0], 2 * p[1]), max(3 * p[0], 2 * p[1], p[2])]  # p rises
    assert p == sorted(p)
    for system in (KD, HOT):  # the ablation is a family of its own, so three tests each
        found = [one(table, system, name)["p_holm"] for name in kinds]
        assert found == pytest.approx([min(1, x) for x in ordered])
        assert one(table, system, "average")["p_holm"] == one(table, system, "average")["p"]


def test_a_study_beside_itself_changed_nothing_and_is_not_certain_of_it():
    items = graded(KD, "gsm8k", [1, 0, 1, 1, 0] * 20)
    again = compare(study("a", items), study("a", items))
    row = one(again)
    bound = 1 - 0.025 ** (1 / 100)  # Clopper and Pearson: 0 of 100
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0, -bound, bound))
    assert math.isnan(row["p"]) and (row["better"], row["worse"]) == (0, 0)
    assert (again.difference == 0).all() and set(again.how) == {"paired"}
    runs = {(KD.label, "gsm8k"): "key"}
    known = compare(study("a", items, runs=runs), study("b", items, runs=runs))
    assert set(known.how) == {"same run"}
    changed = {(KD.label, "gsm8k"): "other key"}
    own = compare(study("a", items, runs=runs), study("b", items, runs=changed))
    assert set(own.how) == {"paired"}


def test_one_item_gives_no_interval():
    row = one(compare(study("a", graded(KD, "t", [1])), study("b", graded(KD, "t", [0]))), KD, "t")
    assert math.isnan(row["low"]) and math.isnan(row["high"]) and row["difference"] == -1


def test_systems_match_by_what_they_are_not_by_their_label():
    renamed = dataclasses.replace(KD, label="xs/gkd/l/seed=6")
    a = study("a", graded(KD, "t", [1, 0]))
    b = study("b", graded(renamed, "t", [1, 1]), (SFT, renamed))
    row = one(compare(a, b), KD, "t")
    assert row["system_b"] == "xs/gkd/l/seed=6" and row["better"] == 1


def test_what_has_no_match_says_why():
    late = dataclasses.replace(KD, seed=7, label="xs/gkd/l/seed=7")
    alien = System(label="q/base", kind="base", model="q")
    a = study("a", graded(SFT, "t", [1, 0]) + graded(late, "u", [1]), (SFT, KD, late, alien))
    b = study("b", graded(SFT, "t", [1, 0]) + graded(KD, "t", [1, 0]), (SFT, KD))
    said = {r["name"]: (r["study"], r["why"]) for r in unmatched(a, b).to_dict("records")}
    assert said == {
        KD.label: ("both", "not finished in a"),
        late.label: ("a", f"closest in b: {KD.label} (seed 6 instead of 7)"),
        "q/base": ("a", "not finished; b has nothing like it"),
        "u": ("a", "not measured in b"),
    }


def test_nothing_in_common_is_refused_with_the_reason():
    a = study("a", graded(KD, "t", [1, 0]))
    late = dataclasses.replace(KD, seed=7)
    with pytest.raises(InputError, match="no system in common") as e:
        compare(a, study("b", graded(late, "t", [1, 0]), (late,)))
    assert "seed 7 instead of 6" in e.value.why and e.value.remedy
    with pytest.raises(InputError, match="no benchmark in common") as e:
        compare(a, study("b", graded(KD, "u", [1, 0])))
    assert e.value.why == "a has t; b has u" and e.value.remedy
    empty = dataclasses.replace(a, name="b", items=a.items.iloc[:0])
    with pytest.raises(InputError, match="nothing to set side by side") as e:
        compare(a, empty)
    assert e.value.why == "b: no system is measured yet"


def test_study_files_are_compared_field_by_field():
    methods = [{"type": "sft"}, {"type": "gkd", "lmbda": 0.5, "beta": 0.5}]
    first = {"name": "a", "seeds": [0], "methods": methods, "train": {"epochs": 4.0, "lora": None}}
    second = {
        "name": "b",
        "seeds": [0, 1],
        "methods": [{"type": "gkd", "lmbda": 1.0, "beta": 0.5}, {"type": "sft"}, {"type": "revkd"}],
        "train": {"epochs": 4.0, "lora": {"r": 8}},
    }
    a, b = study("a", [], study=first), study("b", [], study=second)
    assert study_differences(a, b).to_numpy().tolist() == [
        ["seeds", "[0]", "[0, 1]"],
        ["methods.gkd.lmbda", "0.5", "1.0"],
        ["methods.revkd", "", '{"type": "revkd"}'],
        ["train.lora", "null", '{"r": 8}'],
    ]
    assert study_differences(a, a).empty


def test_two_entries_of_one_name_do_not_hide_each_other():
    gkd = [{"type": "gkd", "start": start, "epochs": 3} for start in ("base", "sft")]
    first, second = ({"methods": [*gkd[:1], gkd[1] | {"epochs": e}]} for e in (3, 4))
    a, b = study("a", [], study=first), study("b", [], study=second)
    (row,) = study_differences(a, b).to_numpy().tolist()
    assert row[0] == "methods" and '"epochs": 4' in row[2] and '"epochs": 4' not in row[1]


def test_one_name_for_two_models_is_noticed():
    a, b = (study(n, [], models={"xs": n, "l": "same"}) for n in "ab")
    assert other_models(a, b) == ["xs"]


def seeded(system, seed):
    return dataclasses.replace(system, label=f"{system.label}/seed={seed}", seed=seed)


def test_seeds_are_one_system_with_mean_spread_and_a_p_over_items_and_seeds():
    rng = np.random.default_rng(11)
    runs = [seeded(KD, i) for i in range(3)]
    hard = rng.random(200)
    first, second = (
        [
            (hard < level + 0.02 * rng.normal() + 0.1 * rng.normal(size=200)).astype(float)
            for _ in runs
        ]
        for level in (0.5, 0.62)
    )
    a, b = (
        study(
            name,
            [row for s, q in zip(runs, found, strict=True) for row in graded(s, "gsm8k", q)],
            systems=tuple(runs),
        )
        for name, found in (("a", first), ("b", second))
    )
    table = compare(a, b)
    (row,) = table[(table.benchmark == "gsm8k") & (table.draw_of == "")].to_dict("records")
    assert (row["system_a"], row["seeds"], row["n"]) == ("xs/gkd/l", 3, 200)
    means = [np.array([q.mean() for q in found]) for found in (first, second)]
    assert row["a"] == pytest.approx(means[0].mean()) and row["b"] == pytest.approx(means[1].mean())
    assert row["difference"] == pytest.approx(means[1].mean() - means[0].mean())
    assert row["sd_a"] == pytest.approx(means[0].std(ddof=1))
    assert row["sd"] == pytest.approx((means[1] - means[0]).std(ddof=1))
    # Wider than seeds alone (Welch) or items alone (paired t) would have it.
    seeds = stats.ttest_ind(means[1], means[0], equal_var=False)
    change = np.mean(second, axis=0) - np.mean(first, axis=0)
    error = (row["high"] - row["low"]) / 2
    assert error > 1.96 * change.std(ddof=1) / np.sqrt(200) * 0.95
    assert row["p"] > stats.ttest_1samp(change, 0).pvalue and 0 < row["p"] < 1
    assert seeds.statistic > 0 and row["low"] < row["difference"] < row["high"]
    single = table[(table.draw_of == "xs/gkd/l") & (table.benchmark == "gsm8k")]
    assert list(single.system_a) == [s.label for s in runs]
    for i, run in enumerate(single.itertuples()):
        up, down = ((second[i] > first[i]).sum(), (first[i] > second[i]).sum())
        assert run.p == pytest.approx(stats.binomtest(int(up), int(up + down), 0.5).pvalue)
        assert "single seeds" in run.family
    assert set(systems_only(table).system_a) == {"xs/gkd/l"}


def same_answers(system, reference, agree, first=0):
    return [
        {
            "system": system.label,
            "reference": reference.label,
            "benchmark": "gsm8k",
            "example_id": f"gsm8k-{first + i:04d}",
            "sample": 0,
            "agree": bool(value),
        }
        for i, value in enumerate(agree)
    ]


def test_agreement_is_compared_over_the_items_that_both_studies_have():
    teacher = System(label="l/teacher", kind="teacher", model="l", method="sft")
    right = [1] * 40
    agree_a, agree_b = [1] * 25 + [0] * 15, [1] * 36 + [0] * 4
    sides = []
    for name, agree, first in (("a", agree_a, 0), ("b", agree_b, 10)):
        items = [
            *graded(KD, "gsm8k", right, first=first),
            *graded(teacher, "gsm8k", right, first=first),
        ]
        pairs = pd.DataFrame(same_answers(KD, teacher, agree, first))
        sides.append(study(name, items, systems=(KD, teacher), pairs=pairs))
    row = one(compare(*sides), metric="agreement")
    # Items 10 to 39 are in both: A agrees on 10 to 24, B on 10 to 45.
    assert (row["n"], row["n_a"], row["n_b"]) == (30, 40, 40)
    assert row["a"] == pytest.approx(15 / 30) and row["b"] == pytest.approx(1.0)
    assert (row["better"], row["worse"]) == (15, 0)
    assert row["p"] == pytest.approx(stats.binomtest(15, 15, 0.5).pvalue)
    assert row["reference"] == "l/teacher" and row["low"] > 0
    assert row["family"].startswith("B − A by item, same answer")
