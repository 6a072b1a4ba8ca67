"""Training sets: find, pin by hash, read, check, split. Never imports torch."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from kdstudy.answers.extract import kind_of_gold
from kdstudy.data import files, synthetic
from kdstudy.data.formats import COLUMNS, CUT_OFF, REMEDY, needed_of, require_columns, to_example
from kdstudy.errors import InputError, KdstudyError
from kdstudy.records import Example

SYNTHETIC_ROWS = 2000
_SYNTHETIC_SEED = 0
_SYNTHETIC = {"synthetic": synthetic.STUDY_STYLE, "synthetic_varied": synthetic.PRETRAIN_STYLES}
"""Corpora that are drawn, and the wordings of their worked answers."""
# Corpora known by name, as files under the data folder.
_FILES = {
    "math10k": "math/train/math_10k.json",
    "math_standin": "math/train/math_standin.json",
    "commonsense15k": "commonsense/train/commonsense_15k.json",
    "commonsense_standin": "commonsense/train/commonsense_standin.json",
    "dolly": "instruct/dolly/train.jsonl",
}
_MOST_VALIDATION = 500
_COUNTED = ("rows", "unprompted", "chats", "unanswered", "worded")
_READER = 2  # raised when `to_example` takes or drops other rows: old counts are then forgotten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A corpus pinned to its bytes.

    Attributes:
        name: What reports call it.
        fingerprint: sha256 of the file (of names and hashes of a folder's), or
            `hub:<id>@<commit>:<split>`; part of every key.
        path: The file or folder, or None.
        kind: How it is read (`files.kind`); '' where there is no file. Part of every key.
        dataset, config, revision, split: The Hub data set, or None.
        columns: What its columns are called: see `formats.to_example`.
    """

    name: str
    fingerprint: str
    path: str | None = None
    kind: str = ""
    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What a corpus holds, known before a study runs.

    Attributes:
        rows: How many rows can be learnt from.
        unprompted: How many of them are text without a prompt.
        chats: How many of them are conversations.
        unanswered: How many of them have no answer of their own beside the text.
        worded: How many have one that is neither a number nor a capital letter.
        tags: Where the first row of each tag stands; empty where no column says tags.
    """

    rows: int
    unprompted: int
    chats: int
    unanswered: int
    worded: int
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A training set, split, with an account of every row.

    Attributes:
        train: Rows to learn from, in a seeded random order.
        validation: Rows that choose checkpoints.
        read: Rows in the source.
        dropped: How many rows were left out, by reason.
        repeated: Rows whose prompt and response stand in the source before (they are kept).
        shortened: Conversations that were kept up to the assistant's last message.
        places: Where each row stands, by its id: `rows.jsonl, line 3`.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    read: int
    dropped: dict[str, int]
    repeated: int
    shortened: int
    places: Mapping[str, str] = dataclasses.field(compare=False)


class Reference(Protocol):
    """How a study names a corpus: its name, a file, or a data set of the Hub.

    The rooms below the study's types do not import them; `config.refs.CorpusRef` is one.
    """

    name: str | None
    path: str | None
    dataset: str | None
    config: str | None
    split: str
    revision: str | None
    columns: dict[str, str]


def names() -> list[str]:
    """Return the corpora known by name."""
    return [*_SYNTHETIC, *_FILES]


def domain(name: str) -> str:
    """Return what a corpus known by name is of, as benchmarks have it; "" for any other."""
    if name in _SYNTHETIC:
        return "math"
    return _FILES[name].partition("/")[0] if name in _FILES else ""


def locate(ref: Reference, base: Path, data_dir: Path | None, pins: dict[str, str]) -> Source:
    """Find a corpus and pin its bytes, reading a file once and the network at most once.

    Args:
        ref: The corpus as the study gives it.
        base: Folder that a relative `path` starts from: the study file's.
        data_dir: Folder of named corpora (`--data-dir` or `$KDSTUDY_DATA`), or None.
        pins: The store's memory of earlier answers (see `kdstudy.models.resolve.resolve`).

    Raises:
        InputError: Unknown name, no such file, or no such data set.
    """
    if ref.name in _SYNTHETIC:
        return Source(name=ref.name, fingerprint=f"{synthetic.fingerprint()}:{SYNTHETIC_ROWS}")
    if ref.dataset is not None:
        commit = _pin_dataset(ref.dataset, ref.revision, pins)
        part = f"{ref.config}:{ref.split}" if ref.config else ref.split
        return Source(
            name=ref.dataset,
            fingerprint=f"hub:{ref.dataset}@{commit}:{part}",
            dataset=ref.dataset,
            config=ref.config,
            revision=commit,
            split=ref.split,
            columns=ref.columns,
        )
    path = base / Path(ref.path).expanduser() if ref.path else _named_file(ref.name or "", data_dir)
    try:
        fingerprint = _hash(path)
    except InputError as e:
        e.what = f"corpus: {e.what}"
        raise
    return Source(
        name=ref.name or files.named(path).stem,
        fingerprint=fingerprint,
        # A link keeps its name, which says what it holds: the Hub's cache links to hashes.
        path=os.path.abspath(path),
        kind=files.kind(path),
        columns=ref.columns,
    )


def is_unchanged(source: Source) -> bool:
    """Return whether a corpus's bytes are those that `locate` pinned."""
    return source.path is None or _hash(Path(source.path)) == source.fingerprint


def read(source: Source) -> Iterator[tuple[int, Example | None, str]]:
    """Yield (number, example, reason) of every row, counted from 1: see `formats.to_example`.

    Raises:
        InputError: The file or a row is malformed; its place is named.
    """
    for number, (where, row) in enumerate(raw_rows(source), start=1):
        yield number, *to_example(row, where, source.columns)


def contents(source: Source, pins: dict[str, str]) -> Contents | None:
    """Return what a corpus holds, reading every row once; None where that takes a download.

    Args:
        source: The pinned corpus.
        pins: The store's memory: a corpus that was read before is not read again.

    Raises:
        InputError: A malformed row (its place is named), or no row to learn from.
    """
    if source.dataset is not None:
        return None
    if source.path is None:
        return Contents(rows=SYNTHETIC_ROWS, unprompted=0, chats=0, unanswered=0, worded=0)
    told = json.dumps([source.fingerprint, source.kind, dict(source.columns)], sort_keys=True)
    key = f"corpus|{hashlib.sha256(told.encode()).hexdigest()[:32]}|{_READER}"
    try:
        return Contents(**json.loads(pins[key]))
    except (KeyError, ValueError, TypeError):
        pass
    counts, dropped, tags = Counter[str](), Counter[str](), {}
    for number, example, reason in read(source):
        if example is None:
            dropped[reason] += 1
            continue
        counts.update(rows=1, chats=bool(example.chat))
        counts["unprompted"] += not (example.instruction or example.chat)
        counts["unanswered"] += not example.answer
        counts["worded"] += bool(example.answer) and kind_of_gold(example.answer) is None
        if example.tag:
            tags.setdefault(example.tag, f"row {number}")
    require_rows(source, counts["rows"], dropped)
    numbers = {name: counts[name] for name in _COUNTED}
    found = Contents(**numbers, tags=tags)
    pins[key] = json.dumps(numbers | ({"tags": tags} if tags else {}))
    return found


def held_out(source: Source, kept: int, validation_rows: int | None) -> int:
    """Return how many of the kept rows validate: those asked for, or a tenth, but 500 at most.

    Raises:
        InputError: Nothing would be left to train on.
    """
    count = validation_rows
    if count is None:
        count = min(_MOST_VALIDATION, max(1, kept // 10))
    if kept <= count:
        raise InputError(
            f"corpus {source.name}: {kept} rows, and validation_rows is {count}",
            why="nothing would be left to train on",
            remedy=f"set validation_rows to {kept // 10 or 1} or leave it out, which takes a tenth"
            if kept > 1
            else "give more rows",
        )
    return count


def load(source: Source, *, rows: int | None, validation_rows: int | None, seed: int) -> Corpus:
    """Read, check and split a corpus; the split depends on the rows and the seed alone.

    Args:
        source: The pinned corpus.
        rows: Use a seeded choice of this many; None means all.
        validation_rows: How many of them to split off; None: see `held_out`.
        seed: Seed of choice and split.

    Raises:
        InputError: A malformed row (its line is named), an empty corpus, or too few rows.
    """
    dropped, seen = Counter[str](), Counter[str]()
    kept: list[Example] = []
    places: dict[str, str] = {}
    folder = f"{Path(source.path).parent}{os.sep}" if source.path else ""
    shortened = 0
    for where, row in raw_rows(source):
        example, reason = to_example(row, where, source.columns)
        if example is None:
            dropped[reason] += 1
            continue
        shortened += reason == CUT_OFF
        seen[example.id] += 1
        if seen[example.id] > 1:
            example = dataclasses.replace(example, id=f"{example.id}-{seen[example.id]}")
        kept.append(example)
        places[example.id] = where.removeprefix(folder)
    count = len(kept) + sum(dropped.values())
    require_rows(source, len(kept), dropped)
    kept.sort(key=lambda e: hashlib.sha256(f"{seed}:{e.id}".encode()).digest())
    kept = kept[:rows]
    part = held_out(source, len(kept), validation_rows)
    return Corpus(
        train=tuple(kept[part:]),
        validation=tuple(kept[:part]),
        read=count,
        dropped=dict(sorted(dropped.items())),
        repeated=sum(n - 1 for n in seen.values()),
        shortened=shortened,
        places={e.id: places[e.id] for e in kept},
    )


def require_rows(source: Source, kept: int, dropped: Mapping[str, int]) -> None:
    """Refuse a corpus of which no row can be learnt from.

    Args:
        source: The corpus.
        kept: How many of its rows can.
        dropped: How many cannot, by reason.
    """
    if kept:
        return
    count = sum(dropped.values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items()))
    raise InputError(
        f"corpus {source.path or source.name}: holds no usable row",
        why=f"{count} rows were read, {count} of them without text to use ({reasons})"
        if count
        else "it is empty: no row was read",
        remedy="fill in what is empty, or say which columns hold the text: `columns: {prompt: ..., "
        "completion: ...}`"
        if count
        else f"check that it is the file that you mean; {REMEDY}",
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
    """Yield (where, row) as the source has it; `where` names file and line for error messages.

    Raises:
        InputError: A column that `columns` names is in no row.
    """
    unseen, seen = set(source.columns.values()), {}
    for where, row in _rows(source):
        if unseen and isinstance(row, Mapping):
            unseen -= row.keys()
            seen |= dict.fromkeys(row)
        yield where, row
    if seen:
        require_columns(sorted(unseen), seen, f"corpus {source.path or source.name}")


def _rows(source: Source) -> Iterator[tuple[str, Any]]:
    if source.dataset is not None:
        yield from _hub_rows(source)
    elif source.path is None:
        for i, row in enumerate(synthetic_rows(source.name)):
            yield f"{source.name}, row {i + 1}", dict(row)
    else:
        wanted = COLUMNS.union(source.columns.values())
        for path in files.shards(Path(source.path)):
            if source.kind == "parquet":
                require_columns(needed_of(source.columns), files.columns_of(path), str(path))
            for place, row in files.read(path, wanted):
                yield f"{path}, {place}", row


@cache
def synthetic_rows(name: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a corpus that is drawn, once a process: it takes seconds."""
    drawn = synthetic.corpus_rows(SYNTHETIC_ROWS, seed=_SYNTHETIC_SEED, style=_SYNTHETIC[name])
    return tuple(drawn)


def _hub_rows(source: Source) -> Iterator[tuple[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        data: Any = datasets.load_dataset(
            source.dataset, name=source.config, revision=source.revision, split=source.split
        )
        # What is not read need not be decoded: images, sound.
        read_columns = COLUMNS.union(source.columns.values())
        wanted: Iterable[str] = [c for c in data.column_names if c in read_columns]
        there = data.column_names
        data = data.select_columns(wanted) if wanted else data
    except Exception as e:
        raise KdstudyError(
            f"corpus {source.dataset}: cannot be loaded ({type(e).__name__}: "
            f"{(str(e).splitlines() or [''])[0]})",
            remedy="check id, config, split and network, then run again",
        ) from e
    require_columns(needed_of(source.columns), there, source.dataset or "")
    for i, row in enumerate(data):
        yield f"{source.dataset}, row {i + 1}", files.table_row(row)


def _hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and hashes of a folder's."""
    found = {}
    for shard in files.shards(path):
        try:
            with shard.open("rb") as f:
                found[shard.name] = hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as e:
            raise InputError(f"{shard}: cannot be read ({e.strerror})") from e
    if path.is_file():
        return found[path.name]
    listed = "".join(f"{name}={digest}\n" for name, digest in found.items())
    return hashlib.sha256(listed.encode()).hexdigest()


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
