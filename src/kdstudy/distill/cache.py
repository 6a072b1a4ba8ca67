"""The exact teacher cache: final hidden states at scored positions, computed once.

A token sequence that does not change has teacher states that do not change. With the teacher's
head they give its distribution at any temperature and noise level, for any divergence, seed and
student: the teacher's body runs once per study, and a state is far smaller than the logits.

On disk: shards `states-00000.safetensors` with one tensor `hidden` [tokens, H] in the type the
teacher computes in, and `index.json`, which says what they were made from, each shard's size and
sha256, and each row's shard, offset and tokens. A row is known by its content, never by its
position.

Shapes: N scored tokens, H hidden width of the teacher.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.batches import Batch, LossTokens, Weighing
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import StageError
from kdstudy.models import parts
from kdstudy.stage import Progress, silent

_INDEX, _STATES = "index.json", "hidden"
# A shard is the unit of resuming, and of what a build holds in memory.
_SHARD_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What states were made from; those of another origin are refused.

    Attributes:
        teacher: The model's fingerprint.
        finetuned: Hash of the weights that its training in the study left; empty without.
        template: Prompt template, and whatever else decides how a row is put into ids.
        max_length: Limit on tokens of prompt and response.
        loss_tokens: Which positions are scored.
        dtype: The type the teacher computes in.
    """

    teacher: str
    finetuned: str
    template: str
    max_length: int
    loss_tokens: LossTokens
    dtype: str


def bytes_needed(rows: Sequence[Encoded], loss_tokens: LossTokens, head: parts.Head) -> int:
    """Return the bytes that the states of `rows` take; rows of equal content count once."""
    unique = _unique(rows, loss_tokens).values()
    tokens = sum(_tokens(row, loss_tokens) for row in unique)
    return tokens * head.weight.shape[1] * head.weight.element_size()


def clear(folder: Path) -> None:
    """Remove whatever a build left."""
    for path in (*folder.glob("states-*.safetensors"), *folder.glob(".*.new")):
        path.unlink()


def row_key(row: Encoded, loss_tokens: LossTokens) -> str:
    """Return 32 hexadecimal digits: hash of the ids and of which of them are scored."""
    spans = "".join(f"{start}-{stop} " for start, stop in row.spans)
    digest = hashlib.sha256(f"{loss_tokens} {row.prompt_length} {spans}".encode())
    digest.update(np.asarray(row.ids, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]


def build(
    folder: Path,
    teacher: LiveTeacher,
    rows: Sequence[Encoded],
    origin: Origin,
    *,
    rows_per_pass: int,
    progress: Progress = silent,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Compute the states of `rows` and write them into `folder`.

    Shards that an interrupted build finished are kept. The bytes do not depend on interruptions:
    a batch never reaches over a shard's border.

    Args:
        folder: Where; must exist.
        teacher: Computes the states.
        rows: What to cache; rows of equal content are cached once.
        origin: What the states are made from.
        rows_per_pass: Rows per forward pass; changes them by rounding alone.
        progress: Told how many rows are done.
        shard_bytes: Most bytes of a shard; a single longer row is a shard of its own.
    """
    for torn in folder.glob(".*.new"):
        torn.unlink()
    unique = _unique(rows, origin.loss_tokens)
    width, item = teacher.head.weight.shape[1], teacher.head.weight.element_size()
    shards = _shards(unique, origin.loss_tokens, shard_bytes // (width * item))
    finished = {
        number
        for number, keys in enumerate(shards)
        if _finished(folder / _name(number), _digest(keys, origin))
    }
    done = sum(len(shards[number]) for number in finished)
    progress(done, len(unique), "row")
    for number, keys in enumerate(shards):
        if number in finished:
            continue
        states = []
        mine = [unique[key] for key in keys]
        for group, hidden_NH in _computed(teacher, mine, origin.loss_tokens, rows_per_pass):
            states.append(hidden_NH)
            done += len(group)
            progress(done, len(unique), "row")
        found = save({_STATES: torch.cat(states)}, {"rows": _digest(keys, origin)})
        _publish(folder / _name(number), found)
    index = _index(folder, shards, unique, origin)
    _publish(folder / _INDEX, json.dumps(index).encode())


def in_memory(
    teacher: LiveTeacher,
    rows: Sequence[Encoded],
    loss_tokens: LossTokens,
    *,
    rows_per_pass: int,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Return the states of `rows` by row key, each [N of the row, H], on the CPU."""
    unique = _unique(rows, loss_tokens)
    states: dict[str, Tensor] = {}
    for group, hidden_NH in _computed(teacher, list(unique.values()), loss_tokens, rows_per_pass):
        lengths = [_tokens(row, loss_tokens) for row in group]
        parts_NH = hidden_NH.split(lengths)
        states |= {row_key(r, loss_tokens): h for r, h in zip(group, parts_NH, strict=True)}
        progress(len(states), len(unique), "row")
    return states


class DiskStates(Mapping[str, Tensor]):
    """States on disk by row key, each [N of the row, H]; a lookup reads that row and no more.

    Args:
        folder: What `build` filled.
        origin: What the states must have been made from.

    Raises:
        StageError: They were made from something else, or a file is missing or damaged.
    """

    def __init__(self, folder: Path, origin: Origin):
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise _damaged(folder / _INDEX, "is missing or cannot be read") from e
        _require_origin(folder, index["origin"], dataclasses.asdict(origin))
        for shard in index["shards"]:
            _require_whole(folder / shard["file"], shard)
        self._rows: dict[str, tuple[int, int, int]] = index["rows"]
        self._files = [safe_open(folder / s["file"], framework="pt") for s in index["shards"]]

    def __getitem__(self, key: str) -> Tensor:
        shard, offset, tokens = self._rows[key]
        return self._files[shard].get_slice(_STATES)[offset : offset + tokens]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class CachedTeacher:
    """A teacher of whom only the head is here, and the states of known rows.

    Args:
        states: States by row key.
        head: The teacher's head.
        width: Vocabulary entries it shares with the student; the rest are sliced off.
        loss_tokens: Which positions are scored.
        live: Answers for micro-batches with text that the student wrote; None where there is none.
    """

    def __init__(
        self,
        states: Mapping[str, Tensor],
        head: parts.Head,
        width: int,
        loss_tokens: LossTokens,
        live: LiveTeacher | None = None,
    ):
        self.states, self.loss_tokens, self.live = states, loss_tokens, live
        self.width, self.head = width, head.narrowed(width)

    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H].

        Raises:
            StageError: A row is not in the cache, and there is no live teacher.
        """
        keys = [row_key(row, self.loss_tokens) for row in batch.texts]
        if self.live is not None and not all(key in self.states for key in keys):
            return self.live.hidden(batch)
        require_rows(self.states, batch.texts, self.loss_tokens)
        return torch.cat([self.states[key] for key in keys]).to(self.head.weight.device)


def require_rows(
    states: Mapping[str, Tensor], rows: Sequence[Encoded], loss_tokens: LossTokens
) -> None:
    """Refuse rows whose states are not there.

    Raises:
        StageError: Names the first such row.
    """
    lost = [row for row in rows if row_key(row, loss_tokens) not in states]
    if lost:
        ids = ", ".join(map(str, lost[0].ids[:8]))
        raise StageError(
            f"the teacher cache has no states for {len(lost)} of {len(rows)} rows; the first has "
            f"{len(lost[0].ids)} tokens ({lost[0].prompt_length} of them prompt): {ids}, ...",
            why="it was made from other rows: another tokenizer (that of the teacher's folder "
            "makes them), chat template, max_length or corpus",
            remedy="set train.teacher_cache to memory, which caches each run's own rows, or to off",
        )


def _tokens(row: Encoded, loss_tokens: LossTokens) -> int:
    return len(Weighing(loss_tokens=loss_tokens).scored(row))


def _unique(rows: Sequence[Encoded], loss_tokens: LossTokens) -> dict[str, Encoded]:
    """Return rows by key, the longest first: little padding, and the largest batch comes first."""
    return {row_key(r, loss_tokens): r for r in sorted(rows, key=lambda r: -len(r.ids))}


def _shards(unique: Mapping[str, Encoded], loss_tokens: LossTokens, most: int) -> list[list[str]]:
    """Return row keys by shard, `most` tokens each."""
    shards: list[list[str]] = []
    room = 0
    for key, row in unique.items():
        tokens = _tokens(row, loss_tokens)
        if not shards or tokens > room:
            shards.append([])
            room = most
        shards[-1].append(key)
        room -= tokens
    return shards


def _computed(
    teacher: LiveTeacher, rows: list[Encoded], loss_tokens: LossTokens, rows_per_pass: int
) -> Iterator[tuple[list[Encoded], Tensor]]:
    """Yield groups of rows and their states one after another, [N, H], on the CPU."""
    weighing, device = Weighing(loss_tokens=loss_tokens), teacher.head.weight.device
    for group in batches.split(rows, rows_per_pass):
        batch = batches.collate(group, weighing, device)
        yield group, teacher.hidden(batch).cpu()


def _name(number: int) -> str:
    return f"states-{number:05d}.safetensors"


def _digest(keys: list[str], origin: Origin) -> str:
    text = json.dumps([dataclasses.asdict(origin), keys], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(path: Path, digest: str) -> bool:
    """Whether an earlier build left this very shard, whole: safetensors checks the length."""
    try:
        with safe_open(path, framework="pt") as f:
            return (f.metadata() or {}).get("rows") == digest
    except (OSError, SafetensorError):
        return False


def _index(
    folder: Path, shards: list[list[str]], unique: Mapping[str, Encoded], origin: Origin
) -> dict[str, Any]:
    rows: dict[str, tuple[int, int, int]] = {}
    for number, keys in enumerate(shards):
        offset = 0
        for key in keys:
            tokens = _tokens(unique[key], origin.loss_tokens)
            rows[key] = (number, offset, tokens)
            offset += tokens
    files = [folder / _name(number) for number in range(len(shards))]
    return {
        "origin": dataclasses.asdict(origin),
        "shards": [{"file": f.name, "size": f.stat().st_size, "sha256": _sha256(f)} for f in files],
        "rows": rows,
    }


def _publish(path: Path, data: bytes) -> None:
    """Write so that the file is there whole or not at all, whatever happens between."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    fresh.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _require_origin(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = [f"{k} {found.get(k)!r}, not {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if differ:
        raise StageError(
            f"{folder}: this teacher cache was made from something else: {'; '.join(differ)}",
            why="the student would learn from another teacher's states",
            remedy="remove the folder and run again",
        )


def _require_whole(path: Path, recorded: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise _damaged(path, "is missing")
    if path.stat().st_size != recorded["size"]:
        raise _damaged(path, f"has {path.stat().st_size} bytes, not {recorded['size']}")
    if _sha256(path) != recorded["sha256"]:
        raise _damaged(path, "is damaged: its sha256 is not the recorded one")


def _damaged(path: Path, problem: str) -> StageError:
    return StageError(
        f"teacher cache: {path} {problem}",
        remedy="run again: the store finds the damage and builds the cache again",
    )
