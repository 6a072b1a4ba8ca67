"""What a benchmark is, and the file-backed source that most of them share."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from kdstudy.errors import InputError
from kdstudy.evaluate import numerals
from kdstudy.evaluate.extract import Rule, choice, label, number, same_number
from kdstudy.evaluate.rouge import rouge_l
from kdstudy.records import Example, content_id

Kind = Literal["number", "choice", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A test set with its answers and the way they are read and graded.

    Attributes:
        name: Registered name, such as `gsm8k`.
        version: Changes whenever the same file would be read or graded differently.
        kind: `number`, `choice` or `text`: a free text that is rated, never right or wrong.
        labels: What a choice's answer may be, such as `("option1", "option2")`; empty for letters
            that stand before the options.
        chance: Expected accuracy of guessing, as a fraction; 0 for numbers and texts.
        examples: The items in file order; ids are unique.
    """

    name: str
    version: str
    kind: Kind
    labels: tuple[str, ...] = ()
    chance: float
    examples: tuple[Example, ...]

    def extract(self, completion: str, example: Example, rule: Rule, *, cut: bool = False) -> str:
        """Return the answer in a completion, "" when there is none; see `extract.number`.

        A free text is its own answer.
        """
        if self.kind == "text":
            return completion.strip()
        if self.labels:
            return label(completion, rule, self.labels, example.question, cut=cut)
        find = number if self.kind == "number" else choice
        return find(completion, rule, example.question, cut=cut)

    def grade(self, extracted: str, example: Example, rule: Rule) -> float:
        """Return the quality of an extracted answer: 1 when it is the gold one, else 0.

        Under `reference` numbers may differ by 0.001; `corrected` is `numerals.equal`. Of a free
        text it is ROUGE-L, whatever the rule.
        """
        if self.kind == "text":
            return rouge_l(extracted, example.references)
        return float(self._right(extracted, example, rule))

    def _right(self, extracted: str, example: Example, rule: Rule) -> bool:
        if self.kind == "choice":
            return extracted == example.answer
        if rule == "reference":
            return same_number(extracted, example.answer, rule)
        return numerals.equal(extracted, example.answer)

    @property
    def majority(self) -> float:
        """Accuracy, as a fraction, of always giving the commonest gold answer; NaN for texts."""
        if self.kind == "text":
            return math.nan
        golds = Counter(
            e.answer if self.kind == "choice" else float(e.answer) for e in self.examples
        )
        return max(golds.values()) / len(self.examples)


class Source(Protocol):
    """Where a benchmark comes from."""

    name: str

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return the sha256 of the content, in hexadecimal, parsing as little as possible."""
        ...

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """A JSON list of rows at `<data_dir>/<family>/<folder>/test.json`, as `to_examples` takes them.

    Folder names are compared without case.
    """

    name: str
    family: str
    folder: str
    kind: Kind = "number"
    chance: float = 0.0
    version: str = "1"

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return the sha256 of the file's bytes, in hexadecimal.

        Raises:
            InputError: The file is not there or cannot be read.
        """
        return hashlib.sha256(_read(self._path(data_dir))).hexdigest()

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark.

        Raises:
            InputError: The file is not there, is empty or has a malformed row.
        """
        path = self._path(data_dir)
        try:
            rows = json.loads(_read(path))
        except ValueError as e:
            raise InputError(f"{path}: is not JSON text ({e})") from e
        if not isinstance(rows, list):
            raise InputError(f"{path}: is not a JSON list of rows")
        return Benchmark(
            name=self.name,
            version=self.version,
            kind=self.kind,
            chance=self.chance,
            examples=to_examples(rows, self.kind, str(path)),
        )

    def _path(self, data_dir: Path | None) -> Path:
        remedy = "set --data-dir or the environment variable KDSTUDY_DATA to the folder that holds "
        remedy += f"{self.family}/{self.folder}/test.json"
        if data_dir is None:
            raise InputError(f"{self.name}: no data folder is set", remedy=remedy)
        folder: Path | None = Path(data_dir)
        for part in (self.family, self.folder):
            folder = folder and _child(folder, part)
        if folder is None or not (folder / "test.json").is_file():
            where = Path(data_dir) / self.family / self.folder / "test.json"
            raise InputError(f"{self.name}: there is no {where}", remedy=remedy)
        return folder / "test.json"


def to_examples(rows: list[Any], kind: Kind, where: str) -> tuple[Example, ...]:
    """Return checked examples with unique ids.

    Args:
        rows: Objects with `instruction`, `answer` and perhaps `input`, which is appended.
        kind: What the gold answers must be: numbers, or letters A-E.
        where: The rows' origin, for error messages.

    Raises:
        InputError: There are no rows, or one is malformed.
    """
    if not rows:
        raise InputError(f"{where}: a benchmark with no items")
    seen: Counter[str] = Counter()
    examples = []
    for place, row in enumerate(rows, start=1):
        problem = _problem(row, kind)
        if problem:
            raise InputError(f"{where}, row {place}: {problem}")
        given = row.get("input", "").strip()
        instruction = row["instruction"].strip()
        identity = content_id(instruction, given) if given else content_id(instruction)
        seen[identity] += 1
        if seen[identity] > 1:
            identity = f"{identity}-{seen[identity]}"
        answer = row["answer"].strip()
        examples.append(Example(id=identity, instruction=instruction, context=given, answer=answer))
    return tuple(examples)


def _problem(row: Any, kind: Kind) -> str:
    """Return what is wrong with a row, "" when nothing is."""
    if not isinstance(row, dict):
        return "is not a JSON object"
    for field in ("instruction", "answer"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            return f'"{field}" is missing, empty or not a text'
    if not isinstance(row.get("input", ""), str):
        return '"input" is not a text'
    answer = row["answer"].strip()
    if kind == "choice" and answer not in tuple("ABCDE"):
        return f'"answer" is {answer!r}, not a letter from A to E'
    if kind == "number" and ("/" in answer or numerals.value(answer) is None):
        return f'"answer" is {answer!r}, not a number'
    try:
        (row["instruction"] + row.get("input", "")).encode()
    except UnicodeEncodeError:
        return '"instruction" or "input" holds half of a surrogate pair'
    return ""


def _child(folder: Path, name: str) -> Path | None:
    """Return the folder's entry of that name; an exact match wins over one in another case."""
    if (folder / name).is_dir():
        return folder / name
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return next((e for e in entries if e.name.casefold() == name.casefold() and e.is_dir()), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
