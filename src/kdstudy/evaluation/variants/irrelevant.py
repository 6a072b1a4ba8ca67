"""The same question with a true sentence before its last one that has nothing to do with it."""

import dataclasses
import functools
import re
from importlib import resources
from random import Random

from kdstudy.data.synthetic_wording import pick
from kdstudy.evaluation.variants.base import Change, LeftOut
from kdstudy.records import Example

# A sentence's end: none after a title or a single letter, and none inside a number.
_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])\s?[.!?][\"'’”]?\s+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_NUMBER = re.compile(r"\d+")
_COMMON = {"and", "are", "does", "for", "from", "has", "have", "its", "not", "that", "the", "was"}


def adding(number: bool) -> Change:
    """Return what puts a sentence of `facts.txt` in: one with a number in digits, or without."""

    def change(item: Example, worked: str, rng: Random) -> Example:
        text = item.question
        if item.context:
            raise LeftOut("its question is in two parts")
        words = _stems(text)
        there = {float(n) for n in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))}
        there |= {float(item.answer)}
        fitting = [
            fact
            for fact in _facts()[number]
            if not words & _stems(fact) and not there & {float(n) for n in _NUMBER.findall(fact)}
        ]
        if not fitting:
            raise LeftOut("every sentence has a word or a number of the question")
        ends = [m.end() for m in _END.finditer(text) if text[m.end() :].strip()]
        at = ends[-1] if ends else 0
        return dataclasses.replace(item, instruction=f"{text[:at]}{pick(rng, fitting)} {text[at:]}")

    return change


def _stems(text: str) -> set[str]:
    """Return the words of a text but the commonest, without the ends of plurals."""
    words = {word.casefold() for word in _WORD.findall(text)} - _COMMON
    return {word.removesuffix("s") for word in words}


@functools.cache
def _facts() -> dict[bool, list[str]]:
    lines = resources.files(__package__).joinpath("facts.txt").read_text(encoding="utf-8")
    rows = lines.splitlines()[1:]
    return {number: [r[2:] for r in rows if r[0] == sign] for number, sign in ((0, "-"), (1, "#"))}
