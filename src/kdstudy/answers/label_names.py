"""How a benchmark's labels are written, by the benchmark and in free text."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from kdstudy.answers import numerals
from kdstudy.answers.quantities import QUESTIONS_CACHED

_NUMBERED = re.compile(r"([^\W\d_]+)(\d+)")
TRUTH = {"true": True, "yes": True, "false": False, "no": False}
NOUNS = "number|no|option|choice|answer|solution|ending"
RANKS = ("first", "second", "third", "fourth", "fifth")
_CARDINALS = ("one", "two", "three", "four", "five")
_FORMAT = re.compile(r"\banswer format\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a benchmark's labels are written.

    Attributes:
        labels: The labels.
        stem: What stands before the number; empty unless labels are a word and a number each.
        released: Where the released code finds one.
        free: Where one is named in free text.
        names: What `free` finds, in lower case -> label: a number, a letter, a word.
    """

    labels: tuple[str, ...]
    stem: str
    released: re.Pattern[str]
    free: re.Pattern[str]
    names: dict[str, str]


@lru_cache(maxsize=64)
def spelling_of(labels: tuple[str, ...]) -> Spelling:
    parts = [_NUMBERED.fullmatch(label) for label in labels]
    stems = {part[1] for part in parts if part}
    truths = {TRUTH.get(label): label for label in labels}
    known = labels
    if all(parts) and len(stems) == 1:
        (stem,) = stems
        noun = rf"(?:{stem}|option|choice)"
        free = (
            rf"(?<![^\W_])(?:{noun}[ \t*_`#-]{{0,3}}[(\[{{]?(?:(?P<number>\d+)(?![\d%]|\.\d)"
            rf"|(?P<letter>(?-i:[A-E]))(?![\w'])|(?P<word>{'|'.join(_CARDINALS)})(?![^\W_]))"
            rf"|(?P<rank>{'|'.join(RANKS)}|[1-5](?:st|nd|rd|th))\s+{noun}(?![^\W_]))"
        )
        names = {
            name: label
            for part, label in zip(parts, labels, strict=True)
            for name in _names(int(part[2]))
        }
        if stem == "answer":
            known = tuple(f"answer{n}" for n in range(1, 6))
    elif None not in truths:
        # Yes and no answer only as the beginning of a statement: "there is no evidence".
        stem, free = "", r"(?<![^\W_])(true|false)(?![^\W_])"
        names = {word: truths[TRUTH[word]] for word in ("true", "false") if TRUTH[word] in truths}
    else:
        longest = sorted(map(re.escape, labels), key=len, reverse=True)
        stem, free = "", rf"(?<![^\W_])({'|'.join(longest)})(?![^\W_])"
        names = {label.lower(): label for label in labels}
    released = re.compile("|".join(map(re.escape, known)))
    return Spelling(labels, stem, released, re.compile(free, re.IGNORECASE), names)


def _names(number: int) -> list[str]:
    """Return how the option of a number is called: 2, b, two, second, 2nd."""
    if not 1 <= number <= len(RANKS):
        return [str(number)]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
    names = [str(number), "abcde"[number - 1], _CARDINALS[number - 1], RANKS[number - 1]]
    return [*names, f"{number}{ending}"]


@lru_cache(maxsize=QUESTIONS_CACHED)
def offered_labels(question: str, labels: tuple[str, ...]) -> dict[str, str]:
    """Return label -> text of the options that a question lists; all labels when it lists none."""
    spelling = spelling_of(labels)
    if spelling.stem:
        options = _FORMAT.split(numerals.plain(question))[0]
        parts = re.split(rf"\b{spelling.stem}\s?(\d+)\s*:", options, flags=re.IGNORECASE)
        listed = zip(parts[1::2], parts[2::2], strict=True)
        found = {spelling.names.get(n, ""): text.strip() for n, text in listed}
        found.pop("", None)
        if found:
            return found
    return dict.fromkeys(labels, "")


def names_of(label: str) -> list[str]:
    numbered = _NUMBERED.fullmatch(label)
    return _names(int(numbered[2])) if numbered else []


def are_truths(labels: Iterable[str]) -> bool:
    return all(label in TRUTH for label in labels)


def named_label(match: re.Match[str], spelling: Spelling) -> str:
    return spelling.names.get(match[match.lastgroup or 1].lower(), "")
