"""Contamination: test items that a training corpus holds. Never imports torch.

Two questions are compared as wholes, at three levels, each of which contains the one before:

- *exact*: equal but for white space at the ends;
- *normalised*: equal but for case, spacing, punctuation, the spelling of characters (Unicode NFKC)
  and thousands separators. Decimal points stay, and so do signs of arithmetic beside a number: "5 -
  3" is not "5 + 3", and "1.5" is not "15";
- *masked*: equal but for their numbers as well, in digits or spelled out in English ("twenty-five",
  "a hundred and five"; not "half", "dozen" or "third").

A question that is only a part of a longer prompt, options in another order and a paraphrase are not
found. Short formulas ("5 + 3 = ?") are all the same once their numbers are masked.
"""

import dataclasses
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from kdstudy.data.corpora import Source, raw_rows, to_example
from kdstudy.errors import InputError
from kdstudy.records import Contamination, Example, Overlap

Level = Literal["exact", "normalised", "masked"]
LEVELS: tuple[Level, ...] = ("exact", "normalised", "masked")
"""Levels of comparison, from the narrowest to the widest."""

_Keys = tuple[str, str, str]  # a question at each of LEVELS

_MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")  # NFKC alone makes 21/2 of 2½
# Each pattern starts with the characters it is about, which is what makes it quick.
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_SIGNS = ".,*/^%-"
_NOT_ARITHMETIC = re.compile(
    r",|\.(?!\d)|\.(?<=[^\W\d_]\.)"
    # No number behind it, even after a currency.
    r"|[-*/^](?! ?[$€£¥₹]? ?\.?\d)"
    # A hyphen or a dash behind a word; a single letter may be a variable.
    r"|-(?<=[^\W\d_]{2}-)|-(?<=[^\W\d_]{2} -)(?= )"
    r"|[*/^](?<!\w.)(?<!\w .)"
)
_BETWEEN_NUMBERS = re.compile(r" (?<=\d )(?=\.?\d)")

_ONES = "zero|one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SMALL = rf"\b(?:(?:{_TENS})(?: (?:{_ONES}))?|{_TEENS}|{_ONES})\b"
_SCALED = rf"\b(?:hundred|thousand|million|billion|trillion)\b(?:(?: and)? {_SMALL})?"
_DIGITS = r"\d+ \d+/\d+|(?:\d+(?:\.\d+)?|\.\d+)(?:/\d+)?"
_NUMBER = re.compile(
    r"(?=[\d.]|\b[abefhmnostz])"  # how a number can begin: three times as fast with it
    rf"(?:(?:{_DIGITS}|{_SMALL})(?: ?{_SCALED})*|(?:\ban? )?{_SCALED}(?: {_SCALED})*)"
)


class _Spelling(dict[int, str]):
    """str.translate's table: what each character becomes, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if category == "Pd" or char == "−":
            kept = "-"
        elif char == "\N{FRACTION SLASH}":
            kept = "/"
        elif category[0] in "LMN" or category in ("Sm", "Sc") or char in _SIGNS:
            kept = char
        else:
            kept = "" if category == "Cf" else " "
        self[code] = kept
        return kept


_SPELLING = _Spelling()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a corpus that can be trained on.

    Attributes:
        number: Its place in the source, from 1; blank lines do not count.
        raw: The row as the source has it.
        example: The row as kdstudy reads it.
    """

    number: int
    raw: dict[str, Any]
    example: Example


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        matches: One per test item that the corpus holds, benchmark by benchmark in item order; its
            `row` is the first that matches at the narrowest level.
        counts: Per benchmark its number of `items`, and how many of them occur at each of `LEVELS`
            or a narrower one.
        clean: Places (from 0) of the corpus rows that match no item at the level asked for.
    """

    matches: tuple[Contamination, ...]
    counts: dict[str, dict[str, int]]
    clean: tuple[int, ...]


def normalised(question: str) -> str:
    """Return a key that two questions share when they are equal at the level *normalised*."""
    return _normalised(_spaced(question))


def masked(question: str) -> str:
    """Return a key that two questions share when they are equal at the level *masked*."""
    return _masked(_spaced(question))


def overlaps(corpus: Iterable[Example], items: Sequence[Example]) -> list[tuple[str, Overlap, str]]:
    """Return how each test item's question occurs in a corpus.

    Args:
        corpus: Training rows.
        items: Test items.

    Returns:
        Per item, in order: its id, the narrowest level at which it occurs or `none`, and the id of
        the first corpus row that matches so ("" when none does).
    """
    rows = list(corpus)
    index = _index(_keys(row.question) for row in rows)
    found = []
    for item in items:
        overlap, place = _occurrence(_keys(item.question), index)
        found.append((item.id, overlap, "" if place is None else rows[place].id))
    return found


def audit(
    corpus: Sequence[Example], benchmarks: Mapping[str, Sequence[Example]], level: Level = "masked"
) -> Audit:
    """Compare a corpus with several benchmarks.

    Args:
        corpus: Training rows with ids of their own.
        benchmarks: Test items by the benchmark's name.
        level: A row that matches an item at this level or a narrower one is not clean.
    """
    keys = [_keys(row.question) for row in corpus]
    index, width = _index(keys), LEVELS.index(level)
    matches, counts, taken = [], {}, set()
    for name, items in benchmarks.items():
        overlaps = Counter[Overlap]()
        for item in items:
            key = _keys(item.question)
            # A key with nothing left of the question would match any other such.
            taken.update((i, k) for i, k in enumerate(key[: width + 1]) if k)
            overlap, place = _occurrence(key, index)
            overlaps[overlap] += 1
            if place is not None:
                row = corpus[place].id
                matches.append(
                    Contamination(benchmark=name, example_id=item.id, overlap=overlap, row=row)
                )
        nested = {lv: sum(overlaps[x] for x in LEVELS[: i + 1]) for i, lv in enumerate(LEVELS)}
        counts[name] = {"items": len(items), **nested}
    clean = tuple(
        place for place, key in enumerate(keys) if taken.isdisjoint(enumerate(key[: width + 1]))
    )
    return Audit(matches=tuple(matches), counts=counts, clean=clean)


def read(source: Source) -> tuple[list[Row], int]:
    """Return a corpus's rows in the source's order, and how many had no text to learn.

    The examples' ids are the rows' numbers.

    Raises:
        InputError: The file is malformed (its line or row is named) or holds no usable row.
    """
    rows, dropped = [], 0
    for number, (where, raw) in enumerate(raw_rows(source), start=1):
        example, _ = to_example(raw, where)
        if example is None:
            dropped += 1
            continue
        example = dataclasses.replace(example, id=str(number))
        rows.append(Row(number=number, raw=raw, example=example))
    if not rows:
        raise InputError(f"corpus {source.name}: holds no usable row")
    return rows, dropped


def write_rows(source: Source, rows: Sequence[Row], path: Path) -> None:
    """Write some rows of a corpus in its own format and order: lines as they are, or a JSON list.

    Raises:
        InputError: The file cannot be written, or is the corpus itself.
    """
    if source.path and path.resolve() == Path(source.path):
        raise InputError(f"{path}: is the corpus itself", remedy="write to another file")
    if source.path and not source.path.endswith(".jsonl"):
        text = json.dumps([row.raw for row in rows], indent=4, ensure_ascii=False) + "\n"
    else:
        text = "".join(f"{line}\n" for line in _lines(source, rows))
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror})") from e


def _lines(source: Source, rows: Sequence[Row]) -> Iterable[str]:
    if source.path is None:
        return [json.dumps(row.raw, ensure_ascii=False) for row in rows]
    lines = [ln for ln in Path(source.path).read_text("utf-8").split("\n") if ln.strip()]
    return [lines[row.number - 1] for row in rows]


def _keys(question: str) -> _Keys:
    spaced = _spaced(question)
    return question.strip(), _normalised(spaced), _masked(spaced)


def _normalised(spaced: str) -> str:
    return _BETWEEN_NUMBERS.sub("_", spaced).replace(" ", "")


def _masked(spaced: str) -> str:
    return _NUMBER.sub("#", spaced).replace(" ", "")


def _spaced(question: str) -> str:
    """Return the question in lower case and words one space apart, without punctuation."""
    text = question
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _MIXED.sub(" ", text))
    text = _THOUSANDS.sub("", text.casefold().translate(_SPELLING))
    text = _NOT_ARITHMETIC.sub(" ", " ".join(text.split()))
    return " ".join(text.split())


def _index(keys: Iterable[_Keys]) -> list[dict[str, int]]:
    """Return per level: key -> place of the first row that has it."""
    index: list[dict[str, int]] = [{} for _ in LEVELS]
    for place, key in enumerate(keys):
        for first, text in zip(index, key, strict=True):
            if text:
                first.setdefault(text, place)
    return index


def _occurrence(key: _Keys, index: list[dict[str, int]]) -> tuple[Overlap, int | None]:
    for level, first, text in zip(LEVELS, index, key, strict=True):
        if text in first:
            return level, first[text]
    return "none", None
