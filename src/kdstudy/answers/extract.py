"""Named rules that find the final answer in a completion; pure text, never an exception.

`reference` does exactly what the published study's released code does: the text up to a second
`### Response:`, then the last number, or the first capital A-E anywhere. `corrected` reads what the
model states, never what it repeats from the question:

1. Its own turn, without prompt, transcript and run-on (`turns`).
2. The last statement of an answer (`statements`), also one that says that there is none or that
   names several choices: both leave the text unparsed. A statement under a condition ("if ..., the
   answer would be ...") counts only where there is no other.
3. Without a statement, the last number, choice or label that the text itself arrives at.
"""

import re
from typing import Literal

from kdstudy.answers import numerals
from kdstudy.answers.labels import label
from kdstudy.answers.letter_rule import choice, options
from kdstudy.answers.number_rule import number
from kdstudy.answers.statements import RULES, Rule

__all__ = [
    "RULES",
    "Rule",
    "choice",
    "kind_of_gold",
    "label",
    "number",
    "options",
    "same_gold",
    "same_number",
]

REFERENCE_TOLERANCE = 0.001
"""Absolute difference that the released code allows between an answer and the gold, in floats."""


def kind_of_gold(answer: str) -> Literal["number", "letter"] | None:
    """Return what a gold answer is by itself; None for anything but a number or a capital letter.

    A number is spelled as `numerals.value` reads it: without thousands separators and units.
    """
    if numerals.value(answer) is not None:
        return "number"
    return "letter" if re.fullmatch("[A-Z]", answer) else None


def same_gold(answer: str, gold: str, rule: Rule) -> bool:
    """Return whether an extracted number is the gold one under a rule; "" never is."""
    if rule == "reference":
        return same_number(answer, gold, rule)
    return numerals.equal(answer, gold)


def same_number(a: str, b: str, rule: Rule) -> bool:
    """Return whether two extracted numbers are the same answer under a rule; "" equals nothing."""
    if rule == "reference":
        x, y = numerals.value(a), numerals.value(b)
        found = x is not None and y is not None
        return found and abs(float(x) - float(y)) <= REFERENCE_TOLERANCE
    return numerals.equal(a, b) or numerals.equal(b, a)
