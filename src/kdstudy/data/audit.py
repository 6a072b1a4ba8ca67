"""Contamination: test items that a training corpus holds. Never imports torch.

Two questions are compared as wholes, at three levels, each of which contains the one before:

- *exact*: equal but for white space at the ends;
- *normalised*: equal but for case, spacing, punctuation, the spelling of characters (Unicode NFKC)
  and thousands separators. Decimal points stay, and so do signs of arithmetic beside a number: "5 -
  3" is not "5 + 3", and "1.5" is not "15";
- *masked*: equal but for their numbers as well, in digits or spelled out in English ("twenty-five",
  "a hundred and five"; not "half", "dozen" or "third").

Of a conversation every turn of the user is compared, of a text without a prompt the whole. A
question that is only a part of a longer prompt, options in another order and a paraphrase are not
found. Short formulas ("5 + 3 = ?") are all the same once their numbers are masked.
"""

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from kdstudy.data import corpora, files, rewrite
from kdstudy.data.corpora import Source
from kdstudy.data.formats import questions
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
        example: The row as kdstudy reads it.
    """

    number: int
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
    index = _index(map(_asked, rows))
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
    keys = [_asked(row) for row in corpus]
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
        place
        for place, asked in enumerate(keys)
        if all(taken.isdisjoint(enumerate(key[: width + 1])) for key in asked)
    )
    return Audit(matches=tuple(matches), counts=counts, clean=clean)


def read(source: Source) -> tuple[list[Row], int]:
    """Return a corpus's rows in the source's order, and how many had no text to learn.

    The examples' ids are the rows' numbers.

    Raises:
        InputError: The file is malformed (its line or row is named) or holds no usable row.
    """
    rows, dropped = [], Counter[str]()
    for number, example, reason in corpora.read(source):
        if example is None:
            dropped[reason] += 1
        else:
            example = dataclasses.replace(example, id=str(number))
            rows.append(Row(number=number, example=example))
    corpora.require_rows(source, len(rows), dropped)
    return rows, dropped.total()


def matched(row: Example, item: Example) -> str:
    """Return what of a row is closest to a test item's question: the user's turn that asks it."""
    wanted, asked = _keys(item.question), questions(row)
    for level, key in enumerate(wanted):
        found = [text for text in asked if key and _keys(text)[level] == key]
        if found:
            return found[0]
    return row.question


def write_rows(source: Source, rows: Sequence[Row], path: Path) -> None:
    """Write some rows of a corpus as they are, in its own type and order.

    A folder's files become files of the same names in the folder `path`; what is no file (the Hub's
    rows, generated ones) becomes JSON Lines.

    Raises:
        InputError: The file cannot be written, is named as another type, or is the corpus itself.
    """
    numbers = {row.number for row in rows}
    if source.path is None:
        raw = (row for n, (_, row) in enumerate(corpora.raw_rows(source), 1) if n in numbers)
        rewrite.write_objects(raw, path)
        return
    given, first = Path(source.path), 1
    for shard in files.shards(given):
        out = path
        if given.is_dir():
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise InputError(f"{path}: cannot be written ({e.strerror})") from e
            out = path / shard.name
        if out.exists() and os.path.samefile(out, shard):
            raise InputError(f"{path}: is the corpus itself", remedy="write to another file")
        first += rewrite.write_some(shard, numbers, out, first)


def _asked(row: Example) -> list[_Keys]:
    """Return the keys of all that a corpus row asks."""
    return [_keys(text) for text in questions(row)]


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


def _index(rows: Iterable[list[_Keys]]) -> list[dict[str, int]]:
    """Return per level: key -> place of the first row that has it."""
    index: list[dict[str, int]] = [{} for _ in LEVELS]
    for place, keys in enumerate(rows):
        for key in keys:
            for first, text in zip(index, key, strict=True):
                if text:
                    first.setdefault(text, place)
    return index


def _occurrence(key: _Keys, index: list[dict[str, int]]) -> tuple[Overlap, int | None]:
    for level, first, text in zip(LEVELS, index, key, strict=True):
        if text in first:
            return level, first[text]
    return "none", None
