"""Signs of a collapsed model in what it writes, and from where on they are alarms.

The limits are judgement, not theory: a report measures finished systems against them, training
measures a few texts as it goes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdstudy.analysis.intervals import wilson
from kdstudy.answers.extract import choice, label, number, options
from kdstudy.answers.repetition import repetition
from kdstudy.records import Example

HIGH_TRUNCATION = 0.10
LOW_PARSE_RATE = 0.80
HIGH_REPETITION = 0.20
"""Share of repeated word 4-grams (seq-rep-4); people's texts stay under a few percent."""

LENGTH_FACTOR = 2.0
"""Texts that are so many times as long as what they are compared with, or as short."""

Reader = Callable[[str, bool], str]
"""Text, and whether its budget cut it -> the answer in it, "" when there is none."""

_LABELS = re.compile(r"\banswer format\s*:\s*([\w-]+(?:/[\w-]+)+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text as it is looked at.

    Attributes:
        text: Its words.
        tokens: Its tokens, the end-of-sequence token included.
        cut: It did not end within its budget.
        read: Finds its answer; None where its question asks for none that could be read.
    """

    text: str
    tokens: int
    cut: bool
    read: Reader | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What some texts show.

    Attributes:
        texts: How many there are.
        tokens: Their mean length.
        cut: Share that did not end within the budget.
        repetition: Mean share of a text's word 4-grams that it holds before.
        parsed: Share from which an answer is read; None where too few questions ask for one.
    """

    texts: int
    tokens: float
    cut: float
    repetition: float
    parsed: float | None


def reader(example: Example) -> Reader | None:
    """Return what finds the answer to a corpus row's question, by the rule `corrected`.

    It is taken from the row's own response, which must give a label that the question lists under
    "Answer format:", an option's letter, or a number that it states as its answer: a mere number
    in a free text is no answer.
    """
    asked, gold = example.question, example.response
    listed = _LABELS.search(asked)
    if listed:
        labels = tuple(listed[1].casefold().split("/"))
        if label(gold, "corrected", labels, asked):
            return lambda text, cut: label(text, "corrected", labels, asked, cut=cut)
    if options(asked) and choice(gold, "corrected", asked):
        return lambda text, cut: choice(text, "corrected", asked, cut=cut)
    # As if cut, only a stated answer counts, and the line's end shows that the statement is over.
    if number(gold + "\n", "corrected", asked, cut=True):
        return lambda text, cut: number(text, "corrected", asked, cut=cut)
    return None


def signs(texts: Sequence[Text]) -> Signs:
    """Return what texts, at least one, show."""
    readable = [t for t in texts if t.read]
    parsed = None
    if len(readable) >= LOW_PARSE_RATE * len(texts):
        parsed = sum(bool(t.read(t.text, t.cut)) for t in readable if t.read) / len(readable)
    return Signs(
        texts=len(texts),
        tokens=sum(t.tokens for t in texts) / len(texts),
        cut=sum(t.cut for t in texts) / len(texts),
        repetition=sum(repetition(t.text) for t in texts) / len(texts),
        parsed=parsed,
    )


def departures(now: Signs, usual: Signs) -> Mapping[str, str]:
    """Return the signs that are out of the usual, in words, by name.

    Shares of a few texts are uncertain, so the near end of their Wilson 95% interval must be past
    the limit: of eight texts that takes three that are cut, or four that hold no answer.
    """
    found = {}
    tokens = f"texts of {now.tokens:.0f} tokens ({usual.tokens:.0f} expected)"
    if now.tokens > LENGTH_FACTOR * usual.tokens:
        found["long"] = tokens
    if now.tokens < usual.tokens / LENGTH_FACTOR:
        found["short"] = tokens
    if wilson(now.cut, now.texts)[0] > max(HIGH_TRUNCATION, usual.cut):
        found["cut"] = f"{now.cut:.0%} of texts without an end ({usual.cut:.0%} expected)"
    if now.repetition > usual.repetition + HIGH_REPETITION:
        found["repetition"] = f"repetition {now.repetition:.2f} ({usual.repetition:.2f} expected)"
    if None in (now.parsed, usual.parsed):
        return found
    if wilson(now.parsed, now.texts)[1] < min(LOW_PARSE_RATE, usual.parsed):
        found["parsed"] = f"an answer in {now.parsed:.0%} of texts ({usual.parsed:.0%} expected)"
    return found
