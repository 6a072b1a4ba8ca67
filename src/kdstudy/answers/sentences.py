"""Which number of a sentence is its answer."""

import re
from collections.abc import Iterator

from kdstudy.answers.number_words import number_words, ordinal_words
from kdstudy.answers.numerals import Numeral
from kdstudy.answers.quantities import Asked, Quantity, stem

_OPENING = re.compile(
    r"(?:[\W_]|\b(?:about|around|approximately|exactly|only|just|roughly|nearly|almost|over|still"
    r"|therefore|thus|then|simply|a total of|the number|equal to|indeed|an?|the|text|math[a-z]+"
    r"|probably|likely|most|certainly|definitely|clearly|to be|given by|[a-z](?= ?=))\b)*",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"(?<=[\w.,%°] )\([^()]*\)")
_PART_OF = re.compile(
    r"(?:\bout of|\bof (?:the|his|her|their|its|all|these|those)|(?:%| percent) of)\s*[$€£₹]?$",
    re.IGNORECASE,
)
_ROUNDED = re.compile(
    r"[,(]\s*(?:or\s+)?(?:nearly|almost|about|around|roughly|approximately|close to)\s+[$€£₹]?$",
    re.IGNORECASE,
)
_RESTATED = re.compile(r"\b(?:which|that) (?:is|equals|makes)\b|\bor\b|=", re.IGNORECASE)
_REASON = re.compile(
    r"\b(?:because|since|as (?:you|he|she|they|it|we|there)|given that)\b", re.IGNORECASE
)


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
    opens = not whole_sentence and bool(found) and _opens_with(text, found[0])
    if opens and (not apart or len(found) == 1):
        return _first(found)
    new = {quantity.text for quantity in found} - question.numbers
    if opens:
        # "The answer is:\n\n96 pears fill 12 boxes."
        return new.pop() if len(new) == 1 else _first(found)
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
    return _concluded(text, _told(text, found, question), question)


def _told(text: str, found: list[Quantity], question: Asked) -> list[Quantity]:
    """Return the numbers without asides, as far as others remain.

    Asides stand in brackets, are the whole of a part ("9 of the 12"), or a percentage that is not
    asked for.
    """
    first = found[0]
    asides = [span.span() for span in _BRACKETS.finditer(text)]
    for is_aside in (
        lambda q: any(begin < q.start < end for begin, end in asides),
        lambda q: not q.result and bool(_PART_OF.search(text[: q.start])),
        lambda q: q.unit in ("%", "percent") and not question.percent,
        # "39, nearly 40"; but 12.6 is rounded where things are counted.
        lambda q: first.text.isdecimal() and bool(_ROUNDED.search(text[: q.start])),
    ):
        found = [q for q in found if not is_aside(q)] or found
    return found


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
        stems = {stem(word.strip(".,;:!?*")) for word in behind}
        if number.text not in ("1", *question.numbers) and stems & question.things:
            yield number
    if question.place:
        yield from ordinal_words(text)


def _first(found: list[Quantity]) -> str:
    return next((q.text for q in reversed(found) if q.result), found[0].text)


def _opens_with(text: str, quantity: Quantity) -> bool:
    return bool(_OPENING.fullmatch(text[: quantity.start]))
