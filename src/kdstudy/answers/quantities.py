"""What a question says about its answer, and the numbers of a sentence that can be one.

A sentence that answers also holds operands, ranks, and amounts in two units.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

from kdstudy.answers import numerals
from kdstudy.answers.number_words import number_words
from kdstudy.answers.numerals import Numeral

QUESTIONS_CACHED = 16384
"""Questions whose parts are kept; the largest benchmark has 10,042."""

# Unit -> (what it measures, its size).
_UNITS = {
    **dict.fromkeys(("dollar", "euro", "$", "€", "£", "¥", "₹", "rupee"), ("money", 100)),
    **dict.fromkeys(("cent", "pence", "paise"), ("money", 1)),
    **dict.fromkeys(("week",), ("time", 604800)),
    **dict.fromkeys(("day",), ("time", 86400)),
    **dict.fromkeys(("hour", "hr"), ("time", 3600)),
    **dict.fromkeys(("minute", "min"), ("time", 60)),
    **dict.fromkeys(("second", "sec"), ("time", 1)),
    **{"year": ("age", 12), "month": ("age", 1)},
    **{"mile": ("length", 63360), "yard": ("length", 36), "foot": ("length", 12)},
    **{"feet": ("length", 12), "ft": ("length", 12), "inch": ("length", 1)},
    **{"kilometer": ("metres", 10**5), "km": ("metres", 10**5), "kilometre": ("metres", 10**5)},
    **{"meter": ("metres", 100), "m": ("metres", 100), "metre": ("metres", 100)},
    **{"centimeter": ("metres", 1), "cm": ("metres", 1), "centimetre": ("metres", 1)},
    **{"pound": ("weight", 16), "lb": ("weight", 16), "ounce": ("weight", 1), "oz": ("weight", 1)},
    **{"kilogram": ("mass", 1000), "kg": ("mass", 1000), "gram": ("mass", 1), "g": ("mass", 1)},
    **{"gallon": ("volume", 16), "quart": ("volume", 4), "pint": ("volume", 2)},
    **{"cup": ("volume", 1), "liter": ("litres", 1000), "litre": ("litres", 1000)},
    **{"milliliter": ("litres", 1), "millilitre": ("litres", 1), "ml": ("litres", 1)},
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}

_HOW_MANY = re.compile(r"\bhow many\b((?:[ ]+[a-z$%-]+){1,6})", re.IGNORECASE)
_HOW_MUCH = re.compile(r"\bhow much\b", re.IGNORECASE)
_MONEY = frozenset({"$", "€", "£", "₹", "dollar", "euro", "rupee"})
_MONEY_SIGN = re.compile(r"[$€£₹]|\b(?:dollars?|euros?|rupees?)\b", re.IGNORECASE)
_IN_UNIT = re.compile(r"\bin (?:total |whole )?([a-z]+)\b", re.IGNORECASE)
_OTHER_WORDS = """
are is was were do does did will would can could should has have had the a an of in on for to more
less fewer total additional extra other if it he she they we there each per these those his her
their all whole full different at after before with
"""
_NO_THINGS = frozenset(_OTHER_WORDS.split())
_PLACE = re.compile(
    r"\b(?:what|which)\s+(?:[a-z]+\s+){0,2}?"
    r"(?:place|position|rank|spot|floor|grade|row|day|inning|century|week|month|year|term)\b",
    re.IGNORECASE,
)

# 9 000 where the question writes so, where a group begins with 0, or as an equation's result.
_SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3}){1,4}(?![\d/-])")
_SURELY_SPACED = re.compile(
    r"(?<![\d.,/])\d{1,3}(?: \d{3}){0,3} 0\d\d(?: \d{3}){0,3}(?![\d/-])"
    r"|(?<== )\d{1,3}(?: \d{3}){1,4}(?=[ ]?[$€.]?(?:\s|$)|[ ][a-z])"
)
_MAYBE_SPACED = re.compile(r"\d \d\d\d")
_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2})(?![\d,])")
_SURELY_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d\d?)(?= ?(?:€|euros?\b))|(?<=€)(\d+),(\d\d)(?!\d)")
_POINTS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})\.(\d{3})(?![\d.])")
_FULL_HOUR = re.compile(r"(?<![\d:])(\d{1,2}):00(?![\d:])")
_ROUND_POINTS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}\.000(?![\d.])")

ORDINAL = re.compile(r"(?<![\w.,/])(\d{1,9})(?:st|nd|rd|th)\b", re.IGNORECASE)
"""A rank in digits, such as 5th."""

_EQUALS = re.compile(r"=|\bequals\b|\b(?:is|are) equal to\b", re.IGNORECASE)
_MAX_GAP = 60  # characters between two numbers of one equation
_APART = re.compile(r"[,;:\n]|\b(?:and|so|then|which|or|to|but)\b|[.?!]\s", re.IGNORECASE)
_OPERATOR = re.compile(
    r"(?:[-+*/×·÷^]|\b(?:x|times|plus|minus|(?:divided|multiplied) by))[\s$€£¥₹(\[{*`\\]*$",
    re.IGNORECASE,
)
_UNIT = re.compile(r"[ -]?(?:([a-z]+)\.?(?=[^a-z]|$)|(%))", re.IGNORECASE)
_AND_MORE = re.compile(r" and an? (half|quarter)\b", re.IGNORECASE)
_AMOUNTS = re.compile(r"\d(?: [a-z]+)?,? and (?:an? (?:half|quarter)|\d)", re.IGNORECASE)
_SCALE_WORD = re.compile(r"\b(hundred|thousand|million|billion)s?\b", re.IGNORECASE)
_SCALED = re.compile(r"[ ](hundred|thousand|million|billion)(?![a-z])", re.IGNORECASE)
_TO_SMALLER = re.compile(r"(?:[ -]?[a-z]+\.?)?(?:,? and |, | )", re.IGNORECASE)


class Asked:
    """What a question says about its answer; each part is worked out when it is needed.

    Attributes:
        spaced: It writes thousands with a blank: 9 000.
        points: It writes thousands with a point: 9.000.
        comma: It writes decimals with a comma: 2,74.
    """

    def __init__(self, question: str):
        plain = numerals.plain(question)
        self.points = bool(_ROUND_POINTS.search(plain))
        self.comma = bool(_COMMA.search(plain)) and (self.points or not re.search(r"\d\.\d", plain))
        self.spaced = bool(_SPACED.search(plain))
        self._text = spelled(plain, self)

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The numbers that it gives, in digits and words, in canonical spelling.

        "one" is a pronoun, too, and left out.
        """
        found = [number.text for number in numerals.numerals(self._text)]
        found += [number.text for number in number_words(self._text) if number.text != "1"]
        if _AMOUNTS.search(self._text):
            found += [quantity.text for quantity in quantities(self._text, self)]
        return frozenset(found)

    @cached_property
    def things(self) -> frozenset[str]:
        """What it asks the number of, as stems: "how many green apples" -> green, apple.

        "How much" in a question about money asks for units of money.
        """
        money = _HOW_MUCH.search(self._text) and _MONEY_SIGN.search(self._text)
        return self._counted | (_MONEY if money or self._counted & _MONEY else frozenset())

    @cached_property
    def _counted(self) -> frozenset[str]:
        words = [w for m in _HOW_MANY.finditer(self._text) for w in m[1].lower().split()]
        return frozenset(stem(word) for word in words if word not in _NO_THINGS)

    @cached_property
    def units(self) -> frozenset[str]:
        """Stems of the units that it asks for."""
        named = {stem(match[1].lower()) for match in _IN_UNIT.finditer(self._text)}
        return frozenset((named | self._counted) & _UNITS.keys())

    @cached_property
    def scales(self) -> frozenset[str]:
        """The words "million" and the like that it uses: it counts in them if it uses one."""
        return frozenset(match[1].lower() for match in _SCALE_WORD.finditer(self._text))

    @cached_property
    def place(self) -> bool:
        """It asks for a rank, which an ordinal answers."""
        return bool(_PLACE.search(self._text))

    @cached_property
    def fraction(self) -> bool:
        """It asks for a fraction."""
        return bool(re.search(r"\bfraction\b", self._text, re.IGNORECASE))

    @cached_property
    def percent(self) -> bool:
        """It asks for a percentage."""
        return bool(re.search(r"percent|(?:what|how many) %", self._text, re.IGNORECASE))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that can be an answer: where it stands, whether an equation comes to it, its unit.

    The unit is the stem of the word behind it, `%`, or the currency sign before it; "" without.
    """

    text: str
    start: int
    end: int
    result: bool = False
    unit: str = ""


@lru_cache(maxsize=QUESTIONS_CACHED)
def asked(question: str) -> Asked:
    """Return what a question says about its answer."""
    return Asked(question)


def spelled(text: str, style: Asked) -> str:
    """Return a `plain` text with thousands and decimals as elsewhere, given how they are written.

    A blank, a comma or a point between digits is read as the question writes its numbers; else a
    blank separates two numbers unless the second could not begin so, or the first is what an
    equation comes to, and a comma is a decimal one only before or behind euros. 2:00 is 2.
    """
    if ":00" in text:
        text = _FULL_HOUR.sub(r"\1", text)
    if _MAYBE_SPACED.search(text):
        spaced = _SPACED if style.spaced else _SURELY_SPACED
        text = spaced.sub(lambda match: match[0].replace(" ", ""), text)
    if style.points:
        text = _POINTS.sub(r"\1\2", text)
    if "," in text:
        text = _COMMA.sub(r"\1.\2", text) if style.comma else _SURELY_COMMA.sub(_with_point, text)
    return text


def quantities(text: str, question: Asked) -> list[Quantity]:
    """Return the numbers of a `plain` text that can be an answer, in order.

    Of an equation only what it comes to can be; 1 hour and 30 minutes are one amount; an ordinal
    counts where the question asks for a rank or an equation comes to it.
    """
    numbers = list(numerals.numerals(text))
    ranks = [Numeral(m[1], m.start(), m.end()) for m in ORDINAL.finditer(text)]
    ranks = [r for r in ranks if question.place or text[: r.start].rstrip(" $").endswith("=")]
    if ranks:
        numbers = sorted([*numbers, *ranks], key=lambda number: number.start)
    found: list[Quantity] = []
    for number, result in _results(text, numbers):
        amount = _amount(text, number, result, question)
        joined = _joined(found[-1], amount, text, question) if found else None
        found[-1:] = [joined] if joined else [*found[-1:], amount]
    return found


def _results(text: str, numbers: list[Numeral]) -> Iterator[tuple[Numeral, bool]]:
    """Yield the numbers without operands, and whether an equation comes to each."""
    links = [_link(text[a.end : b.start]) for a, b in pairwise(numbers)]
    begin = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and links[end - 1]:
            continue
        group = numbers[begin:end]
        inner = links[begin : end - 1]
        if "=" in inner:
            last = len(inner) - inner[::-1].index("=")
            # "= 4 + 16" is not worked out yet.
            yield (group[last], True) if last == len(inner) else (group[-1], False)
        else:
            # "x = 8" needs no number on the left.
            yield from ((n, text[: n.start].rstrip(" $-").endswith("=")) for n in group)
        begin = end


def _link(gap: str) -> str:
    """Return what joins two numbers to one equation: "=", an operator, or nothing."""
    if len(gap) > _MAX_GAP:
        return ""
    equals = _EQUALS.search(gap)
    if _APART.search(gap[: equals.start()].rstrip() if equals else gap):
        return ""
    return "=" if equals else ("+" if _OPERATOR.search(gap) else "")


def _amount(text: str, number: Numeral, result: bool, question: Asked) -> Quantity:
    spelling, end = number.text, number.end
    more = _AND_MORE.match(text, end)
    if more and spelling.isdecimal():
        spelling = _spelling(Fraction(spelling) + Fraction(1, 2 if more[1][0] in "hH" else 4))
        end = more.end()
    scaled = _SCALED.match(text, end)
    if scaled and question.scales != {scaled[1].lower()}:
        spelling, end = _spelling(Fraction(spelling) * _SCALES[scaled[1].lower()]), scaled.end()
    unit = _UNIT.match(text, end)
    sign = text[: number.start].rstrip()[-1:]
    name = stem((unit[1] or unit[2]).lower()) if unit else (sign if sign in _UNITS else "")
    return Quantity(spelling, number.start, end, result, sign if sign in _UNITS else name)


def _joined(a: Quantity, b: Quantity, text: str, question: Asked) -> Quantity | None:
    """Return two amounts as one: 1 hour and 30 minutes, 5 feet 6 inches, 2 and 1/2."""
    gap = text[a.end : b.start]
    if gap == " and " and "/" in text[b.start : b.end] and a.text.isdecimal():
        small = Fraction(b.text)
        if 0 < small < 1:
            return Quantity(_spelling(Fraction(a.text) + small), a.start, b.end, a.result, b.unit)
    # The dollar sign of "$5 and 50 cents" may be markup, and gone.
    unit = "$" if gap == " and " and _UNITS.get(b.unit) == ("money", 1) else a.unit
    (kind, size), (same, part) = (_UNITS.get(u, ("", 0)) for u in (unit, b.unit))
    if not kind or kind != same or size <= part or not _TO_SMALLER.fullmatch(gap):
        return None
    small = Fraction(b.text)
    if small * part >= size:
        return None
    unit = next((u for u in sorted(question.units) if _UNITS[u][0] == kind), unit)
    value = (Fraction(a.text) * size + small * part) / _UNITS[unit][1]
    return Quantity(_spelling(value), a.start, b.end, a.result, unit)


def _spelling(value: Fraction) -> str:
    (number,) = numerals.numerals(f"{value.numerator}/{value.denominator}")
    return number.text


def stem(word: str) -> str:
    """Return a noun in lower case without its plural ending."""
    if word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ches", "shes", "xes", "sses"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _with_point(match: re.Match[str]) -> str:
    return match[0].replace(",", ".")
