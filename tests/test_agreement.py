"""Agreement: bounds, kappa and changes against brute force and statsmodels."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from kdstudy.errors import InputError
from kdstudy.evaluation.agreement import agree, agreement, chance, changes
from kdstudy.evaluation.fidelity import pair
from kdstudy.records import Score


def answer(
    item: int, extracted: str, outcome: str = "wrong", rule: str = "number-corrected"
) -> Score:
    return Score(
        benchmark="toy",
        example_id=f"{item:05d}",
        sample=0,
        completion="",
        extracted=extracted,
        rule=rule,
        outcome=outcome,
        quality=float(outcome == "correct"),
        tokens=1,
    )


def system(letters: str, gold: str = "") -> list[Score]:
    """One letter per item; "-" is a missing answer."""
    golds = gold or "?" * len(letters)
    return [
        answer(
            i,
            letter.strip("-"),
            "correct" if letter == g else "unparsed" if letter == "-" else "wrong",
            "choice-corrected",
        )
        for i, (letter, g) in enumerate(zip(letters, golds, strict=True))
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (answer(0, "3"), answer(0, "3"), True),
        (answer(0, "3"), answer(0, "4"), False),
        (answer(0, "0.67"), answer(0, "2/3"), True),
        (answer(0, "2/3"), answer(0, "0.67"), True),
        (answer(0, "0.67", "correct"), answer(0, "0.667", "correct"), True),
        (answer(0, "0.67", "correct"), answer(0, "2/3", "wrong"), False),
        (answer(0, "", "unparsed"), answer(0, "", "unparsed"), False),
        (answer(0, "", "truncated"), answer(0, "3"), False),
        (answer(0, "A", rule="choice-corrected"), answer(0, "A", rule="choice-corrected"), True),
        (answer(0, "A", rule="choice-reference"), answer(0, "B", rule="choice-reference"), False),
        (
            answer(0, "5", rule="number-reference"),
            answer(0, "5.0005", rule="number-reference"),
            True,
        ),
        (answer(0, "5"), answer(0, "5.0005"), False),
    ],
)
def test_same_final_answer(a: Score, b: Score, expected: bool) -> None:
    assert agree(a, b) is expected


def test_kappa_of_the_textbook() -> None:
    # Cohen's two raters, 50 cases: both yes 20, yes/no 5, no/yes 10, both no 15;
    # observed 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa 0.4.
    a, b = system("A" * 25 + "B" * 25), system("A" * 20 + "B" * 5 + "A" * 10 + "B" * 15)
    found = agreement(pair(a, b), chance(a, b))
    assert found.rate == pytest.approx(0.7)
    assert chance(a, b) == pytest.approx(0.5)
    assert found.kappa == pytest.approx(0.4)


def test_kappa_is_statsmodels() -> None:
    rng = random.Random(2)
    for _ in range(50):
        a, b = (system("".join(rng.choices("ABCD", k=30))) for _ in range(2))
        table = np.zeros((4, 4))
        for x, y in zip(a, b, strict=True):
            table["ABCD".index(x.extracted), "ABCD".index(y.extracted)] += 1
        found = agreement(pair(a, b), chance(a, b))
        assert found.kappa == pytest.approx(cohens_kappa(table).kappa)


def test_chance_is_the_agreement_over_all_pairs_of_items() -> None:
    rng = random.Random(0)
    a, b = (system("".join(rng.choices("ABCDE-", k=40))) for _ in range(2))
    every = [x.extracted == y.extracted != "" for x, y in itertools.product(a, b)]
    assert chance(a, b) == pytest.approx(sum(every) / len(every))


def test_agreement_stays_within_its_bounds_and_meets_them() -> None:
    rng = random.Random(1)
    for _ in range(200):
        n = rng.randint(1, 12)
        gold, a, b = ("".join(rng.choices("ABC", k=n)) for _ in range(3))
        found = agreement(pair(system(a, gold), system(b, gold)))
        assert found.lower - 1e-12 <= found.rate <= found.upper + 1e-12
    low = agreement(pair(system("AAAB", "AAAA"), system("BAAA", "AAAA")))
    assert (low.lower, low.rate, low.upper) == (0.5, 0.5, 1.0)
    high = agreement(pair(system("AAAB", "AAAA"), system("AACB", "AAAA")))
    assert (high.lower, high.rate, high.upper) == (0.25, 0.75, 0.75)


def test_bounds_are_the_tightest_there_are() -> None:
    """Over every pair of systems with given accuracies, agreement goes from one to the other."""
    reached: dict[tuple[float, float], list[float]] = {}
    for a in itertools.product("ABC", repeat=4):
        for b in itertools.product("ABC", repeat=4):
            found = agreement(pair(system("".join(a), "AAAA"), system("".join(b), "AAAA")))
            reached.setdefault((found.lower, found.upper), []).append(found.rate)
    for (lower, upper), rates in reached.items():
        assert (min(rates), max(rates)) == (pytest.approx(lower), pytest.approx(upper))


def test_agreement_when_both_are_wrong_by_counting() -> None:
    rng = random.Random(3)
    for _ in range(50):
        gold, a, b = ("".join(rng.choices("ABC-", k=20)) for _ in range(3))
        gold = gold.replace("-", "A")
        wrong = [(x, y) for x, y, g in zip(a, b, gold, strict=True) if g not in (x, y)]
        found = agreement(pair(system(a, gold), system(b, gold)))
        assert found.both_wrong_n == len(wrong)
        if wrong:
            same = sum(x == y != "-" for x, y in wrong)
            assert found.both_wrong_rate == pytest.approx(same / len(wrong))


def test_agreement_when_both_are_wrong() -> None:
    found = agreement(pair(system("ABBC-", "AAAAA"), system("ABCA-", "AAAAA")))
    assert (found.both_wrong_rate, found.both_wrong_n) == (pytest.approx(1 / 3), 3)
    alike = agreement(pair(system("AB", "AA"), system("AA", "AA")))
    assert math.isnan(alike.both_wrong_rate)
    assert alike.both_wrong_n == 0


def test_degenerate_agreement_is_nan() -> None:
    nothing = agreement([])
    assert nothing.n == 0
    assert all(math.isnan(x) for x in (nothing.rate, nothing.kappa, nothing.lower, nothing.upper))
    assert math.isnan(chance([], []))
    constant = system("AAA")
    assert math.isnan(agreement(pair(constant, constant), chance(constant, constant)).kappa)
    assert math.isnan(agreement(pair(constant, constant)).kappa)
    silent = system("---")
    assert agreement(pair(silent, silent), chance(silent, silent)).kappa == 0


def test_changes_per_item_add_up_to_the_change_of_the_rate() -> None:
    rng = random.Random(4)
    sft, distilled, teacher = (system("".join(rng.choices("ABC", k=50))) for _ in range(3))
    before, after = pair(sft, teacher), pair(distilled, teacher)
    found = changes(before, after)
    newly, lost = list(found.values()).count(1), list(found.values()).count(-1)
    letters = [[s.extracted for s in part] for part in (sft, distilled, teacher)]
    assert newly == sum(o != t == n for o, n, t in zip(*letters, strict=True))
    assert lost == sum(o == t != n for o, n, t in zip(*letters, strict=True))
    mean = sum(found.values()) / len(found)
    assert mean == pytest.approx(agreement(after).rate - agreement(before).rate)
    assert list(found) == [("toy", f"{i:05d}") for i in range(50)]


def test_changes_count_an_item_with_several_draws_once() -> None:
    a, b, c = (
        [
            dataclasses.replace(answer(i // 2, letter, rule="choice-corrected"), sample=i % 2)
            for i, letter in enumerate(letters)
        ]
        for letters in ("ABAB", "AAAA", "AAAA")
    )
    assert changes(pair(a, c), pair(b, c)) == {("toy", "00000"): 0.5, ("toy", "00001"): 0.5}


def test_changes_of_what_does_not_match_are_refused() -> None:
    a, b = system("AB"), system("ABC")
    with pytest.raises(InputError, match=r"1 items .* the first is \('toy', '00002', 0\)"):
        changes(pair(a, a), pair(b, b))
    with pytest.raises(InputError, match="2 items are compared twice"):
        changes(pair(a, a) * 2, pair(a, a))
    assert changes([], []) == {}
