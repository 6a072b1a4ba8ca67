"""What a stage is: its key, the work it is handed, and which function does which kind of work."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

SCRATCH = "scratch"
"""Name of the folder, inside a stage's, of `Work.scratch`."""


class Progress(Protocol):
    """Called by a stage as it goes: how far, in what unit, and the numbers of the moment."""

    def __call__(self, done: int, total: int, unit: str, **numbers: float) -> None: ...


def silent(done: int, total: int, unit: str, **numbers: float) -> None:
    """A `Progress` that shows nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Everything a stage function sees.

    Attributes:
        config: What can change bytes; hashed into the stage's key.
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

    def model(self, role: str) -> Mapping[str, Any]:
        """Return where a model lies (`resolve.Resolved.local`): a cut one in its own stage."""
        return located(self.local["models"][role], self.inputs.get(f"cut:{role}"))

    def inputs_of(self, role: str) -> list[tuple[str, Path]]:
        """Return (name, folder) of every input whose role is `role:name`."""
        found = []
        for whole, folder in self.inputs.items():
            kind, _, name = whole.partition(":")
            if kind == role:
                found.append((name, folder))
        return found

    def pairs_of(self, role: str) -> list[tuple[tuple[str, str], Path]]:
        """Return ((a, b), folder) of every input whose role is `pair_role(role, a, b)`."""
        return [(tuple(json.loads(pair)), folder) for pair, folder in self.inputs_of(role)]


def located(local: Mapping[str, Any], cut: Path | None) -> Mapping[str, Any]:
    """Return where a model lies, given the finished stage that cut it, or None."""
    return local if cut is None else {**local, "folder": str(cut / "model")}


def pair_role(role: str, a: str, b: str) -> str:
    """Return the role of an input about two systems; a label may hold any sign."""
    return f"{role}:{json.dumps([a, b], ensure_ascii=False)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of stage.

    Attributes:
        entry: `module:function`, imported when the stage runs, so that planning needs no torch.
        version: Raised when the function's output changes for the same input; part of the key.
    """

    entry: str
    version: int = 1

    def function(self) -> Callable[[Work], str]:
        """Import and return the stage function: it fills `out` and returns a summary line."""
        module, name = self.entry.split(":")
        return getattr(importlib.import_module(module), name)


KINDS: dict[str, Kind] = {
    "corpus": Kind(entry="kdstudy.data.stages:corpus", version=4),
    "benchmark": Kind(entry="kdstudy.evaluation.stages:benchmark", version=3),
    "importance": Kind(entry="kdstudy.models.stages:importance"),
    "cut": Kind(entry="kdstudy.models.stages:cut"),
    "train": Kind(entry="kdstudy.distill.stages:train", version=7),
    "teacher_cache": Kind(entry="kdstudy.distill.stages:teacher_cache", version=5),
    "teacher_text": Kind(entry="kdstudy.evaluation.stages:teacher_text", version=5),
    "generate": Kind(entry="kdstudy.evaluation.stages:generate", version=5),
    "likelihood": Kind(entry="kdstudy.evaluation.stages:likelihood"),
    "contamination": Kind(entry="kdstudy.data.stages:contamination"),
    "token_fidelity": Kind(entry="kdstudy.evaluation.stages:token_fidelity", version=5),
    "score": Kind(entry="kdstudy.evaluation.stages:score", version=5),
    "compare": Kind(entry="kdstudy.evaluation.stages:compare", version=4),
    "results": Kind(entry="kdstudy.analysis.stages:results", version=7),
    "report": Kind(entry="kdstudy.report.stages:report", version=7),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of work.

    Attributes:
        kind: A name in `KINDS`.
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
            "version": KINDS[self.kind].version,
            "config": self.config,
            "inputs": self.inputs,
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]
