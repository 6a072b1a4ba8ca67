"""Rows of a file -> checked items of a benchmark."""

import dataclasses
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.extract import options
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind, Stated
from kdstudy.records import Example, content_id

_LETTERS = "ABCDE"
_QUESTION = ("instruction", "question", "prompt")
_CONTEXT = ("input", "context")
_TEXTS = ("references", "output", "answer")
_IDS = ("id", "example_id")
_EQUATION = ("equation", "Equation", "lEquations")
_WORKINGS = ("output", "rationale", "solution")
# How GSM8K's authors end a worked answer.
_WORKED = "####"
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
# How the sets of LLM-Adapters name the labels that an item offers.
_FORMAT = re.compile(r"Answer format:\s*(\S+)\s*$")


class Row(NamedTuple):
    """A row and its place, such as `row 3` or `line 7`, for error messages."""

    place: str
    content: Any


class _Malformed(Exception):
    """What is wrong with a row."""


def parse(data: bytes, where: str, *, lines: bool) -> list[Row]:
    """Return the rows of a JSON list, or of JSON Lines; a byte order mark is left out.

    Args:
        data: The file's bytes.
        where: Its path, for error messages.
        lines: One object per line; blank lines are skipped.

    Raises:
        InputError: It is not UTF-8, not JSON, or no list. The line is named.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise InputError(
            f"{where}, line {line}: is not UTF-8 text ({e.reason})",
            remedy="save the file as UTF-8",
        ) from e
    if not lines:
        rows = _json(text, where, 1)
        if not isinstance(rows, list):
            raise InputError(
                f"{where}: is not a JSON list of rows",
                remedy="a file with one object per line must end in .jsonl",
            )
        return [Row(f"row {n}", row) for n, row in enumerate(rows, start=1)]
    # Not splitlines(): that also cuts at U+2028 and others, which JSON strings may hold.
    return [
        Row(f"line {n}", _json(content, where, n))
        for n, content in enumerate(text.split("\n"), start=1)
        if content.strip()
    ]


def from_rows(
    name: str,
    rows: Iterable[Any],
    kind: Kind,
    *,
    labels: Sequence[str] = (),
    version: str = "1",
    where: str = "",
) -> Benchmark:
    """Return a benchmark made of checked rows.

    A row is an object with `instruction` (or `question`, `prompt`), perhaps `input` (or `context`),
    and `answer`: a number, also at the end of a worked answer ("... #### 72"); one of the labels,
    in any case; or the letter or the text of an option. Letters need options in the question, as
    "Answer Choices: (A) ... (B) ...", or a list `options` (or `choices`), which is appended so.
    Of a free text `references` (or `output`, `answer`) is a text or a list of texts. A repeated
    question is kept; its id gets `-2`. An `id` of the file's own is kept in `Benchmark.stated`; of
    numbers, an `equation` or a worked answer (`output`, `rationale`, `solution`) in
    `Benchmark.worked`.

    Args:
        name: The benchmark's name.
        rows: `Row`s, or plain objects.
        kind: What the answers are.
        labels: What a choice's answer may be; empty for letters. A question that ends in "Answer
            format: label1/label2" offers only those.
        version: See `Benchmark`.
        where: The rows' origin, for error messages.

    Raises:
        InputError: There are no rows, or one is malformed; it is named.
    """
    where = where or name
    seen: Counter[str] = Counter()
    examples, chances, stated, worked = [], [], {}, {}
    for number, row in enumerate(rows, start=1):
        place, content = row if isinstance(row, Row) else Row(f"row {number}", row)
        try:
            example, offered = _example(content, kind, tuple(labels))
        except _Malformed as e:
            raise InputError(f"{where}, {place}: {e}") from e
        seen[example.id] += 1
        if seen[example.id] > 1:
            example = dataclasses.replace(example, id=f"{example.id}-{seen[example.id]}")
        examples.append(example)
        stated[example.id] = Stated(_own_id(content), _required(content, _QUESTION))
        chances.append(1 / offered if offered else 0.0)
        if kind == "number" and (shown := _worked(content, example.answer)):
            worked[example.id] = shown
    if not examples:
        raise InputError(f"{where}: a benchmark with no items")
    return Benchmark(
        name=name,
        version=version,
        kind=kind,
        labels=tuple(labels),
        chance=statistics.fmean(chances),
        examples=tuple(examples),
        stated=stated,
        worked=worked,
    )


def _example(row: Any, kind: Kind, labels: tuple[str, ...]) -> tuple[Example, int]:
    """Return an item, and how many answers it offers (0: any)."""
    if not isinstance(row, dict):
        raise _Malformed("is not a JSON object")
    fields: dict[str, Any] = {
        "instruction": _required(row, _QUESTION),
        "context": _optional(row, _CONTEXT),
    }
    name = _options_field(row, fields, kind, labels)
    texts = _append_options(fields, row[name], name, labels) if name else []
    asked = [text for text in (fields["instruction"], fields["context"]) if text]
    offered = 0
    if kind == "text":
        fields["references"] = _references(row)
        fields["answer"] = fields["references"][0]
    else:
        fields["answer"] = _gold(_required(row, ("answer",)), kind, labels, texts)
        offered = _checked_answer(fields["answer"], "\n\n".join(asked), kind, labels)
    try:
        "".join((*asked, fields["answer"], *fields.get("references", ()))).encode()
    except UnicodeEncodeError as e:
        raise _Malformed("holds half of a surrogate pair, which is no text") from e
    return Example(id=content_id(*asked), **fields), offered


def _gold(answer: str, kind: Kind, labels: tuple[str, ...], texts: list[str]) -> str:
    """Return the answer as items have it: a bare number, a label in its case, an option's letter.

    What is none of these comes back as it is, to be refused.
    """
    if kind == "number":
        bare = answer.rpartition(_WORKED)[2].strip()
        return bare.replace(",", "") if _THOUSANDS.fullmatch(bare) else bare
    if labels:
        return answer.lower() if answer.lower() in labels else answer
    # An option may itself be called "B".
    letters = dict(zip(_LETTERS, texts, strict=False))
    said = [letter for letter, text in letters.items() if text == answer]
    return said[0] if len(said) == 1 and answer not in letters else answer


def _checked_answer(answer: str, question: str, kind: Kind, labels: tuple[str, ...]) -> int:
    """Return how many answers the question offers, 0 for a number."""
    if kind == "number":
        if "/" in answer or numerals.value(answer) is None:
            raise _Malformed(f'"answer" is {answer!r}, not a number')
        return 0
    if labels:
        stated = _FORMAT.search(question)
        offered = tuple(stated[1].split("/")) if stated else labels
        strange = [name for name in offered if name not in labels]
        if strange or len(set(offered)) < len(offered):
            known = ", ".join(labels)
            raise _Malformed(f'"Answer format" is {stated[1]!r}, and the labels are {known}')
    else:
        offered = tuple(options(question))
        if list(offered) != list(_LETTERS[: len(offered)]) or len(offered) < 2:
            raise _Malformed(
                f"offers the options {', '.join(offered) or '(none)'}, not (A), (B) and so on "
                'after "Answer Choices:"'
            )
    if answer not in offered:
        raise _Malformed(f'"answer" is {answer!r}, and the item offers {", ".join(offered)}')
    return len(offered)


def _options_field(
    row: dict[str, Any], fields: dict[str, Any], kind: Kind, labels: tuple[str, ...]
) -> str:
    """Return the name of the field with an item's options, "" where it has none to append.

    `choices` is common enough to stand in files whose questions list them already.
    """
    if "options" in row:
        return "options"
    wanted = kind == "choice" and not labels and not _lists_options(fields)
    return "choices" if wanted and "choices" in row else ""


def _lists_options(fields: dict[str, Any]) -> bool:
    return any("answer choices" in fields[f].casefold() for f in ("instruction", "context"))


def _append_options(
    fields: dict[str, Any], given: Any, name: str, labels: tuple[str, ...]
) -> list[str]:
    """Put options behind the question and return their texts."""
    if labels:
        raise _Malformed('"options" is for answers that are letters, and there are labels')
    if not isinstance(given, list) or not 2 <= len(given) <= len(_LETTERS):
        raise _Malformed(f'"{name}" is not a list of 2 to {len(_LETTERS)} texts')
    texts = [_plain(option) for option in given]
    if not all(texts):
        raise _Malformed(f'"{name}" holds something that is empty or not a text')
    if _lists_options(fields):
        raise _Malformed('has "options", and its question lists "Answer Choices" already')
    listed = " ".join(f"({letter}) {text}" for letter, text in zip(_LETTERS, texts, strict=False))
    last = "context" if fields["context"] else "instruction"
    fields[last] += f" Answer Choices: {listed}"
    return texts


def _worked(row: dict[str, Any], gold: str) -> str:
    """Return what a row shows of how its answer is found; an equation as one with its result."""
    given = next((row[name] for name in _EQUATION if row.get(name)), None)
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    if isinstance(given, str):
        sides = [side.strip() for side in given.split("=")]
        sides = [side for side in sides if side.casefold() not in ("", "x")]
        return f"{sides[0]} = {gold}" if len(sides) == 1 else ""
    answer, mark, _ = _plain(row.get("answer")).rpartition(_WORKED)
    if mark:
        return answer.strip()
    return next((text for name in _WORKINGS if (text := _plain(row.get(name)))), "")


def _own_id(row: dict[str, Any]) -> str:
    given = next((row[name] for name in _IDS if row.get(name) is not None), "")
    return str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""


def _references(row: dict[str, Any]) -> tuple[str, ...]:
    name = next((name for name in _TEXTS if name in row), "output")
    given = row.get(name)
    texts = tuple(_plain(text) for text in (given if isinstance(given, list) else [given]))
    if not texts or not all(texts):
        raise _Malformed(f'"{name}" is missing, or holds something that is empty or not a text')
    return texts


def _required(row: dict[str, Any], names: tuple[str, ...]) -> str:
    name = next((name for name in names if name in row), names[0])
    text = _plain(row.get(name))
    if not text:
        raise _Malformed(f'"{name}" is missing, empty or not a text')
    return text


def _optional(row: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if row.get(name) is None or row[name] == "":
            continue
        if not isinstance(row[name], str):
            raise _Malformed(f'"{name}" is not a text')
        return row[name].strip()
    return ""


def _plain(value: Any) -> str:
    """Return a text without blanks at its ends, or a number or truth value as JSON writes it.

    NaN and infinity are neither: tables write them where there is nothing.
    """
    if isinstance(value, str):
        return value.strip()
    number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return json.dumps(value) if number else ""


def _json(text: str, where: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        at = line + e.lineno - 1
        raise InputError(
            f"{where}, line {at}: is not JSON text ({e.msg})",
            remedy="give a JSON list of rows, or one object per line in a file that ends in .jsonl",
        ) from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}, line {line}: is not JSON text ({e})") from e
