"""Training sets: find, pin by hash, read, check, split. Never imports torch."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdstudy.data import synthetic
from kdstudy.errors import InputError, KdstudyError
from kdstudy.records import Example, content_id, read_jsonl
from kdstudy.study.schema import CorpusRef

SYNTHETIC_ROWS = 2000
_SYNTHETIC_SEED = 0
# Corpora known by name, as files under the data folder.
_FILES = {
    "math10k": "math/train/math_10k.json",
    "math_standin": "math/train/math_standin.json",
    "commonsense15k": "commonsense/train/commonsense_15k.json",
    "commonsense_standin": "commonsense/train/commonsense_standin.json",
    "dolly": "instruct/dolly/train.jsonl",
}
_COLUMNS = "{instruction, output} (and input, answer), or {prompt, completion}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A corpus pinned to its bytes.

    Attributes:
        name: What reports call it.
        fingerprint: sha256 of the file, or `hub:<id>@<commit>:<split>`; part of every key.
        path: The file, or None.
        dataset, revision, split: The Hub data set, or None.
    """

    name: str
    fingerprint: str
    path: str | None = None
    dataset: str | None = None
    revision: str | None = None
    split: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A training set, split, with an account of every row.

    Attributes:
        train: Rows to learn from, in a seeded random order.
        validation: Rows that choose checkpoints.
        read: Rows in the source.
        dropped: How many rows were left out, by reason.
        repeated: Rows whose prompt and response stand in the source before (they are kept).
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    read: int
    dropped: dict[str, int]
    repeated: int


def names() -> list[str]:
    """Return the corpora known by name."""
    return ["synthetic", *_FILES]


def locate(ref: CorpusRef, base: Path, data_dir: Path | None, pins: dict[str, str]) -> Source:
    """Find a corpus and pin its bytes, reading a file once and the network at most once.

    Args:
        ref: The corpus as the study gives it.
        base: Folder that a relative `path` starts from: the study file's.
        data_dir: Folder of named corpora (`--data-dir` or `$KDSTUDY_DATA`), or None.
        pins: The store's memory of earlier answers (see `kdstudy.models.resolve.resolve`).

    Raises:
        InputError: Unknown name, no such file, or no such data set.
    """
    if ref.name == "synthetic":
        return Source(name="synthetic", fingerprint=f"{synthetic.fingerprint()}:{SYNTHETIC_ROWS}")
    if ref.dataset is not None:
        commit = _pin_dataset(ref.dataset, ref.revision, pins)
        return Source(
            name=ref.dataset,
            fingerprint=f"hub:{ref.dataset}@{commit}:{ref.split}",
            dataset=ref.dataset,
            revision=commit,
            split=ref.split,
        )
    path = base / Path(ref.path).expanduser() if ref.path else _named_file(ref.name or "", data_dir)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"corpus: {path}: {what}", remedy="check the path")
    try:
        with path.open("rb") as f:
            fingerprint = hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise InputError(f"corpus: {path}: cannot be read ({e.strerror})") from e
    return Source(name=ref.name or path.stem, fingerprint=fingerprint, path=str(path.resolve()))


def load(source: Source, *, rows: int | None, validation_rows: int, seed: int) -> Corpus:
    """Read, check and split a corpus; the split depends on the rows and the seed alone.

    Args:
        source: The pinned corpus.
        rows: Use a seeded choice of this many; None means all.
        validation_rows: How many of them to split off.
        seed: Seed of choice and split.

    Raises:
        InputError: A malformed row (its line is named), an empty corpus, or too few rows.
    """
    dropped: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    kept: list[Example] = []
    read = 0
    for where, raw in raw_rows(source):
        read += 1
        example, reason = to_example(raw, where)
        if example is None:
            dropped[reason] += 1
            continue
        seen[example.id] += 1
        if seen[example.id] > 1:
            example = dataclasses.replace(example, id=f"{example.id}-{seen[example.id]}")
        kept.append(example)
    if not kept:
        raise InputError(
            f"corpus {source.name}: holds no usable row",
            why=f"{read} rows were read, {sum(dropped.values())} of them without text to use",
            remedy=f"give rows with {_COLUMNS}",
        )
    kept.sort(key=lambda e: hashlib.sha256(f"{seed}:{e.id}".encode()).digest())
    kept = kept[:rows]
    if len(kept) <= validation_rows:
        raise InputError(
            f"corpus {source.name}: {len(kept)} rows, and validation_rows is {validation_rows}",
            why="nothing would be left to train on",
            remedy=f"set corpus.validation_rows to {max(1, len(kept) // 10)} or so",
        )
    return Corpus(
        train=tuple(kept[validation_rows:]),
        validation=tuple(kept[:validation_rows]),
        read=read,
        dropped=dict(sorted(dropped.items())),
        repeated=sum(n - 1 for n in seen.values()),
    )


def _named_file(name: str, data_dir: Path | None) -> Path:
    if name not in _FILES:
        raise InputError(
            f"corpus: unknown name '{name}'",
            remedy=f"known names: {', '.join(names())}; for a file of your own write "
            "`corpus: {path: my.jsonl}`, for a Hub data set `corpus: {dataset: org/name}`",
        )
    if data_dir is None:
        raise InputError(
            f"corpus {name}: no data folder is set",
            remedy=f"put the file at DIR/{_FILES[name]} and give --data-dir DIR (KDSTUDY_DATA)",
        )
    return data_dir / _FILES[name]


def raw_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield (where, row); `where` names file and line for error messages."""
    if source.dataset is not None:
        yield from _hub_rows(source)
    elif source.path is None:
        for i, row in enumerate(synthetic.corpus_rows(SYNTHETIC_ROWS, seed=_SYNTHETIC_SEED)):
            yield f"synthetic, row {i + 1}", row
    elif source.path.endswith(".jsonl"):
        for line, row in read_jsonl(Path(source.path)):
            yield f"{source.path}, line {line}", row
    else:
        yield from _json_rows(Path(source.path))


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 text (byte {e.start})") from e
    except json.JSONDecodeError as e:
        raise InputError(
            f"{path}, line {e.lineno}: is not JSON ({e.msg})",
            remedy="a file with one object per line must end in .jsonl",
        ) from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is JSON that cannot be read ({e})") from e
    if not isinstance(rows, list):
        raise InputError(f"{path}: is no JSON list of rows", remedy=f"give a list of {_COLUMNS}")
    for i, row in enumerate(rows):
        yield f"{path}, row {i + 1}", row


def _hub_rows(source: Source) -> Iterator[tuple[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        data: Iterable[Any] = datasets.load_dataset(
            source.dataset, revision=source.revision, split=source.split
        )
    except Exception as e:
        raise KdstudyError(
            f"corpus {source.dataset}: cannot be loaded ({type(e).__name__}: "
            f"{(str(e).splitlines() or [''])[0]})",
            remedy="check id, split and network, then run again",
        ) from e
    for i, row in enumerate(data):
        yield f"{source.dataset}, row {i + 1}", row


def to_example(row: Any, where: str) -> tuple[Example | None, str]:
    """Return (example, "") or (None, why it is dropped).

    Raises:
        InputError: The row is malformed; `where` is named.
    """
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not an object", remedy=f"give rows with {_COLUMNS}")
    if "instruction" in row and "output" in row:
        instruction, response = row["instruction"], row["output"]
        extra = row.get("input", "")
    elif "prompt" in row and "completion" in row:
        instruction, response, extra = row["prompt"], row["completion"], ""
    else:
        raise InputError(
            f"{where}: has the fields {', '.join(map(str, row)) or '(none)'}",
            remedy=f"give rows with {_COLUMNS}",
        )
    if not all(isinstance(v, str) for v in (instruction, response, extra)):
        raise InputError(f"{where}: prompt and response must be text")
    instruction = instruction.strip()
    if not instruction:
        return None, "empty prompt"
    if not response.strip():
        return None, "empty response"
    context = extra.strip()
    asked = (instruction, context) if context else (instruction,)
    answer = str(row.get("answer", ""))
    try:
        identity = content_id(*asked, response)
        answer.encode()
    except UnicodeEncodeError as e:
        raise InputError(f"{where}: holds half of a surrogate pair") from e
    example = Example(
        id=identity,
        instruction=instruction,
        context=context,
        response=response.strip(),
        answer=answer,
    )
    return example, ""


def _pin_dataset(dataset: str, revision: str | None, pins: dict[str, str]) -> str:
    key = f"datasets/{dataset}@{revision or 'main'}"
    if key not in pins:
        from huggingface_hub import HfApi

        try:
            pins[key] = HfApi().dataset_info(dataset, revision=revision, timeout=10).sha or ""
        except Exception as e:
            raise InputError(
                f"corpus: {dataset}: cannot be found on the Hub ({type(e).__name__})",
                remedy="check the id and the network, or give {path: file.jsonl}",
            ) from e
    return pins[key]
