"""What the report's browsers are told: filters decided over all rows, samples, result rows."""

import math

import numpy as np
import pandas as pd
import pytest
from fake_study import fake_study, pairs_frame, with_texts

from kdstudy.answers.steps import steps
from kdstudy.evaluation.fidelity import HIGH_BLEU, HIGH_STEPS, LOW_BLEU, LOW_STEPS
from kdstudy.report.browse import MAX_CHARACTERS, PER_KIND, browser_data, rows_data, safe_json
from kdstudy.report.item_filters import KINDS

RUN = "zoo-s/gkd/zoo-l-sft"


@pytest.fixture(scope="module")
def study():
    return fake_study(n=40)


@pytest.fixture(scope="module")
def whole(study):
    return browser_data(study.items, study.pair_items, study.systems, first=RUN)


def ids_of(data, kind, run=0):
    bit = 1 << list(data["kinds"]).index(kind)
    return {i["id"] for i in data["items"] if i["kinds"][run] >= 0 and i["kinds"][run] & bit}


def id_of(row):
    return f"item-{row.benchmark}-{row.example_id}-{row.sample}"


def test_likeness_kinds_are_those_of_the_error_analysis(study, whole):
    assert whole["runs"][0]["run"] == RUN
    pairs = study.pairs[RUN, "zoo-l/sft"]
    limits = ("bleu", "", LOW_BLEU, HIGH_BLEU), ("steps", "-steps", LOW_STEPS, HIGH_STEPS)
    for by, suffix, least, most in limits:
        low = [p for p in pairs if p.agree and getattr(p, by) < least]
        high = [p for p in pairs if p.outcome_a == "wrong" and getattr(p, by) >= most]
        assert ids_of(whole, "same-low" + suffix) == {id_of(p) for p in low}
        assert ids_of(whole, "wrong-faithful" + suffix) == {id_of(p) for p in high}
    alike = [p for p in pairs if p.agree and "correct" not in (p.outcome_a, p.outcome_b)]
    assert ids_of(whole, "wrong-alike") == {id_of(p) for p in alike}
    assert ids_of(whole, "same-low") and ids_of(whole, "wrong-faithful")


def test_outcome_kinds_are_told_from_the_scores_of_run_and_sft(study, whole):
    sft = {id_of(s): s.outcome for s in study.scores["zoo-s/sft"]}
    run = {id_of(s): s.outcome for s in study.scores[RUN]}
    right, was = ({i for i, o in part.items() if o == "correct"} for part in (run, sft))
    assert ids_of(whole, "gained") == right - was and ids_of(whole, "lost") == was - right
    noisy = next(i for i, r in enumerate(whole["runs"]) if "noise=5" in r["run"])
    own = study.scores[whole["runs"][noisy]["run"]]
    for outcome in ("truncated", "unparsed"):
        found = {id_of(s) for s in own if s.outcome == outcome}
        assert ids_of(whole, outcome, noisy) == found != set()
    held = [id_of(r) for r in study.items[study.items.system == RUN].itertuples()
            if r.overlap in ("exact", "normalised")]  # fmt: skip
    assert ids_of(whole, "contaminated") == set(held) != set()


def test_counts_are_over_all_rows_however_few_are_here(study, whole):
    few = browser_data(study.items, study.pair_items, study.systems, first=RUN, max_items=4)
    assert len(few["items"]) == 12 and few["counts"] == whole["counts"]
    total = np.sum([runs[0] for runs in whole["counts"].values()], axis=0)
    assert total[0] == 120
    for n, kind in zip(total[1:], whole["kinds"], strict=True):
        assert n == len(ids_of(whole, kind))
        here = len(ids_of(few, kind))
        assert f"{n} {KINDS[kind]}" + (f" ({here} here)" if here < n else "") in few["counted"]


def test_what_nobody_measured_is_no_filter(study):
    data = browser_data(
        study.items.assign(overlap=""),
        study.pair_items.assign(steps=math.nan, rouge_l=math.nan),
        study.systems,
    )
    missing = {"same-low-steps", "wrong-faithful-steps", "contaminated"}
    assert set(data["kinds"]) == set(KINDS) - missing
    assert all(p[2] is None and p[3] is None for i in data["items"] for p in i["pairs"].values())


def many(study, copies):
    """Return items and pairs with every item `copies` times, under names of its own."""
    items, pairs = (
        pd.concat([f.assign(example_id=f.example_id + f"-{c}") for c in range(copies)])
        for f in (study.items, study.pair_items)
    )
    return items, pairs


def test_a_budget_is_kept_and_rare_kinds_come_first(study):
    items, pairs = many(study, 20)
    budget = 400_000
    data = browser_data(items, pairs, study.systems, first=RUN, budget=budget)
    assert 0.6 * budget < len(safe_json(data["items"])) < budget
    by_benchmark = pd.Series([i["benchmark"] for i in data["items"]]).value_counts()
    assert by_benchmark.max() - by_benchmark.min() <= 1
    total = dict(zip(data["kinds"], np.sum([c[0] for c in data["counts"].values()], axis=0)[1:],
                     strict=True))  # fmt: skip
    share = len(data["items"]) / len(items.drop_duplicates(["benchmark", "example_id"]))
    rarest = min((k for k in total if total[k]), key=total.get)
    assert len(ids_of(data, rarest)) > 1.5 * share * total[rarest]
    assert all(ids_of(data, kind) for kind in total if total[kind])
    assert f"up to {PER_KIND} of each kind" in data["note"] and "of 2,400 items" in data["note"]


def test_one_item_is_there_whatever_its_size(study):
    data = browser_data(study.items, study.pair_items, study.systems, budget=10)
    assert len(data["items"]) == 1


def test_steps_are_the_packages_own(study, whole):
    text = {(id_of(s), label): s.completion for label, own in study.scores.items() for s in own}
    for item in whole["items"][::7]:
        for system, cell in item["texts"].items():
            found = steps(text[item["id"], whole["systems"][system]])
            assert cell[5].split() == [f"{s.expression}={s.result}" for s in found]


def test_pairs_carry_each_likeness(study, whole):
    place = {label: i for i, label in enumerate(whole["systems"])}
    key = f"{place[RUN]}>{place['zoo-l/sft']}"
    found = {item["id"]: item["pairs"][key] for item in whole["items"]}
    for p in study.pairs[RUN, "zoo-l/sft"]:
        agree, bleu, rouge, shared = found[id_of(p)]
        assert agree == p.agree and bleu == pytest.approx(p.bleu, abs=0.051)
        assert rouge == pytest.approx(100 * p.rouge_l, abs=0.051)
        assert (shared is None) == math.isnan(p.steps)
        assert shared is None or shared == pytest.approx(p.steps, abs=0.00051)


def test_free_texts_have_a_quality_and_neither_steps_nor_right_and_wrong(study):
    mixed = with_texts(study, n=10)
    data = browser_data(mixed.items, mixed.pair_items, mixed.systems, first=RUN)
    assert data["free"] == ["follow"]
    place = data["systems"].index(RUN)
    quality = {id_of(s): s.quality for s in mixed.scores[RUN] if s.benchmark == "follow"}
    for item in data["items"]:
        cell = item["texts"][place]
        if item["benchmark"] == "follow":
            assert cell[4] == pytest.approx(100 * quality[item["id"]], abs=0.051)
            assert cell[2] == "rated" and cell[5] == ""
        else:
            assert cell[4] is None
    free = dict(zip(["n", *data["kinds"]], data["counts"]["follow"][0], strict=True))
    assert free["n"] == 10
    assert not any(free[k] for k in ("gained", "lost", "same-low", "wrong-alike"))


def test_a_partial_study_shows_what_is_there(study):
    known = study.items[study.items.system.isin([RUN, "zoo-m/gkd/zoo-l-sft"])]
    half = known[(known.system == RUN) | (known.benchmark == "choice")]
    data = browser_data(half, pairs_frame({}), study.systems, first="zoo-m/gkd/zoo-l-sft")
    assert [(r["sft"], r["teacher"]) for r in data["runs"]] == [("", "")] * 2
    assert data["counts"]["one_step"][0][0] == 0 and data["counts"]["choice"][0][0] == 40
    assert {i["kinds"][0] for i in data["items"] if i["benchmark"] == "one_step"} == {-1}
    assert data["counts"]["choice"][0][1:3] == [0, 0]  # no SFT run to gain on or lose to


def test_draws_of_an_item_are_told_apart(study):
    items = pd.concat([study.items, study.items.assign(sample=1)])
    pairs = pd.concat([study.pair_items, study.pair_items.assign(sample=1)])
    data = browser_data(items, pairs, study.systems)
    assert len(data["items"]) == len({i["id"] for i in data["items"]}) == 240
    assert data["note"].endswith("All 240 answers to items are here.")


def test_long_texts_are_cut_and_odd_ones_survive(study):
    items = study.items[study.items.system == RUN].iloc[:2].copy()
    items["completion"] = ["9 + 1 = 10. " * 100_000, "nul \x00 and \u202e"]
    data = browser_data(items, pairs_frame({}), study.systems)
    long, odd = (item["texts"][0] for item in data["items"])
    assert len(long[0]) < MAX_CHARACTERS + 100 and "1,200,000 characters" in long[0]
    assert long[5] == "1+9=10"
    assert odd[0] == "nul \ufffd and \u202e"


def test_nothing_is_nothing(study):
    data = browser_data(study.items.iloc[:0], study.pair_items.iloc[:0], study.systems)
    assert data["items"] == data["runs"] == [] and data["counts"] == {}


def test_rows_come_back_from_their_columns():
    table = pd.DataFrame(
        {
            "system": ["b", "a", "b", "a"],
            "benchmark": ["x", "x", "average", "x"],
            "metric": ["accuracy", "gain", "accuracy", "tokens"],
            "reference": ["", "b", "", ""],
            "signature": ["s<1>", "s<2>", "s<1>", ""],
            "value": [1 / 3, -0.0123456789, 1.0, 12345678.9],
            "low": [0.1, math.nan, 0.5, math.nan],
            "high": [0.5, math.nan, 1.0, math.nan],
            "n": pd.array([300, 300, None, 2], dtype="Int64"),
        }
    )
    data = rows_data(table)
    for column in ("system", "benchmark", "metric", "reference", "signature"):
        part = data[column]
        assert [part["values"][code] for code in part["codes"]] == list(table[column])
        assert len(part["values"]) == table[column].nunique()
    assert data["value"] == [0.333333, -0.0123457, 1.0, 12345700.0]
    assert data["low"] == [0.1, None, 0.5, None] and data["n"] == [300, 300, None, 2]
    assert "<" not in safe_json(data)


def test_equal_rows_give_equal_bytes_in_any_order(study):
    shuffled = study.items.sample(frac=1, random_state=0)
    one = browser_data(study.items, study.pair_items, study.systems, max_items=7)
    two = browser_data(shuffled, study.pair_items, study.systems, max_items=7)
    for data in (one, two):
        for item in data["items"]:
            item["texts"] = dict(sorted(item["texts"].items()))
    assert safe_json(one) == safe_json(two)
