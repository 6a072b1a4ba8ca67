"""Which number of a sentence answers a question: what it comes to, in the unit that is asked for.

A sentence that answers also holds numbers of the question, operands, ranks, and amounts in two
units. `Asked` is what a question says about its answer, `quantities` are the numbers of a sentence
that can be the answer, and `the_answer` is the one that is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise

from kdstudy.evaluate import numerals
from kdstudy.evaluate.number_words import number_words, ordinal_words
from kdstudy.evaluate.numerals import Numeral

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

_REASON = re.compile(
    r"\b(?:because|since|as (?:you|he|she|they|it|we|there)|given that)\b", re.IGNORECASE
)
_RESTATED = re.compile(r"\b(?:which|that) (?:is|equals|makes)\b|\bor\b|=", re.IGNORECASE)
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
_OPENING = re.compile(
    r"(?:[\W_]|\b(?:about|around|approximately|exactly|only|just|roughly|nearly|almost|over|still"
    r"|therefore|thus|then|simply|a total of|the number|equal to|indeed|an?|the|text|math[a-z]+"
    r"|probably|likely|most|certainly|definitely|clearly|to be|given by|[a-z](?= ?=))\b)*",
    re.IGNORECASE,
)


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
        return frozenset(_stem(word) for word in words if word not in _NO_THINGS)

    @cached_property
    def units(self) -> frozenset[str]:
        """Stems of the units that it asks for."""
        named = {_stem(match[1].lower()) for match in _IN_UNIT.finditer(self._text)}
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


def the_answer(
    text: str,
    found: list[Quantity],
    question: Asked,
    *,
    whole_sentence: bool,
    apart: bool = False,
) -> str:
    """Return the number that a sentence gives as its answer; "" when there is none.

    Args:
        text: The sentence, `plain`.
        found: Its `quantities` without those that are denied.
        question: What is asked.
        whole_sentence: The text is a sentence of its own, whose answer is what it says that the
            question does not: the one new number, else the last. Behind "the answer is" the answer
            comes first or is what an equation comes to.
        apart: A colon or a line break stands between "the answer is" and the text, which may
            therefore begin a sentence of its own.
    """
    new = {quantity.text for quantity in found} - question.numbers
    if not whole_sentence and found and _opens_with(text, found[0]):
        # "The answer is:\n\n96 pears fill 12 boxes."
        return new.pop() if apart and len(new) == 1 else _first(found)
    worked_out = any(quantity.result for quantity in found)
    words = [] if new or worked_out else [word.text for word in counted(text, question)]
    if words:
        return words[-1]
    if not found:
        return ""
    if not whole_sentence:
        return new.pop() if len(new) == 1 else _first(found)
    reason = _REASON.search(text, found[0].end)
    if reason and not any(quantity.result for quantity in found if quantity.start > reason.end()):
        found = [quantity for quantity in found if quantity.end <= reason.start()]
    return _concluded(text, found, question)


def _concluded(text: str, found: list[Quantity], question: Asked) -> str:
    """Return what a sentence concludes: its last result, that in another form, or what is new."""
    place = max((i for i, quantity in enumerate(found) if quantity.result), default=-1)
    new = [q.text for q in found[place + 1 :] if q.text not in question.numbers]
    if place >= 0:
        for other in found[place + 1 : place + 2]:
            # "0.5 hours, which is 30 minutes", where minutes are asked for
            restated = _RESTATED.search(text, found[place].end, other.start)
            if restated and other.unit in question.units - {found[place].unit}:
                return other.text
        return new[-1] if new else found[place].text
    if len(set(new)) != 1:
        told = [q.text for q in found if q.unit in question.things]
        fits = [text for text in told if text in new] if new else told
        new = fits if len(set(fits)) == 1 else new
    return new[-1] if len(set(new)) == 1 else found[-1].text


def in_words(text: str, question: Asked) -> str:
    """Return the number that a statement without digits spells in words, "" if it spells none."""
    for number in number_words(text):
        if _OPENING.fullmatch(text[: number.start]) and not text[number.end :].startswith(" of "):
            return number.text
    counts = list(counted(text, question))
    if counts:
        return counts[0].text
    ranks = list(ordinal_words(text)) if question.place else []
    return ranks[0].text if ranks else ""


def counted(text: str, question: Asked) -> Iterator[Numeral]:
    """Yield numbers in words that count what is asked for, and ranks where one is asked for."""
    for number in number_words(text) if question.things else ():
        behind = text[number.end : number.end + 60].lower().split()[:3]
        stems = {_stem(word.strip(".,;:!?*")) for word in behind}
        if number.text not in ("1", *question.numbers) and stems & question.things:
            yield number
    if question.place:
        yield from ordinal_words(text)


def _first(found: list[Quantity]) -> str:
    return next((q.text for q in reversed(found) if q.result), found[0].text)


def _opens_with(text: str, quantity: Quantity) -> bool:
    return bool(_OPENING.fullmatch(text[: quantity.start]))


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
    name = _stem((unit[1] or unit[2]).lower()) if unit else (sign if sign in _UNITS else "")
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


def _stem(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ches", "shes", "xes", "sses"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _with_point(match: re.Match[str]) -> str:
    return match[0].replace(",", ".")
