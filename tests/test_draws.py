"""Measures of several draws: pass@k, majority vote, distinct answers, entropy of answers."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.measures import own_rows
from kdstudy.measures import MEASURES
from kdstudy.measures.cell import cells_of
from kdstudy.measures.pass_at_k import pass_at_k
from kdstudy.records import Score

OUTCOMES = {"r": "correct", "u": "unparsed", "t": "truncated"}


def scores(items, rule="number-corrected"):
    """Rows of items: a letter per draw, `r` right, `u` unparsed, `t` truncated, else wrong."""
    return [
        Score(
            benchmark="b",
            example_id=f"i{n}",
            sample=s,
            completion=f"text {draw}",
            # Right answers may be written in two ways; a cut text may hold an answer by chance.
            extracted={"r": ("7", "7.0")[s % 2], "u": "", "t": "4"}.get(draw, draw),
            rule=rule,
            outcome=OUTCOMES.get(draw, "wrong"),
            quality=float(draw == "r"),
            tokens=3,
        )
        for n, item in enumerate(items)
        for s, draw in enumerate(item)
    ]


def measured(items, **kwargs):
    (cell,) = cells_of("system", scores(items, **kwargs)).values()
    return {
        name: MEASURES[name].per_item(cell)
        for name in MEASURES
        if hasattr(MEASURES[name], "draws") and MEASURES[name].defined_on(cell)
    }


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 7, 10])
def test_pass_at_k_is_the_share_of_sets_of_k_draws_with_a_right_one(draws):
    for right in range(draws + 1):
        outcomes = [1] * right + [0] * (draws - right)
        for k in range(1, draws + 1):
            sets = list(itertools.combinations(outcomes, k))
            wanted = sum(any(s) for s in sets) / len(sets)
            assert pass_at_k(np.array([right]), draws, k) == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_of_many_draws_stays_exact():
    wanted = 1 - math.comb(997, 256) / math.comb(1000, 256)
    assert pass_at_k(np.array([3, 0, 1000]), 1000, 256) == pytest.approx([wanted, 0, 1], abs=1e-12)


def vote(item):
    """The expected right votes over all orders of draws in which the first of the tied wins."""
    given = ["r" if d == "r" else d for d in item if d not in "ut"]
    if not given:
        return 0.0
    wins = []
    for order in itertools.permutations(given):
        counts = Counter(order)
        wins.append(max(order, key=lambda d: counts[d]) == "r")
    return sum(wins) / len(wins)


ITEMS = ["rr335", "r3355", "rruuu", "tttt3", "uuttu", "r3579", "rrrrr", "33344", "rr33u"]


def test_the_vote_is_the_commonest_answer_and_a_tie_its_chance():
    found = measured(ITEMS)["majority_vote"]
    assert found == pytest.approx([vote(item) for item in ITEMS])
    assert found == pytest.approx([0.5, 0, 1, 0, 0, 0.2, 1, 0, 0.5])


def test_distinct_answers_and_their_entropy_by_hand():
    found = measured(ITEMS)
    assert found["distinct_answers"].tolist() == [3, 3, 1, 1, 0, 5, 1, 2, 2]
    two = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    three = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    assert found["answer_entropy"] == pytest.approx(
        [three, three, two, 0.8 * -math.log(0.8) + 0.2 * math.log(5), 0, math.log(5), 0, two, three]
    )


def test_k_goes_up_to_the_draws_and_one_draw_has_none_of_them():
    of_draws = {"majority_vote", "distinct_answers", "answer_entropy"}
    assert {m for m in measured(["r35"]) if m.startswith("pass_at")} == {"pass_at_2"}
    assert {m for m in measured(["r35r"]) if m.startswith("pass_at")} == {"pass_at_2", "pass_at_4"}
    assert of_draws <= measured(["r35"]).keys()
    assert not {m for m in measured(["r", "3"]) if m.startswith("pass_at") or m in of_draws}
    assert not {m for m in measured(["r35"], rule="text-rouge_l") if m.startswith("pass_at")}


def test_rows_of_a_results_table_have_intervals_over_items():
    items = ["rr335", "uuuuu", "r3355"] * 9
    table = {
        row["metric"]: row
        for row in own_rows(cells_of("system", scores(items)), {}, Bootstrap(resamples=500))
    }
    row = table["pass_at_4"]
    assert row["value"] == pytest.approx((1 + 0 + 0.8) / 3)
    assert row["low"] < row["value"] < row["high"] and row["n"] == 27
    assert table["accuracy"]["value"] == pytest.approx((0.4 + 0.2) / 3)
    assert "draws:5" in row["signature"] and "unbiased" in row["signature"]
