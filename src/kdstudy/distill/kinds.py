"""The kinds of stage of this room, and what each is told."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdstudy.artifacts import TeacherCache, Trained
from kdstudy.data.prompts import LossTurns, Prompted
from kdstudy.models.kinds import Named
from kdstudy.stage import Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Prompted):
    """Of `train`.

    Attributes:
        method: Fields of the method, but those that `train` has.
        train: Fields of `schema.Train`, but those that change no result.
        seed: Training seed.
        student: What is trained.
        teacher: What it learns from, where the method needs its distributions.
        teachers: Those that it learns from together, where they are several.
        together: How these teach: `route`, a teacher's number by tag; or `mixture` and `weights`,
            which are null where each row has its own.
        context: What the teacher reads in the instruction's place; empty for the same.
        package: Name and version of the package that the method is from; empty for ours.
        replay_logged: Something is replayed, and the curve says how much of the loss that is. Runs
            before that was so have other keys.
        extraction: How the answers of sampled texts are read, where the method rewards right ones.
    """

    method: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    student: Named
    teacher: Named | None = None
    teachers: tuple[Named, ...] = ()
    together: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    context: str = ""
    package: str = ""
    replay_logged: bool = False
    extraction: str = "corrected"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherCacheConfig(Prompted):
    """Of `teacher_cache`.

    Attributes:
        teacher: Whose states are cached.
        max_length: Most tokens of a row.
        loss_turns: As in `schema.Train`, like `loss_tokens` and `precision`.
        mode: `train.teacher_cache`: `auto` or `disk`.
        context: As in `TrainConfig`.
    """

    teacher: Named
    max_length: int
    loss_turns: LossTurns
    loss_tokens: str
    precision: str
    mode: str
    context: str = ""


KINDS = {
    "train": Kind(
        config=TrainConfig, version=7, writes=Trained, needs_model=True, distributed=True
    ),
    "teacher_cache": Kind(
        config=TeacherCacheConfig, version=5, writes=TeacherCache, needs_model=True
    ),
}
