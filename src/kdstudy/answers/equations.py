"""The equations in a running text: which numbers it joins, by what, and what it says comes out."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.arithmetic import Expression, Step, expression

_MAX_OPERANDS = 64  # of one equation; longer ones are left out, as degenerate text mostly
_MAX_GAP = 100  # characters between two numbers of one equation
_MAX_WAIT = 120  # characters between an expression and the number that it comes to

NUMBER = re.compile(
    # Not in a word or an index (CO2, x_1), not the tail of 1.2.3, no ordinal.
    r"(?<![\w.])(?<!_\{)"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+[ ]+\d+/\d+(?![\d./])|\d+(?:\.\d+)?|\.\d+)"
    r"(?!\d|(?:st|nd|rd|th)\b)",
    re.ASCII,
)
"""A number without its sign in a text that is `numerals.plain`; a division is two of them."""

_SIGNS = {s: s for s in "+-*/^"} | {"×": "*", "·": "*", "÷": "/", "**": "^"}
_OPERATORS = {"plus": "+", "minus": "-", "times": "*", "x": "*"}
_OPERATORS |= {"multiplied by": "*", "divided by": "/"}
_OPERATORS |= dict.fromkeys(("of", "of the", "of his", "of her", "of their"), "of")
_RESULTS = (
    *("equals", "equal", "is", "are", "makes", "make", "making", "gives", "give", "giving"),
    *("leaves", "leave", "leaving", "totals", "yields", "yield", "comes to", "results in", "means"),
)
_WHOM = ("us", "you", "me", "him", "her", "them")
_HEDGES = ("equal to", "exactly", "about", "approximately", "only", "just", "a total of")
_GETS = ("get", "gets", "have", "has", "obtain", "find")
_LAST_WORDS = frozenset(
    words.split()[-1] for table in (_OPERATORS, _RESULTS, _WHOM, _HEDGES, _GETS) for words in table
)


def _any(phrases: Iterable[str]) -> str:
    longest_first = sorted(phrases, key=len, reverse=True)
    return rf"(?<![a-z])(?:{'|'.join(longest_first)})(?![a-z])".replace(" ", r"\s+")


# What may stand between a number and what is done with it: units, a few words, brackets. A single
# letter behind the digits is an unknown (5x + 3), not a unit.
_OTHER = ("and", "or", "so", "but", "then", "because", "since", "if", "when", "while", "which")
_NO_UNIT = _any((*_OTHER, "was", "were", "has", "have", *_OPERATORS, *_RESULTS))
_UNIT = (
    rf"[ \t]*(?:(?!{_NO_UNIT})[a-z]{{2}}[a-z'’-]*(?![a-z])|(?<=\s)[gmlhs](?![a-z])|[%°)]"
    r"|/[ \t]*(?:[gmlhs]|[a-z]{2,})(?![a-z]))"
)
_LINK = re.compile(
    rf"(?:{_UNIT}){{0,10}}(?:"
    rf"[ \t]*(?P<operator>\*\*|[-+*/^×·÷]|{_any(_OPERATORS)})[ \t]*"
    r"|\s*(?P<equals>=+|,?\s*(?:"
    rf"(?:and\s+)?(?:(?:which|that|this|it)\s+)?{_any(_RESULTS)}"
    rf"(?:\s+{_any(_WHOM)})?(?:\s+{_any(_HEDGES)})*"
    rf"|(?:to|we|you|he|she|they|I)\s+{_any(_GETS)}|for\s+a\s+total\s+of))\s*"
    r")(?P<open>[( ]*)(?P<minus>-?)",
    re.IGNORECASE,
)
_JUXTAPOSED = re.compile(r"\)*\(+(?P<minus>-?)")
_LEAD = re.compile(r"(?:^|(?<=[\s=:,;(]))(?P<open>(?:\([ ]*)*)(?P<minus>-?)$")

_VERB = re.compile(
    r"(?<![a-z])(?:(?P<add>add(?:ing|ed|s)?|sum\s+of)|(?P<take>subtract\w*|tak(?:es?|ing)|deduct\w*)"
    r"|(?P<differ>difference\s+(?:between|of))|(?P<multiply>multipl(?:y|ying|ied)|product\s+of)"
    r"|(?P<divide>divid(?:e|ing|ed)|quotient\s+of))[:,]?\s*(?:the\s+|up\s+)?[( ]*$",
    re.IGNORECASE,
)
_JOINS = {
    verb: (sign, re.compile(rf"[^.;:=?!\n,]*?(?:{words})[^.;:=?!\n,]*", re.IGNORECASE))
    for verb, sign, words in (
        ("add", "+", r"\b(?:and|to|plus|with)\b|,(?:\s*and\b)?"),
        ("take", "from", r"\bfrom\b"),
        ("differ", "-", r"\band\b"),
        ("multiply", "*", r"\b(?:by|and|with|times)\b"),
        ("divide", "/", r"\bby\b"),
    )
}
# How a text announces the result of an expression that it left open.
_ANNOUNCED = re.compile(r"(?:[=:]|\b(?:is|are|gets?|gives?|equals|leaves))\s*\(?-?$", re.IGNORECASE)
_CUT_BEFORE = re.compile(r"(?:[+*/^×÷·]|(?:\b[A-Za-z]|\))\s*-)[\s(]*-?$")
_CUT_AFTER = re.compile(r"[ \t)]*[-+*/^×÷·]")
_SENTENCE_START = re.compile(r"[.!?]\s+$|\n\s*$")
_SENTENCE_END = re.compile(r"\s*(?:[.!?](?!\d)|\n|$)")


class _Link(NamedTuple):
    """What joins a number to the one before it."""

    sign: str
    closed: int = 0
    opened: int = 0
    minus: bool = False
    glued: bool = False


@dataclass(slots=True)
class _Chain:
    """Numbers that a text joins: the sides of an equation, each as tokens.

    Attributes:
        lead: The text before the first number, back to the number before that.
        start: Where the first number starts; `end`: where the last one ends.
        reversible: The last side stands behind "=" rather than behind a word.
        may_wait: The result may come later in the text: this is not 10-15, 3/4 or 5 x 7.
        cut: It is the rest of something with an unknown, such as 3 + 5 of x + 3 + 5.
    """

    lead: str
    start: int
    end: int
    sides: list[list[str]]
    operands: int = 1
    reversible: bool = False
    may_wait: bool = False
    cut: bool = False

    def add(self, link: _Link, number: str) -> None:
        if self.operands == 1:
            self._open()
        self.operands += 1
        if self.operands > _MAX_OPERANDS:
            return
        side = self.sides[-1]
        side += ")" * min(link.closed, side.count("(") - side.count(")"))
        if link.sign == "from":
            self.may_wait = True
            side[:] = [number, "-", *side]
            return
        if link.sign in ("=", "is"):
            self.reversible = link.sign == "="
            self.sides.append(side := [])
        else:
            self.may_wait |= not link.glued or link.opened > 0 or "(" in side
            side.append(link.sign)
        side += "(" * link.opened + "-" * link.minus
        side.append(number)

    def lone(self) -> str:
        """Return the only number of a chain, with its sign."""
        self._open()
        return _lone(self.sides[0])

    def _open(self) -> None:
        """Read what stands right before the first number: brackets, a sign, an equals sign."""
        lead = _LEAD.search(self.lead[-8:])
        if lead:
            self.sides[0][:0] = [*"(" * lead["open"].count("("), *lead["minus"]]
        self.may_wait = self.lead.rstrip(" (-").endswith("=")
        self.cut = bool(_CUT_BEFORE.search(self.lead[-16:]))


def equations(text: str) -> Iterator[Step]:
    """Yield the operations that a text states with their results, as often as it does.

    Args:
        text: A `numerals.plain` text without currency signs, markup and list markers.
    """
    waiting: tuple[Expression, int] | None = None
    for chain in _chains(text):
        if chain.operands > _MAX_OPERANDS:
            waiting = None
        elif chain.operands > 1:
            found, left_open = _read(chain)
            yield from found
            waiting = (left_open, chain.end) if left_open else None
        elif waiting:
            number = chain.lone()
            if _comes_to(text, waiting, number, chain):
                yield from waiting[0].steps(number)
            waiting = None


def _chains(text: str) -> Iterator[_Chain]:
    chain: _Chain | None = None
    end = 0
    for match in NUMBER.finditer(text):
        start = match.start()
        gap = text[end:start]
        end = match.end()
        number = canonical(match[0])
        if text[end : end + 1] == "%":
            number += "%"
        link = _link_in(chain, gap) if chain and len(gap) <= _MAX_GAP else None
        if chain and link:
            chain.add(link, number)
            chain.end = end
        else:
            if chain:
                yield chain
            chain = _Chain(gap, start, end, [[number]])
    if chain:
        yield chain


def _link_in(chain: _Chain, gap: str) -> _Link | None:
    """Return what joins a number to a chain; None when it begins another one."""
    if _may_link(gap):
        link = _link(gap)
        if link and link.sign == "of":
            side = chain.sides[-1]
            share = side[-1].endswith("%") or side[-2:-1] == ["/"]  # 20% of, 2/3 of
            link = link._replace(sign="*") if share else None
        if link:
            return link
    return _verbal_link(chain, gap)


def _may_link(gap: str) -> bool:
    """Return whether the last word or sign of a gap can join numbers: most gaps are prose."""
    tail = gap.rstrip("( \t\n")
    if not tail or not tail[-1].isalpha():
        return tail[-1:] in ("", ")", "=") or tail[-1] in _SIGNS
    return tail[-20:].split()[-1].lower() in _LAST_WORDS


@lru_cache(maxsize=2**13)
def _link(gap: str) -> _Link | None:
    if match := _JUXTAPOSED.fullmatch(gap):  # 2(3 + 4)
        return _Link("*", gap.count(")"), gap.count("("), bool(match["minus"]))
    match = _LINK.fullmatch(gap)
    if not match:
        return None
    operator, equals = match["operator"], match["equals"]
    before = match.start("operator" if operator else "equals")
    word = " ".join((operator or equals).lower().split())
    sign = _SIGNS.get(word) or _OPERATORS[word] if operator else "=" if "=" in word else "is"
    closed, opened = gap[:before].count(")"), match["open"].count("(")
    glued = word == "x" or gap in ("-", "/")
    return _Link(sign, closed, opened, bool(match["minus"]), glued)


def _verbal_link(chain: _Chain, gap: str) -> _Link | None:
    """Return what a verb before the chain makes of the gap: subtract 13 FROM 33."""
    if len(chain.sides) > 1:
        return None
    verb = _verb(chain.lead[-40:])
    if not verb or (chain.operands > 1 and verb != "add"):  # only a sum may go on
        return None
    sign, joins = _JOINS[verb]
    return _Link(sign) if joins.fullmatch(gap) else None


@lru_cache(maxsize=2**13)
def _verb(lead: str) -> str:
    match = _VERB.search(lead)
    return match.lastgroup or "" if match else ""


def _read(chain: _Chain) -> tuple[list[Step], Expression | None]:
    """Return the steps of a chain, and its expression when that has no result yet."""
    if chain.cut:
        return [], None
    sides = chain.sides
    found: list[Step] = []
    read = [expression(tuple(side)) if len(side) > 2 else None for side in sides]
    for place, whole in enumerate(read):
        if whole is None:
            continue
        result = _result(whole, sides[place + 1 :])
        if not result and 0 < place == len(sides) - 1 and chain.reversible:
            result = _lone(sides[place - 1])  # 8 = 5 + 3
        if result:
            found += whole.steps(result)
    return found, read[0] if chain.may_wait and len(sides) == 1 else None


def _result(whole: Expression, after: Sequence[Sequence[str]]) -> str:
    """Return what an expression comes to, given the sides behind it; "" when none says."""
    if not after:
        return ""
    first = after[0][0]
    if not _lone(after[0]) and whole.value_is(first):
        return first  # 2 + 3 = 5 + 1 = 6
    stated = next((number for side in after if (number := _lone(side))), "")
    if stated or len(after[-1]) != 3 or after[-1][1] != "/":
        return stated
    return canonical("".join(after[-1]))  # 1/3 + 1/3 = 2/3


def _lone(side: Sequence[str]) -> str:
    """Return the number that a side consists of, or ""."""
    if len(side) == 1:
        return side[0].removesuffix("%")
    tokens = [token for token in side if token not in "()"]
    if len(tokens) == 1 or (len(tokens) == 2 and tokens[0] == "-" != tokens[1]):
        return "".join(tokens).removesuffix("%")
    return ""


def _comes_to(text: str, waiting: tuple[Expression, int], number: str, chain: _Chain) -> bool:
    """Return whether a number behind an expression reads as its result."""
    whole, end = waiting
    gap = text[end : chain.start]
    if len(gap) > _MAX_WAIT or _CUT_AFTER.match(gap):
        return False
    alone = _SENTENCE_START.search(gap) and _SENTENCE_END.match(text, chain.end)
    return bool(whole.value_is(number) or _ANNOUNCED.search(gap) or alone)


@lru_cache(maxsize=2**14)
def canonical(number: str) -> str:
    """Return the canonical spelling of a number or a fraction; "" for far too many digits."""
    if "/" not in number:
        return numerals.decimal("0" + number)
    found = list(numerals.numerals(number))
    return found[0].text if len(found) == 1 else ""
