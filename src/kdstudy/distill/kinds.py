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
        package: Name and version of the package that the method is from; empty for ours.
    """

    method: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    student: Named
    teacher: Named | None = None
    package: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherCacheConfig(Prompted):
    """Of `teacher_cache`.

    Attributes:
        teacher: Whose states are cached.
        max_length: Most tokens of a row.
        loss_turns: As in `schema.Train`, like `loss_tokens` and `precision`.
        mode: `train.teacher_cache`: `auto` or `disk`.
    """

    teacher: Named
    max_length: int
    loss_turns: LossTurns
    loss_tokens: str
    precision: str
    mode: str


KINDS = {
    "train": Kind(
        entry="kdstudy.distill.stages:train",
        config=TrainConfig,
        version=7,
        writes=Trained,
        needs_model=True,
        distributed=True,
    ),
    "teacher_cache": Kind(
        entry="kdstudy.distill.stages:teacher_cache",
        config=TeacherCacheConfig,
        version=5,
        writes=TeacherCache,
        needs_model=True,
    ),
}
