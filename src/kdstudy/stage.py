"""What a stage is: its key, the work it is handed, and which function does which kind of work."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kdstudy.artifacts import (
    CUT,
    Artifact,
    Contaminations,
    Corpus,
    CutModel,
    Found,
    Generations,
    Importance,
    Items,
    Likelihoods,
    Name,
    Pairs,
    Report,
    Results,
    Role,
    Roles,
    Scores,
    TeacherCache,
    Tokens,
    Trained,
)

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
        entry: `module:function`, imported when the stage runs, so that planning needs no torch.
        version: Raised when the function's output changes for the same input; part of the key.
        writes: What it leaves.
        needs_model: It runs a model: on a GPU where there is one, and for more than seconds.
        distributed: All processes of a launch join it.
    """

    entry: str
    version: int = 1
    writes: type[Artifact] = Artifact
    needs_model: bool = False
    distributed: bool = False

    def function(self) -> Callable[[Work], str]:
        """Import and return the stage function: it fills `out` and returns a summary line."""
        module, name = self.entry.split(":")
        return getattr(importlib.import_module(module), name)


KINDS: dict[str, Kind] = {
    "corpus": Kind(entry="kdstudy.data.stages:corpus", version=4, writes=Corpus),
    "benchmark": Kind(entry="kdstudy.evaluation.stages:benchmark", version=3, writes=Items),
    "importance": Kind(
        entry="kdstudy.models.stages:importance", writes=Importance, needs_model=True
    ),
    "cut": Kind(entry="kdstudy.models.stages:cut", writes=CutModel, needs_model=True),
    "train": Kind(
        entry="kdstudy.distill.stages:train",
        version=7,
        writes=Trained,
        needs_model=True,
        distributed=True,
    ),
    "teacher_cache": Kind(
        entry="kdstudy.distill.stages:teacher_cache",
        version=5,
        writes=TeacherCache,
        needs_model=True,
    ),
    "teacher_text": Kind(
        entry="kdstudy.evaluation.stages:teacher_text",
        version=5,
        writes=Generations,
        needs_model=True,
    ),
    "generate": Kind(
        entry="kdstudy.evaluation.stages:generate", version=5, writes=Generations, needs_model=True
    ),
    "likelihood": Kind(
        entry="kdstudy.evaluation.stages:likelihood", writes=Likelihoods, needs_model=True
    ),
    "contamination": Kind(entry="kdstudy.data.stages:contamination", writes=Contaminations),
    "token_fidelity": Kind(
        entry="kdstudy.evaluation.stages:token_fidelity",
        version=5,
        writes=Tokens,
        needs_model=True,
    ),
    "score": Kind(entry="kdstudy.evaluation.stages:score", version=5, writes=Scores),
    "compare": Kind(entry="kdstudy.evaluation.stages:compare", version=4, writes=Pairs),
    "results": Kind(entry="kdstudy.analysis.stages:results", version=8, writes=Results),
    "report": Kind(entry="kdstudy.report.stages:report", version=8, writes=Report),
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
