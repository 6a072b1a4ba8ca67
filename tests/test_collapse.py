"""Signs of collapse in texts: what is read from them, and where an alarm begins."""

import dataclasses
import math

import pytest

from kdstudy.analysis.collapse import Signs, Text, departures, reader, signs
from kdstudy.records import Example

USUAL = Signs(texts=8, tokens=40.0, cut=0.0, repetition=0.05, parsed=1.0)
FORMAT = "Fill in: Option1: Jennifer Option2: Christine Answer format: option1/option2"
CHOICES = "What is 2 + 3? Answer Choices: (A) 4 (B) 5 (C) 6"


def row(instruction: str, response: str) -> Example:
    return Example(id="x", instruction=instruction, response=response)


@pytest.mark.parametrize(
    ("example", "text", "answer"),
    [
        (row("2 + 3?", "2 + 3 = 5. The answer is 5."), "So the answer is 12.", "12"),
        (row("2 + 3?", "2 + 3 = 5\n#### 5"), "it makes 7", "7"),
        (row("2 + 3?", "The answer is 5"), "who knows", ""),
        (row(FORMAT, "the correct answer is option2"), "The correct answer is option1.", "option1"),
        (row(FORMAT, "the correct answer is option2"), "Christine, Christine, Christine", ""),
        (row(CHOICES, "Adding them, the answer is B."), "The answer is (C).", "C"),
    ],
)
def test_an_answer_is_read_as_the_rows_own_response_gives_it(example, text, answer):
    assert reader(example)(text, False) == answer


@pytest.mark.parametrize(
    "example",
    [
        row("Who built it?", "Gustave Eiffel, in 1889."),
        row("Write a haiku.", "An old silent pond"),
        row(FORMAT, "neither of them"),
    ],
)
def test_a_row_whose_response_states_no_answer_asks_for_none(example):
    assert reader(example) is None


def test_a_number_at_the_end_of_a_cut_text_is_no_answer():
    read = reader(row("2 + 3?", "The answer is 5."))
    assert read("2 + 3 = 5 and then 1", False) == "1" and read("2 + 3 = 5 and then 1", True) == ""


def test_signs_are_means_over_the_texts():
    read = reader(row("2 + 3?", "The answer is 5."))
    found = signs(
        [
            Text(text="The answer is 5.", tokens=6, cut=False, read=read),
            Text(text="go go go go go go", tokens=12, cut=True, read=read),
        ]
    )
    # Of the second text's three 4-grams two stand before.
    assert found.repetition == pytest.approx((0 + 2 / 3) / 2)
    assert (found.texts, found.tokens, found.cut, found.parsed) == (2, 9.0, 0.5, 0.5)


def test_answers_are_not_counted_where_too_few_rows_ask_for_one():
    read = reader(row("2 + 3?", "The answer is 5."))
    asks = Text(text="The answer is 5.", tokens=6, cut=False, read=read)
    free = dataclasses.replace(asks, read=None)
    assert signs([asks] * 8 + [free] * 2).parsed == 1.0
    assert signs([asks] * 7 + [free] * 3).parsed is None


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({}, None),
        ({"tokens": 80.0}, None),
        ({"tokens": 80.1}, "long"),
        ({"tokens": 20.0}, None),
        ({"tokens": 19.9}, "short"),
        ({"repetition": 0.25}, None),
        ({"repetition": 0.26}, "repetition"),
        ({"cut": 2 / 8}, None),
        ({"cut": 3 / 8}, "cut"),
        ({"parsed": 5 / 8}, None),
        ({"parsed": 4 / 8}, "parsed"),
        ({"parsed": None}, None),
        ({"texts": 100, "cut": 0.15}, None),
        ({"texts": 100, "cut": 0.18}, "cut"),
    ],
)
def test_a_sign_departs_from_the_usual_past_its_limit(change, sign):
    now = dataclasses.replace(USUAL, **change)
    assert list(departures(now, USUAL)) == ([sign] if sign else [])


def test_the_limits_of_shares_are_where_wilsons_interval_leaves_the_reports_limits():
    # Wilson's score test, solved for p on a grid: |k/n - p| <= 1.96 sqrt(p (1 - p) / n).
    def inside(k: int, p: float) -> bool:
        return abs(k / 8 - p) <= 1.959964 * math.sqrt(p * (1 - p) / 8)

    for k in range(9):
        ends = [p / 1000 for p in range(1, 1000) if inside(k, p / 1000)]
        cut = dataclasses.replace(USUAL, cut=k / 8)
        assert ("cut" in departures(cut, USUAL)) == (min(ends) > 0.10), k
        parsed = dataclasses.replace(USUAL, parsed=k / 8)
        assert ("parsed" in departures(parsed, USUAL)) == (max(ends) < 0.80), k
    worse = dataclasses.replace(USUAL, cut=0.9, parsed=0.1, repetition=0.8)
    assert not departures(worse, worse)
