"""The equation of a word problem over the numbers of its text, from what is shown of its answer."""

import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.number_words import number_words
from kdstudy.answers.steps import steps
from kdstudy.evaluation.variants.base import LeftOut

_OPERATORS: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_NUMBER = r"\d+(?:\.\d+)?"
_FLAT = re.compile(rf"(?:{_NUMBER})(?:[-+*/](?:{_NUMBER}))+")
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/]")
_MOST_READINGS = 64
_UNITS = tuple(map(Fraction, (10, 100, 1000, 60, 12)))
# Primes, so that two equations do not come to the same by chance.
_TRIALS = [
    [Fraction(x) for x in (1009, 89, 359, 13, 757, 41, 211, 5003, 3, 607, 151, 29)],
    [Fraction(x) for x in (31, 1201, 7, 173, 67, 509, 11, 97, 2003, 23, 887, 5)],
]
# What counts without digits, or asks for a number and not for how many of something.
_RIDDLE = re.compile(
    r"\b(?:numbers?|integers?|half|twice|thrice|doubled?|tripled?|quadrupled?|dozens?|pairs?|couple"
    r"|percent|product|sum|quotient|average|both|once)\b|%",
    re.IGNORECASE,
)
_MOST = 4
"""Numbers of a text among which another equation is looked for; with more there are too many."""


class Leaf(NamedTuple):
    """A number of the text by its place among them, or a constant that the text does not have."""

    place: int
    constant: Fraction = Fraction(0)


class Node(NamedTuple):
    """An operation on two terms."""

    sign: str
    left: "Term"
    right: "Term"


Term = Leaf | Node
CONSTANT = -1
"""The place of a constant."""


def values(term: Term, numbers: Sequence[Fraction]) -> list[Fraction]:
    """Return the value of every operation of a term, the whole's last; a leaf's is its number's.

    Args:
        term: An equation's right side.
        numbers: Of the text.

    Raises:
        ZeroDivisionError: It divides by zero.
    """
    if isinstance(term, Leaf):
        return [term.constant if term.place == CONSTANT else numbers[term.place]]
    left, right = values(term.left, numbers), values(term.right, numbers)
    inner = [*(left if isinstance(term.left, Node) else ())]
    inner += right if isinstance(term.right, Node) else ()
    return [*inner, _OPERATORS[term.sign](left[-1], right[-1])]


def places(term: Term) -> set[int]:
    """Return which numbers of the text a term has."""
    if isinstance(term, Leaf):
        return {term.place} - {CONSTANT}
    return places(term.left) | places(term.right)


def found(worked: str, gold: Fraction, numbers: Sequence[Fraction]) -> Term:
    """Return the one equation that a worked answer states and whose value is the gold answer.

    What a step takes from an earlier one is put in its place. A number that the text does not have
    is a constant. A number that may be either, or one of several of the text, is read so that each
    number of the text is there once, if that is one equation.

    Args:
        worked: What is shown of how the answer is found: an equation with its result, or a text.
        gold: The item's answer.
        numbers: Of the text.

    Raises:
        LeftOut: There is none, or there is more than one way to read it.
    """
    if len(numbers) > len(_TRIALS[0]):
        raise LeftOut(f"more than {len(_TRIALS[0])} numbers")
    known: dict[Fraction, list[Term]] = {}
    for step in steps(worked):
        result = numerals.value(step.result)
        if result is None or not _FLAT.fullmatch(step.expression):
            continue
        readings = _readings(step.expression, known, numbers)
        if readings and _value(readings[0], numbers) == result:
            known[result] = readings
    if gold not in known:
        raise LeftOut("no equation that gives its answer")
    apart = [term for term in known[gold] if not _repeats(term)] or known[gold]
    if any(not same(apart[0], other) for other in apart):
        raise LeftOut("a number of its equation stands for more than one thing")
    term = apart[0]
    if not places(term):
        raise LeftOut("its equation has no number of the text")
    if any(_is_near(constant, number) for constant in _constants(term) for number in numbers):
        raise LeftOut("a number of its equation is one of the text in another unit")
    sure = not (_constants(term) or _repeats(term))
    if not sure and any(not same(term, other) for other in others(gold, numbers)):
        raise LeftOut("another equation gives the same answer")
    return term


def require_stated(term: Term, worded: Collection[Fraction]) -> None:
    """Refuse an equation that has more than the numbers of its text, each of them once.

    A constant may be what a rationale worked out of the text's numbers without a word, and would
    stay as it was where they change; a number that is there twice may be two things of one size.

    Args:
        term: The equation.
        worded: What the text states in words, which may be a constant.

    Raises:
        LeftOut: It has such a number.
    """
    if any(constant not in worded for constant in _constants(term)):
        raise LeftOut("its equation has a number that its text does not state")
    if _repeats(term):
        raise LeftOut("a number of its equation stands for more than one thing")


def inferred(text: str, gold: Fraction, numbers: Sequence[Fraction]) -> Term:
    """Return the one equation over all numbers of a text, each once, that gives the gold answer.

    For items of which no file shows how they are answered. Of the training rows of MAWPS that it
    reads it has the published equation in all (docs/statement.md).

    Args:
        text: The question.
        gold: Its answer.
        numbers: Of the text, in digits.

    Raises:
        LeftOut: There are several, or none; or the text counts in words as well, is a riddle about
            a number, or has a number below 1, so that what it asks may not be in its digits.
    """
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise LeftOut("no equation that gives its answer")
    if _RIDDLE.search(text) or any(number_words(text)) or min(numbers) < 1:
        raise LeftOut("no equation is given, and its text has more than whole quantities in digits")
    possible = list(others(gold, numbers))
    if not possible:
        raise LeftOut("no equation that gives its answer")
    if any(not same(possible[0], other) for other in possible):
        raise LeftOut("another equation gives the same answer")
    if places(possible[0]) != set(range(len(numbers))) or _divides_by_more(possible[0]):
        raise LeftOut("no equation is given, and none has all numbers of its text")
    return possible[0]


def others(gold: Fraction, numbers: Sequence[Fraction]) -> Iterator[Term]:
    """Yield the equations over numbers of the text, each of them once, that give an answer."""
    if len(numbers) > _MOST:
        raise LeftOut(f"more than {_MOST} numbers")
    for count in range(1, len(numbers) + 1):
        for chosen in itertools.permutations(range(len(numbers)), count):
            for term in _shapes(tuple(map(Leaf, chosen))):
                if _value(term, numbers) == gold:
                    yield term


def same(one: Term, other: Term) -> bool:
    """Return whether two equations are one function of the numbers: 3 * (4 + 5), (5 + 4) * 3."""
    try:
        return all(values(one, t)[-1] == values(other, t)[-1] for t in _TRIALS)
    except ZeroDivisionError:
        return False


def _shapes(leaves: tuple[Term, ...]) -> Iterator[Term]:
    """Yield every way to join terms in their order."""
    if len(leaves) == 1:
        yield leaves[0]
    for cut in range(1, len(leaves)):
        for left in _shapes(leaves[:cut]):
            for right in _shapes(leaves[cut:]):
                yield from (Node(sign, left, right) for sign in _OPERATORS)


def _readings(
    expression: str, known: Mapping[Fraction, Sequence[Term]], numbers: Sequence[Fraction]
) -> list[Term]:
    """Return a step's expression, one sum or one product, as the terms that it may be."""
    tokens = _TOKEN.findall(expression)
    operands = [_operand(Fraction(text), known, numbers) for text in tokens[::2]]
    if math.prod(map(len, operands)) > _MOST_READINGS:
        raise LeftOut("a number of its equation stands for more than one thing")
    return [
        functools.reduce(
            lambda left, part: Node(part[0], left, part[1]),
            zip(tokens[1::2], chosen[1:], strict=True),
            chosen[0],
        )
        for chosen in itertools.product(*operands)
    ]


def _operand(
    value: Fraction, known: Mapping[Fraction, Sequence[Term]], numbers: Sequence[Fraction]
) -> list[Term]:
    there = [Leaf(place) for place, number in enumerate(numbers) if number == value]
    return [*there, *known.get(value, ())] or [Leaf(CONSTANT, value)]


def _leaves(term: Term) -> list[Leaf]:
    return [term] if isinstance(term, Leaf) else _leaves(term.left) + _leaves(term.right)


def _repeats(term: Term) -> bool:
    there = [leaf.place for leaf in _leaves(term) if leaf.place != CONSTANT]
    return len(there) > len(set(there))


def _constants(term: Term) -> list[Fraction]:
    return [leaf.constant for leaf in _leaves(term) if leaf.place == CONSTANT]


def _divides_by_more(term: Term) -> bool:
    if isinstance(term, Leaf):
        return False
    own = term.sign == "/" and isinstance(term.right, Node)
    return own or _divides_by_more(term.left) or _divides_by_more(term.right)


def _is_near(constant: Fraction, number: Fraction) -> bool:
    """Return whether a constant is a number of the text in cents, in percent, in minutes."""
    return number > 1 and constant in {number * f for u in _UNITS for f in (u, 1 / u)}


def _value(term: Term, numbers: Sequence[Fraction]) -> Fraction | None:
    try:
        return values(term, numbers)[-1]
    except ZeroDivisionError:
        return None
