"""Numbers: canonical spelling and equality."""

import random
from fractions import Fraction

import pytest

from kdstudy.answers import numerals

REPEATING = "0.6666666666666666"


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("576", "576.0", True),
        ("4", "4", True),
        ("1001", "1000.0", False),
        ("1000.5", "1000.0", False),
        ("23.66", "23.65", False),
        ("12.8", "12.75", False),
        ("0.7", "0.7000000000000001", True),
        ("0.67", REPEATING, True),
        ("0.667", REPEATING, True),
        ("2/3", REPEATING, True),
        ("0.666", REPEATING, True),
        ("0.66", REPEATING, False),
        ("0.7", REPEATING, False),
        ("0.68", REPEATING, False),
        ("-0.67", REPEATING, False),
        ("4.3", "4.333333333333333", True),
        ("4", "4.333333333333333", False),
        ("0", "0.0", True),
        ("0.0001", "0", False),
        ("", "0", False),
        ("x", "0", False),
    ],
)
def test_equal_to_the_gold(answer: str, gold: str, same: bool) -> None:
    assert numerals.equal(answer, gold) is same


def test_every_fraction_keeps_its_value_in_canonical_spelling() -> None:
    rng = random.Random(0)
    for _ in range(500):
        exact = Fraction(rng.randint(0, 999), rng.choice([1, 2, 3, 5, 7, 8, 25, 60, 400]))
        (found,) = numerals.numerals(f"{exact.numerator} / {exact.denominator}")
        text = found.text
        assert numerals.value(text) == exact
        assert ("/" in text) == (10**8 % exact.denominator != 0)


@pytest.mark.parametrize(
    ("digits", "spelling"),
    [
        ("-012.50", "-12.5"),
        ("12.", "12"),
        ("-0.0", "0"),
        ("1,234", "1234"),
        ("٣.٥", "3.5"),
        ("0." + "3" * 500, "0." + "3" * 30),
        ("9" * 301, ""),
    ],
)
def test_decimal_spelling(digits: str, spelling: str) -> None:
    assert numerals.decimal(digits) == spelling


@pytest.mark.parametrize("text", ["", "x", "inf", "nan", "1/0", "1e999999999", "1e400", "9" * 601])
def test_what_has_no_value(text: str) -> None:
    assert numerals.value(text) is None


def test_numerals_say_where_they_are() -> None:
    found = list(numerals.numerals("from -5 to 1,000 apples"))
    assert [(n.text, n.start, n.end) for n in found] == [("-5", 6, 7), ("1000", 11, 16)]


def test_backwards_is_the_same_numbers_from_the_last_on() -> None:
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choices("0123456789.,-/ $x", k=rng.randrange(40)))
        assert list(numerals.backwards(text)) == list(numerals.numerals(text))[::-1]


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("1.234,50", "1234.50"),
        ("1.234.567,5", "1234567.5"),
        ("0.5,0.25", "0.5,0.25"),
        ("1234.567,50", "1234.567,50"),
        ("1.234,567", "1.234,567"),
        ("1\u202f234\u00a0567", "1234567"),
        ("1'234", "1234"),
        ("1{,}234 and 1\\,234", "1,234 and 1,234"),
        ("２½", "2 1/2"),
        ("\\frac{1}{3}", "1/3"),
    ],
)
def test_plain_has_one_spelling(text: str, spelling: str) -> None:
    assert numerals.plain(text) == spelling
    assert numerals.plain(spelling) == spelling
