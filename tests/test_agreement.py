"""Agreement: bounds, kappa against hand-computed and brute-force values."""

import itertools
import math
import random

import pytest

from kdstudy.evaluate.agreement import agree, agreement, chance
from kdstudy.evaluate.fidelity import pair
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
