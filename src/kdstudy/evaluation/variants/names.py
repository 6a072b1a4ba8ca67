"""The same question with other people's names in it."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from random import Random

from kdstudy.data.synthetic_wording import pick
from kdstudy.evaluation.variants.base import LeftOut
from kdstudy.records import Example

# A capital before or behind a name makes it a part of another: Lake Mary, Mary Street, Mr. Paul.
_WORD = re.compile(r"[^\W\d_]+")
# An apostrophe counts where no s is behind it.
_CALLED = re.compile(r"(?P<word>[^\W\d_]+)(?P<behind>(?:['’](?!\s?s\b|\w))?)")
_BEFORE = re.compile(r"(?P<word>\S+)\s+$")
_BEHIND = re.compile(r"-|\s+(?P<word>[A-Z]\w*)")
_OF_LETTERS = re.compile(
    r"\bletters\b.*\bnames?\b|\bnames?\b.*\bletters\b", re.IGNORECASE | re.DOTALL
)
_TITLES = {"mr", "mrs", "ms", "miss", "dr", "st", "saint", "uncle", "aunt", "professor", "lake"}
_SHORT_FORM = 3


def change(item: Example, worked: str, rng: Random) -> Example:
    """Return the item with another first name for each that it has, she for she and he for he.

    A name is one of `names.txt`, with a capital, and no part of a longer name; it is changed
    wherever it stands, or nowhere.

    Raises:
        LeftOut: There is no such name, or two that may be of one person, such as Dan and Danny.
    """
    text = item.question
    if item.context:
        raise LeftOut("its question is in two parts")
    if _OF_LETTERS.search(text):
        raise LeftOut("it asks for the letters of a name")
    there = list(dict.fromkeys(_names(text)))
    if not there:
        raise LeftOut("no word that is surely a person's first name")
    starts = [name[:_SHORT_FORM].casefold() for name in there]
    if len(set(starts)) < len(starts):
        raise LeftOut("two names that may be one person's")
    taken = {word.casefold() for word in _WORD.findall(text)}
    taken |= {word[:_SHORT_FORM] for word in taken}
    other: dict[str, str] = {}
    for name in there:
        other[name] = pick(rng, [n for n in _lists()[_of()[name]] if _usable(n, taken)])
        taken |= {other[name].casefold(), other[name][:_SHORT_FORM].casefold()}
    return dataclasses.replace(item, instruction=_renamed(text, other))


def _usable(name: str, taken: set[str]) -> bool:
    short = name[:_SHORT_FORM].casefold()
    return not name.endswith("s") and short not in taken and name.casefold() not in taken


def _names(text: str) -> Iterator[str]:
    """Yield the first names in a text; none that is a part of a longer one somewhere in it."""
    found = [m for m in _WORD.finditer(text) if m[0] in _of()]
    parts = {m[0] for m in found if _is_part(text, m)}
    yield from (m[0] for m in found if m[0] not in parts)


def _is_part(text: str, match: re.Match[str]) -> bool:
    """Return whether a name has a hyphen, a title or another capitalised word at its side."""
    behind = _BEHIND.match(text, match.end())
    if behind and behind["word"] != "I":
        return True
    before = _BEFORE.search(text, 0, match.start())
    word = before["word"] if before else ""
    capital = word[:1].isupper() and word[-1:].isalpha() and word.casefold() not in _OPENERS.split()
    return capital or word.rstrip(".").casefold() in _TITLES or text[: match.start()].endswith("-")


_OPENERS = """
a after also although altogether and as at because before but by can could did does during each
every everyday finally first for from has how however if in initially is last later like next
now of on once originally recently since so suppose that the then this though to today together
tonight unlike until what when while who will with would yesterday
"""
"""Words before a name that have their capital from the sentence."""


def _renamed(text: str, other: Mapping[str, str]) -> str:
    """Return a text with each name's new one, also where it stands in small letters."""
    small = {name.casefold(): new for name, new in other.items()}

    def new(match: re.Match[str]) -> str:
        word, behind = match.group("word", "behind")
        name = small.get(word.casefold())
        if name is None or not (word in other or word.islower()):
            return match[0]
        # James' apples are Peter's.
        behind += "s" if behind and word.endswith("s") else ""
        return (name.casefold() if word.islower() else name) + behind

    return _CALLED.sub(new, text)


@functools.cache
def _lists() -> dict[str, Sequence[str]]:
    lines = resources.files(__package__).joinpath("names.txt").read_text(encoding="utf-8")
    rows = (line.split(": ") for line in lines.splitlines() if not line.startswith("#"))
    return {kind: names.split(", ") for kind, names in rows}


@functools.cache
def _of() -> dict[str, str]:
    return {name: kind for kind, names in _lists().items() for name in names}
