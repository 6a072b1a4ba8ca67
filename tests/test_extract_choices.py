"""Extraction of the letters that stand before options."""

import pytest

from kdstudy.answers.extract import choice, options

AQUA = (
    "A property is worth $1023.65. Find the difference. "
    "Answer Choices: (A) 23.65 (B) 1000 (C) 35.62 (D) Rs. 2.65 (E) None of these"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The answer is (C).", "C"),
        ("The answer is C", "C"),
        ("The answer is c.", "C"),
        ("the correct option is: **B**", "B"),
        ("Answer: option D", "D"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("#### B", "B"),
        ("（Ｂ）", "B"),
        ("(A) is too small, (B) fits. The answer is (B), since (A) fails", "B"),
        ("Based on A, Tom is right: option C", "C"),
        ("So C.", "C"),
        ("C", "C"),
        ("C) 35.62", "C"),
        ("Option: B", "B"),
        ("**Option: B**", "B"),
        ("Answer: C. The property is worth more than (A)", "C"),
        ("Answer: (C). It is no less than (A)", "C"),
        ("Answer: A property is worth 35.62", "C"),
        ("not A but C.", "C"),
        ("The answer is not (A) but (C)", "C"),
        ("The answer is (C), not (A).", "C"),
        ("(C), not (A)", "C"),
        ("(E) (D) (C) (B) (A), and of these (C)", "C"),
        ("The answer is (B). Wait, the answer is (D).", "D"),
        ("The answer is ( C )", "C"),
        ("The answer is ١٠٠٠", "B"),
        ("```\nC\n```", "C"),
        ("(B) or rather (C)", "C"),
        ("The answer is A 23.65", "A"),
        ("The answer is a number near (B)", "B"),
        ("The answer is 1000.", "B"),
        ("The answer is 1,000 dollars, far more than (A)", "B"),
        ("so the difference is $23.65", "A"),
        ("so the difference is 2.65", "D"),
        ("so the difference is 77", ""),
        ("the property is 23.6 more", "A"),
        ("Based on this, nothing can be said", ""),
        ("The answer is none", ""),
        ("The answer is d = 23.65 km.", "A"),
        ("The answer is a = 1000.", "B"),
        (AQUA, ""),
        (f"{AQUA}\nThe answer is (C).", "C"),
        ("(A) 23.65 (B) 1000 (C) 35.62 (D) Rs. 2.65 (E) None of these. So it is 1000", "B"),
        ("A. 23.65\nB. 1000\nC. 35.62\nD. Rs. 2.65\nE. None of these", ""),
        ("A. 23.65 B. 1000 C. 35.62 D. 2.65 E. None of these. Hence D.", "D"),
        ("It is (B).\n\nQuestion: another? (D)", "B"),
    ],
)
def test_corrected_choice(text: str, expected: str) -> None:
    assert choice(text, "corrected", AQUA) == expected


def test_choice_by_value_needs_one_option_with_it() -> None:
    twice = "Answer Choices: (A) 8.75 (B) 8.79 (C) 8.75 (D) 8.71 (E) 1 hour 5 minutes"
    assert choice("It is 8.75", "corrected", twice) == ""
    assert choice("It is 8.79", "corrected", twice) == "B"
    assert choice("It is 5", "corrected", twice) == ""


def test_a_letter_that_is_not_offered_is_no_choice() -> None:
    assert choice("(E)", "corrected", "Answer Choices: (A) 1 (B) 2") == ""


def test_a_cut_choice_needs_a_closed_statement() -> None:
    assert choice("(C) fits best", "corrected", AQUA, cut=True) == ""
    assert choice("The answer is (C). And", "corrected", AQUA, cut=True) == "C"


def test_reference_choice_is_the_first_capital_anywhere() -> None:
    assert choice("Based on this, (C)", "reference") == "B"
    assert choice("\nA: The answer is (C)", "reference") == "A"
    assert choice("none", "reference") == ""


def test_options_follow_the_last_head() -> None:
    question = "Is (A) prime? Answer Choices: (A) Rs. 4 (B)  5,6  (C) None"
    assert options(question) == {"A": "Rs. 4", "B": "5,6", "C": "None"}
    assert options("no options") == {}


def test_the_head_of_the_options_may_be_in_any_case():
    asked = "Is (C) a letter? ANSWER CHOICES: (A) 4 (B) 5"
    assert options(asked) == {"A": "4", "B": "5"}
    # An echo of the options from their head on is no answer.
    echoed = "answer choices: (A) 4 (B) 5"
    assert choice(echoed, "corrected", asked) == ""
