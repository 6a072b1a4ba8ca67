"""What a stage is: its key, its settings, the work it is handed, and what kinds there are."""

import dataclasses
import functools
import hashlib
import importlib
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from kdstudy.artifacts import CUT, Artifact, CutModel, Found, Name, Role, Roles

SCRATCH = "scratch"
"""Name of the folder, inside a stage's, of `Work.scratch`."""


class Progress(Protocol):
    """Called by a stage as it goes: how far, in what unit, and the numbers of the moment."""

    def __call__(self, done: int, total: int, unit: str, **numbers: float) -> None: ...


def silent(done: int, total: int, unit: str, **numbers: float) -> None:
    """A `Progress` that shows nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What can change the bytes of a kind of stage: a plan makes it, the stage reads it.

    A field with a default is left out of the key where it has that value: a field that is added
    later, with what was the case before, leaves older keys as they are.
    """

    @classmethod
    def of(cls, hashed: Mapping[str, Any]) -> Self:
        """Return the configuration that `hashed` made.

        Raises:
            TypeError: A name is unknown, or one without a default is missing.
        """
        types = typing.get_type_hints(cls)
        return cls(**{name: _read(types.get(name), value) for name, value in hashed.items()})

    def hashed(self) -> dict[str, Any]:
        """Return what a key hashes and a store records."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            left_out = field.default
            if field.default_factory is not dataclasses.MISSING:
                left_out = field.default_factory()
            if value != left_out:
                found[field.name] = _hashed(value)
        return found


def _hashed(value: Any) -> Any:
    if isinstance(value, tuple) and any(isinstance(part, Config) for part in value):
        return [part.hashed() for part in value]
    return value.hashed() if isinstance(value, Config) else value


def _read(hint: Any, value: Any) -> Any:
    """Return a field's value, a `Config` or a tuple of them where the field's type is that."""
    parts = [t for t in (hint, *typing.get_args(hint)) if isinstance(t, type)]
    own = next((t for t in parts if issubclass(t, Config)), None)
    if own is not None and isinstance(value, list):
        return tuple(own.of(part) for part in value)
    return own.of(value) if own is not None and isinstance(value, Mapping) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Everything a stage function sees.

    Attributes:
        config: What can change bytes, as the stage's key hashes it; `Config.of` reads it.
        inputs: Finished folders of upstream stages, by role.
        aids: Finished folders of stages that save work and change no result, by role; a role is
            missing where its stage is not there.
        local: What cannot change bytes (where a model lies, micro-batch size); not hashed.
        out: Folder to fill. It keeps what an interrupted try left there, so that work can resume.
        progress: Where to report progress.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    local: Mapping[str, Any]
    out: Path
    progress: Progress = silent
    aids: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """Folder for what only resuming needs; dropped once the stage's files are on record."""
        folder = self.out / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def read(self, role: Role[Found]) -> Found:
        """Return what the upstream of a role left."""
        return role.artifact(self.inputs[role.name])

    def find(self, role: Role[Found]) -> Found | None:
        """Return what the upstream of a role left, or None where this stage has none."""
        return None if role.name not in self.inputs else self.read(role)

    def each(self, roles: Roles[Name, Found]) -> dict[Name, Found]:
        """Return what the upstreams of some roles left, by name."""
        return {name: roles.artifact(path) for name, path in roles.find(self.inputs).items()}

    def aid(self, role: Role[Found]) -> Found | None:
        """Return what an aid left, or None where it is not there."""
        return None if role.name not in self.aids else role.artifact(self.aids[role.name])

    def model(self, name: str) -> Mapping[str, Any]:
        """Return where a model lies (`resolve.Resolved.local`): a cut one in its own stage."""
        return located(self.local["models"][name], self.each(CUT).get(name))


def located(local: Mapping[str, Any], cut: CutModel | None) -> Mapping[str, Any]:
    """Return where a model lies, given the finished stage that cut it, or None."""
    return local if cut is None else {**local, "folder": str(cut.model)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of stage.

    Attributes:
        config: What it is told.
        version: Raised when the function's output changes for the same input; part of the key.
        writes: What it leaves.
        needs_model: It runs a model: on a GPU where there is one, and for more than seconds.
        distributed: All processes of a launch join it.
        entry: `module:function`, imported when the stage runs, so that planning needs no torch;
            where it is left out, the function of the kind's name in its room's `stages.py`.
    """

    config: type[Config] = Config
    version: int = 1
    writes: type[Artifact] = Artifact
    needs_model: bool = False
    distributed: bool = False
    entry: str = ""

    def function(self) -> Callable[[Work], str]:
        """Import and return the stage function: it fills `out` and returns a summary line."""
        module, name = self.entry.split(":")
        return getattr(importlib.import_module(module), name)


_ROOMS = ("data", "models", "distill", "evaluation", "analysis", "report")


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return every kind of stage by its name, as the rooms' `kinds.py` declare them."""
    found = {}
    for room in _ROOMS:
        for name, kind in importlib.import_module(f"{__package__}.{room}.kinds").KINDS.items():
            entry = kind.entry or f"{__package__}.{room}.stages:{name}"
            found[name] = dataclasses.replace(kind, entry=entry)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of work.

    Attributes:
        kind: A name in `kinds()`.
        label: What people call it, such as `zoo-s/word_kd/zoo-l`.
        config: What can change bytes.
        inputs: Upstream keys by role; the role is part of the key, so teacher and student differ.
        local: What cannot change bytes.
        aids: Keys of stages that save work and change no result, by role; no part of the key. They
            are built before this stage, and not at all where it is finished.
    """

    kind: str
    label: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    local: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aids: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """32 hexadecimal digits: hash of kind, version, config and inputs by role."""
        parts = {
            "kind": self.kind,
            "version": kinds()[self.kind].version,
            "config": self.config,
            "inputs": self.inputs,
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]
