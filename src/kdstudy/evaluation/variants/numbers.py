"""The same question with other numbers, and the answer that its equation then gives."""

import dataclasses
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from random import Random
from typing import NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.number_words import number_words
from kdstudy.data.synthetic_wording import between
from kdstudy.evaluation.variants import equation
from kdstudy.evaluation.variants.base import LeftOut
from kdstudy.records import Example

_NUMBER = re.compile(r"(?<![\w.,/:])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
# What makes a number more than a quantity: a share, an ordinal, a clock, a fraction, a range, a
# calendar's or a name's.
_FIXED_AFTER = re.compile(
    r"\s?%|\s?per\s?cent|(?:st|nd|rd|th|s)\b|:\d|\s?/\s?\d|\.\d|,\d|\s?[ap]\.?\s?m\b|\s?o'clock"
    r"|\s?-\s?(?:\d|or\b|and\b|to\b)"
    r"|\s(?:days?|hours?|minutes?|seconds?|weeks?|months?|inches|feet|ounces|cents)\s"
    r"(?:a|an|per|each|every|in\s(?:a|an|one|the|each|every))\s"
    r"(?:day|hour|minute|week|month|year|foot|yard|pound|dollar)\b"
    r"|\s(?:dozen|hundred|thousand|million)|\sletters\b",
    re.IGNORECASE,
)
_FIXED_BEFORE = re.compile(
    r"(?:\b(?:an?|grade|page|chapter|room|number|level|step|no\.|age|aged|size|january|february|march|april"
    r"|may|june|july|august|september|october|november|december)|#|-)\s?$",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_WORDED = re.compile(r"\b(?:both|either|neither|dozen|pair|couple)\b", re.IGNORECASE)
# Numbers that a text means without stating them: who writes 7 * 7 of 7 treats a day and a week may
# mean either 7.
_IMPLIED: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), values)
    for words, values in (
        (r"twice|doubl\w*|half|halve\w*|each way|round[- ]trips?|there and back|back|legs?", (2,)),
        (r"thrice|tripl\w*|thirds?|yards?", (3,)),
        (r"quarters?|quadrupl\w*|fourths?|legs?|wheels?|sides?|square", (4,)),
        (r"fifths?|nickels?|weekdays?|fingers?", (5,)),
        (r"dimes?|tenths?", (10,)),
        (r"weeks?|weekly|daily|days?", (7,)),
        (r"years?|yearly|annual\w*|months?|monthly|foot|feet|inch(?:es)?|dozens?", (12,)),
        (r"ounces?|pounds?", (16,)),
        (r"days?|daily", (24, 30, 31)),
        (r"quarters?", (25,)),
        (r"years?|yearly|annual\w*|weeks?|weekly", (52, 365)),
        (r"hours?|hourly|minutes?|seconds?", (60,)),
        (r"percent|cents?|pennies|penny|dollars?|meters?|century|centuries", (100,)),
    )
)
_MOST_PLACES = 4
_TRIES = 2000


class Stated(NamedTuple):
    """A number of a text.

    Attributes:
        start: Where it begins, `end` where it ends.
        value: What it is.
        places: Its decimals.
        fixed: It is no quantity that could be another.
    """

    start: int
    end: int
    value: Fraction
    places: int
    fixed: bool


def change(item: Example, worked: str, rng: Random) -> Example:
    """Return the item with other numbers where its equation has them, and with its new answer.

    Numbers keep their decimals, their order among all numbers of the text and roughly their size;
    results in between and the answer stay whole and positive where they were; 1 stays 1, for the
    nouns behind it, and so do shares, ordinals, times and years. Numbers that the equation does not
    have stay.

    Raises:
        LeftOut: The item's equation is not known for certain, or no other numbers fit.
    """
    text, gold = item.question, numerals.value(item.answer)
    stated = numbers_of(text)
    numbers = [s.value for s in stated]
    if gold is None or item.context:
        raise LeftOut("its question is in two parts")
    if any(s.places > _MOST_PLACES for s in stated):
        raise LeftOut("a number that is rounded")
    term = (
        equation.found(worked, gold, numbers) if worked else equation.inferred(text, gold, numbers)
    )
    free = sorted(p for p in equation.places(term) if not stated[p].fixed)
    if not free:
        raise LeftOut("no number that could be another")
    worded = _worded(text)
    _require_once(numbers, free, worded)
    equation.require_stated(term, worded)
    drawn = _drawn(term, stated, free, rng)
    parts, end = [], 0
    for place in free:
        part = stated[place]
        parts += [
            text[end : part.start],
            spelled(drawn[place], part.places, text[part.start : part.end]),
        ]
        end = part.end
    answer = equation.values(term, drawn)[-1]
    return dataclasses.replace(
        item, instruction="".join([*parts, text[end:]]), answer=spelled(answer)
    )


def numbers_of(text: str) -> list[Stated]:
    """Return the numbers that a text has in digits, in order."""
    found = []
    for match in _NUMBER.finditer(text):
        digits, end = match[0].replace(",", ""), match.end()
        before, after = text[max(0, match.start() - 12) : match.start()], text[end : end + 40]
        fixed = (
            digits == "1"
            or Fraction(digits) == 0
            or (len(digits) > 1 and digits[:2].strip("0") == "")
        )
        fixed |= bool(_FIXED_AFTER.match(after) or _FIXED_BEFORE.search(before))
        fixed |= bool(_YEAR.fullmatch(match[0]) and re.search(r"\b(?:in|since|year|of)\s$", before))
        places = len(digits.partition(".")[2])
        found.append(Stated(match.start(), end, Fraction(digits), places, fixed))
    return found


def spelled(value: Fraction, places: int | None = None, like: str = "") -> str:
    """Return a number with so many decimals, or as many as it needs; with commas if `like` is."""
    if places is None:
        needed = (n for n in range(13) if (value * 10**n).denominator == 1)
        places = next(needed, None)
        if places is None:
            return repr(float(value))
    whole = round(value * 10**places)
    digits = f"{abs(whole):0{places + 1}d}"
    units = digits[: len(digits) - places]
    units = f"{int(units):,}" if "," in like else units
    return ("-" if whole < 0 else "") + units + (f".{digits[-places:]}" if places else "")


def _worded(text: str) -> set[Fraction]:
    """Return the numbers that a text states, or means, in words."""
    worded = {Fraction(n.text) for n in number_words(text)}
    if _WORDED.search(text):
        worded |= {Fraction(2), Fraction(12)}
    for words, values in _IMPLIED:
        if words.search(text):
            worded |= {Fraction(value) for value in values}
    return worded


def _require_once(
    numbers: Sequence[Fraction], free: Sequence[int], worded: Collection[Fraction]
) -> None:
    """Refuse a number that the text states, or means, a second time, in digits or in words."""
    ours = [numbers[place] for place in free]
    for value in ours:
        if numbers.count(value) > ours.count(value) or value in worded:
            raise LeftOut("a number that the text states twice")


def _drawn(
    term: equation.Term, stated: Sequence[Stated], free: Sequence[int], rng: Random
) -> list[Fraction]:
    """Return numbers of the text that fit where the old ones stood."""
    old = [s.value for s in stated]
    before = equation.values(term, old)
    for _ in range(_TRIES):
        new = [_near(s, rng) if place in free else s.value for place, s in enumerate(stated)]
        if any(new[place] == old[place] for place in free) or not _as_ordered(old, new):
            continue
        try:
            after = equation.values(term, new)
        except ZeroDivisionError:
            continue
        if after[-1] != before[-1] and all(map(_alike, before, after)):
            return new
    raise LeftOut("no other numbers fit")


def _near(part: Stated, rng: Random) -> Fraction:
    """Return a number of as many decimals, from half of it to twice; of a digit from 2 to 9.

    What is below 1 stays there, and a last decimal other than 0 stays other than 0.
    """
    unit = 10**part.places
    units = int(part.value * unit)
    low, high = max(units // 2, 1), max(units * 2, 2)
    if not part.places:
        low, high = (2, 9) if units < 10 else (max(low, 10), high)
    elif units < unit:
        high = min(high, unit - 1)
    found = between(rng, low, high)
    if part.places and units % 10 and not found % 10:
        found += 1 if found < high else -1
    return Fraction(found, unit)


def _as_ordered(old: Sequence[Fraction], new: Sequence[Fraction]) -> bool:
    pairs = list(zip(old, new, strict=True))
    return all(
        (a < b) == (x < y) and (a == b) == (x == y)
        for i, (a, x) in enumerate(pairs)
        for b, y in pairs[:i]
    )


def _alike(before: Fraction, after: Fraction) -> bool:
    """Return whether a result is whole, short, above 0 and a share of one where it was."""
    whole = before.denominator != 1 or after.denominator == 1
    short = 10**_MOST_PLACES % after.denominator == 0 or 10**_MOST_PLACES % before.denominator != 0
    share = (abs(before) < 1) == (abs(after) < 1)
    return whole and short and share and (before > 0) == (after > 0)
