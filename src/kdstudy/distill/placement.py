"""Where the teacher of a run comes from: its cache on disk, in memory, or the model beside it."""

import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from kdstudy.artifacts import (
    EACH_TEACHER,
    EACH_TEACHER_CACHE,
    TEACHER,
    TEACHER_CACHE,
    TeacherCache,
    Trained,
    by_number,
)
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import cache
from kdstudy.distill.cache import CachedTeacher, DiskStates, Origin
from kdstudy.distill.kinds import TeacherCacheConfig, TrainConfig
from kdstudy.distill.model import Teacher
from kdstudy.distill.several_teachers import Mixing, Routing, Together
from kdstudy.distill.teacher import LiveTeacher, ToldTeacher
from kdstudy.errors import StageError
from kdstudy.methods.objective import Recipe
from kdstudy.models import heads, load, memory, parts
from kdstudy.stage import Work

# Share of the free bytes that may be filled.
_SHARE = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes needed and bytes free, on disk or in memory, and what to do if they do not fit."""

    needed: int
    free: int
    place: str
    remedy: str

    @property
    def enough(self) -> bool:
        """Whether they fit and leave a margin for whatever else needs the place."""
        return self.needed <= _SHARE * self.free

    def __str__(self) -> str:
        return f"{_size(self.needed)} needed, {_size(self.free)} free {self.place}"


def disk_room(needed: int, folder: Path) -> Room:
    """Return whether a cache of `needed` bytes fits; its shards in `folder` are counted as free."""
    there = sum(path.stat().st_size for path in folder.glob("states-*.safetensors"))
    free = shutil.disk_usage(folder).free + there
    return room_on_disk(needed, free, folder.parent)


def room_on_disk(needed: int, free: int, store: Path | str) -> Room:
    """Return `needed` and `free` bytes as room on a store's disk."""
    remedy = "give another --store, or set train.teacher_cache to memory or off"
    return Room(needed=needed, free=free, place=f"on the disk of {store}", remedy=remedy)


def memory_room(needed: int) -> Room:
    """Return whether `needed` bytes fit in this machine's memory, or its container's."""
    free = memory.free(torch.device("cpu"))
    remedy = "set train.teacher_cache to disk or off"
    return Room(needed=needed, free=free, place="in memory", remedy=remedy)


def cache_teacher(work: Work, rows: Sequence[Encoded]) -> str:
    """Cache the teacher of a `teacher_cache` stage on disk, or record that it does not fit.

    Args:
        work: The stage's.
        rows: The corpus in the teacher's tokens.

    Returns:
        A line with the sizes; its `TeacherCache.placement` has them too.

    Raises:
        StageError: Mode `disk`, and it does not fit.
    """
    config, finished = TeacherCacheConfig.of(work.config), work.find(TEACHER)
    local = work.model("teacher")
    # The head alone tells a state's size: nothing big is loaded for what does not fit.
    head = heads.load_head(local, config.precision, finished)
    needed = cache.bytes_needed(rows, config.loss_tokens, head)
    del head
    disk, memory = disk_room(needed, work.out), memory_room(needed)
    if config.mode == "disk":
        require_fits(disk)
    where = "memory" if memory.enough else "off"
    if disk.enough:
        model = _model(local, config.precision, finished)
        try:
            cache.build(
                work.out,
                LiveTeacher(model, len(parts.head(model).weight)),
                rows,
                _origin(config, config, finished),
                rows_per_pass=work.local["rows_per_pass"],
                progress=work.progress,
            )
            where = "disk"
        except OSError as e:
            # Somebody else filled the disk meanwhile.
            if config.mode == "disk" or e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            cache.clear(work.out)
    facts = {"where": where, "bytes": needed, "disk": str(disk), "memory": str(memory)}
    TeacherCache(work.out).placement.write(facts)
    return {
        "disk": f"{len(rows)} rows, {_size(needed)} on disk",
        "memory": f"not on disk ({disk}); each run keeps it in memory ({memory})",
        "off": f"not cached ({disk}; {memory}); the teacher runs beside each student",
    }[where]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What decides a teacher of one train stage.

    Attributes:
        work: The stage's; its aid `TEACHER_CACHE` is what `cache_teacher` left.
        number: Which of the stage's several teachers; None where it has one.
        settings: How to train.
        method: What the teacher is for.
        rows: All text of the run that the student does not write, as its teacher reads it.
        tokenizer: The student's.
        student: The student's head; None where the teacher reads its own tokens.
    """

    work: Work
    settings: schema.Train
    method: Recipe
    rows: Sequence[Encoded]
    tokenizer: PreTrainedTokenizerBase
    student: parts.Head | None
    number: str | None = None

    def teachers(self) -> tuple[Teacher | Together, str]:
        """Return what the run learns from, one teacher or several, and what `teacher` says.

        Raises:
            InputError: As `teacher` does.
            StageError: As `teacher` does.
        """
        config = self._config
        if not config.teachers:
            teacher, note = self.teacher()
            told = ToldTeacher(teacher, self.settings.loss_tokens) if config.context else teacher
            return told, note
        numbers, how = by_number(config.teachers), config.together
        found = [dataclasses.replace(self, number=number).teacher() for number in numbers]
        notes = "".join(dict.fromkeys(note for _, note in found))
        teachers, scored = [teacher for teacher, _ in found], self.settings.loss_tokens
        if "route" in how:
            return Routing(teachers, scored, route=how["route"]), notes
        mixture, weights = how["mixture"], how["weights"]
        return Mixing(teachers, scored, mixture=mixture, weights=weights), notes

    def teacher(self) -> tuple[Teacher, str]:
        """Return the teacher, and why it is not the cache it should be, or ''.

        Its body is in memory only where something needs it: text that the student writes, or
        states that nobody cached.

        Raises:
            InputError: The teacher cannot be loaded, or its vocabulary is another.
            StageError: What the study asks for does not fit, or a cache is not this run's.
        """
        where = self._where()
        if where == "off":
            return self._live(), ""
        if where == "memory":
            return self._in_memory()
        states = DiskStates(self._cached.folder, self._origin())
        try:
            cache.require_rows(states, self.rows, self.settings.loss_tokens)
        except StageError as e:
            if self.settings.teacher_cache == "disk":
                raise
            teacher, note = self._in_memory()
            return teacher, note or f"; the teacher's states were computed again: {e.what}"
        return self._from_disk(states), ""

    def _where(self) -> str:
        """Return `disk`, `memory` or `off`: what the study asks for, or `auto` found."""
        if self.settings.teacher_cache in ("memory", "off"):
            # Text that the student writes at every step, and inner layers, are never cached.
            return "off" if self.method.asks_anew else self.settings.teacher_cache
        # The plan gives none to a run that has no use for it.
        return self._cached.placement.read()["where"] if self._cached else "off"

    def _from_disk(self, states: DiskStates) -> CachedTeacher:
        live = self._live() if self.method.lmbda else None
        teacher = (self._local, self._precision, self._finished)
        head = live.head if live else heads.load_head(*teacher)
        return CachedTeacher(states, head, self._width(head), self.settings.loss_tokens, live)

    def _in_memory(self) -> tuple[Teacher, str]:
        live = self._live()
        scored = self.settings.loss_tokens
        room = memory_room(cache.bytes_needed(self.rows, scored, live.head))
        if not room.enough:
            if self.settings.teacher_cache == "memory":
                require_fits(room)
            return live, f"; the teacher ran beside the student: {room}"
        states = cache.in_memory(
            live,
            self.rows,
            scored,
            rows_per_pass=2 * (self.settings.micro_batch_size or self.settings.batch_size),
            progress=self.work.progress,
        )
        kept = live if self.method.lmbda else None
        return CachedTeacher(states, live.head, live.width, scored, kept), ""

    def _live(self) -> LiveTeacher:
        model = _model(self._local, self._precision, self._finished)
        longest = max((len(row.ids) for row in self.rows), default=0)
        if self.method.spans is not None and self.method.lmbda:  # as long as a text may become
            longest = self.settings.max_length
        if self._config.context or self.method.spans is not None:
            # longer than what the student has room for, or in other tokens
            parts.require_room(model, longest, 0)
        return LiveTeacher(model, self._width(parts.head(model)))

    def _width(self, head: parts.Head) -> int:
        theirs = load.open_tokenizer(self._local)
        if self.student is None:
            return heads.own_width(theirs, head, "the teacher")
        return heads.common_width(self.tokenizer, theirs, self.student, head)

    def _origin(self) -> Origin:
        config = self._config
        if self.number is not None:
            config = dataclasses.replace(config, teacher=by_number(config.teachers)[self.number])
        return _origin(config, self.settings, self._finished)

    @property
    def _config(self) -> TrainConfig:
        return TrainConfig.of(self.work.config)

    @property
    def _local(self) -> Mapping[str, Any]:
        return self.work.model("teacher" if self.number is None else self.number)

    @property
    def _cached(self) -> TeacherCache | None:
        if self.number is None:
            return self.work.aid(TEACHER_CACHE)
        folder = EACH_TEACHER_CACHE.find(self.work.aids).get(self.number)
        return folder and TeacherCache(folder)

    @property
    def _finished(self) -> Trained | None:
        if self.number is None:
            return self.work.find(TEACHER)
        return self.work.each(EACH_TEACHER).get(self.number)

    @property
    def _precision(self) -> str:
        return self.settings.precision


def _model(local: Mapping[str, Any], precision: str, finished: Trained | None) -> parts.Model:
    return load.ready_to_answer(load.open_model(local, precision, finished))


def _origin(
    config: TrainConfig | TeacherCacheConfig,
    settings: schema.Train | TeacherCacheConfig,
    finished: Trained | None,
) -> Origin:
    """Return what a teacher's states are made from; a cache has its settings in its config."""
    # All that decides how a row is put into ids, as one text.
    more = [config.template_arguments, config.template_date, settings.loss_turns]
    return Origin(
        teacher=config.teacher.fingerprint if config.teacher else "",
        finetuned=_weights(finished) if finished else "",
        template=json.dumps([config.template, *more], sort_keys=True),
        max_length=settings.max_length,
        loss_tokens=settings.loss_tokens,
        dtype=str(load.dtype(settings.precision)),
    )


def _weights(finished: Trained) -> str:
    """Return the hash of the weights a train stage left."""
    digest = hashlib.sha256()
    for path in sorted(finished.weights.glob("*.safetensors")):
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:32]


def require_fits(room: Room) -> None:
    """Refuse a cache that the study demands and that does not fit, with a StageError."""
    if not room.enough:
        raise StageError(
            f"the teacher cache does not fit: {room}",
            why=f"it may fill {_SHARE:.0%} of what is free",
            remedy=room.remedy,
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
