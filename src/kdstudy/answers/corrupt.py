"""A worked answer in which the result of one equation is another number."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.arithmetic import Step, expression
from kdstudy.answers.steps import steps
from kdstudy.records import content_id

_NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d%])", re.ASCII)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/^()]")


class Corrupted(NamedTuple):
    """The beginning of an answer up to a result that was changed.

    Attributes:
        before: What stands before the result.
        result: The result as the answer has it.
        put: What stands in its place, as many digits.
    """

    before: str
    result: str
    put: str

    @property
    def begun(self) -> str:
        """The beginning with the changed result."""
        return self.before + self.put

    @property
    def untouched(self) -> str:
        """The beginning as it was."""
        return self.before + self.result


def corrupted(text: str, question: str, seed: str) -> Corrupted | None:
    """Return the beginning of an answer with another result of one of its equations.

    The equation is drawn among those whose result is exactly right and stands in the answer again
    later on, so that something follows from it; the number in its place among those that differ in
    one digit and stand neither in the answer nor in the question.

    Args:
        text: The answer.
        question: What was asked.
        seed: Of both draws: equal texts and seeds, equal corruption.

    Returns:
        None where there is no such equation, or no such number.
    """
    known = {_value(m[0]) for part in (text, question) for m in _NUMBER.finditer(part)}

    def drawn(place: re.Match[str]) -> str:
        return content_id("equation", seed, text, str(place.start()))

    for place in sorted(_results(text), key=drawn):
        others = [put for put in _in_one_digit(place[0]) if _value(put) not in known]
        if others:
            put = min(others, key=lambda put: content_id("number", seed, text, put))
            return Corrupted(text[: place.start()], place[0], put)
    return None


def goes_on_in_number(rest: str) -> bool:
    """Return whether text behind a number adds digits to it."""
    return re.match(r"[.,]?\d", rest) is not None


def _results(text: str) -> Iterator[re.Match[str]]:
    """Yield the numbers that are an equation's exact result and stand in the text again later."""
    numbers = [*_NUMBER.finditer(text)]
    values = [_value(m[0]) for m in numbers]
    for i, place in enumerate(numbers):
        if values[i] not in values[i + 1 :]:
            continue
        # An equation is complete with its result and not before it; but `48/2 = <<48/2=24>>24`
        # has its result by arithmetic before it is written.
        before = text[: place.start()]
        first = values[i] not in values[:i] and before.rstrip(" $").endswith("=")
        known = () if first else steps(before)
        new = [step for step in steps(text[: place.end()]) if step not in known]
        if any(_comes_to(step, values[i]) for step in new):
            yield place


def _comes_to(step: Step, value: Fraction) -> bool:
    whole = expression(tuple(_TOKEN.findall(step.expression)))
    return (
        whole is not None
        and numerals.value(step.result) == value
        and Fraction(whole.value) == value
    )


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _in_one_digit(number: str) -> list[str]:
    """Return the numbers that differ in one digit, without those that begin with a new 0."""
    return [
        number[:at] + digit + number[at + 1 :]
        for at, old in enumerate(number)
        if old.isdigit()
        for digit in "0123456789"
        if digit != old and not (digit == "0" and at == 0)
    ]
