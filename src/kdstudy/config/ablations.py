"""Runs beside the main grid: what a study varies, and what makes no sense of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from kdstudy.fields import Strict, refuse_repeats
from kdstudy.methods import giving

if TYPE_CHECKING:
    from kdstudy.config.schema import Study, Train

Taught = Literal[*giving("text"), *giving("distribution"), *giving("spans")]
WithDistribution = Literal[*giving("distribution")]
WithTemperature = Literal[*giving("distribution"), *giving("spans")]


class TemperatureAblation(Strict):
    """Repeat methods at several loss temperatures."""

    methods: list[WithTemperature] = ["word_kd", "revkd"]
    """Methods to repeat; each must be among the study's methods."""
    values: list[Annotated[float, Field(gt=0)]] = Field(default=[1, 2, 5], min_length=1)
    """Temperatures."""


class NoiseAblation(Strict):
    """Repeat methods with Gaussian noise on the teacher's logits."""

    methods: list[WithDistribution] = ["word_kd"]
    """Methods to repeat; each must be among the study's methods."""
    values: list[Annotated[float, Field(ge=0)]] = Field(default=[0, 1, 2, 5], min_length=1)
    """Scales of the noise."""


class BaseTeacherAblation(Strict):
    """Repeat methods with a teacher that was not fine-tuned (`task-unaware`)."""

    methods: list[Taught] = ["word_kd"]
    """Methods to repeat; each must be among the study's methods."""


class Vary(Strict):
    """Repeat methods with other values of one field: of the methods, or of training."""

    vary: str
    """The field: one of the methods' own, such as `beta`, or of training: `train.learning_rate`,
    `train.lora.r`. Teachers and sft runs, which all others are compared with, stay as they are."""
    values: list[Any] = Field(min_length=1)
    """Its values; the one that the study has is the main grid's run."""
    methods: list[Taught] = Field(min_length=1)
    """Methods to repeat; each must be among the study's methods."""

    @field_validator("vary")
    @classmethod
    def _can_vary(cls, field: str) -> str:
        if field in ("type", "start"):
            raise ValueError(f"{field} makes another method; list it under methods")
        if field == "generations":
            raise ValueError("generations has a run for each already; write it under methods")
        if field in ("temperature", "noise"):
            raise ValueError(f"{field} has an ablation of its own: write {field}: {{values: ...}}")
        return field

    def changed(self, method: Any, train: Train, value: Any) -> tuple[Any, Train]:
        """Return a method and its training with the field at a value.

        Raises:
            ValueError: Neither has such a field, or it cannot have that value.
        """
        head, _, tail = self.vary.partition(".")
        if head == "train" and tail:
            if tail.partition(".")[0] in {*train.NO_RESULT, "probe_rows"}:
                raise ValueError(f"{self.vary} changes speed or records, and no result")
            if tail.partition(".")[0] == "lora" and getattr(method, "start", "base") != "base":
                raise ValueError(
                    f"{method.type} trains its start's adapter on, whatever {self.vary} is"
                )
            if tail in ("replay_towards", "replay_rows") and train.replay_weight == 0:
                raise ValueError(
                    f"{self.vary}: train.replay_weight is 0, so that nothing is replayed"
                )
            if getattr(method, tail, None) is not None and tail in type(method).model_fields:
                raise ValueError(f"{method.type} has its own {tail}, which overrides training's")
            return method, _with(train, tail, value)
        if self.vary not in type(method).model_fields:
            own = sorted(set(type(method).model_fields) - {"type", "start", "generations"})
            raise ValueError(
                f"{method.type} has no field {self.vary}; it has {', '.join(own)}, and training "
                "has train.learning_rate and the like"
            )
        return _with(method, self.vary, value), train

    def current(self, method: Any, train: Train) -> Any:
        """Return the value that the study has."""
        head, _, tail = self.vary.partition(".")
        part, path = (train, tail) if head == "train" and tail else (method, self.vary)
        for name in path.split("."):
            part = getattr(part, name, None)
        return part


class Ablations(Strict):
    """Runs beside the main grid; a list of `Vary` alone may stand in its place."""

    temperature: TemperatureAblation | None = None
    """Loss temperature (the paper's Figure 6)."""
    noise: NoiseAblation | None = None
    """Noise on the teacher's logits (Figure 5)."""
    base_teacher: BaseTeacherAblation | None = None
    """A teacher that never saw the task (Figure 2)."""
    vary: list[Vary] = []
    """Any other field: `{vary: beta, values: [0.1, 0.9], methods: [gkd]}`."""
    students: list[str] | None = None
    """Restrict the ablations to these students, by model or name; null means all."""


def require_listed(study: Study) -> None:
    """Refuse ablations of what the study does not have.

    Raises:
        ValueError: Says which, and what to write.
    """
    part = study.ablations
    _require_points(study)
    for i, vary in enumerate(part.vary):
        _require_field(study, vary, f"ablations.vary[{i}]")
    if part.base_teacher and not any(t.finetune for t in study.teacher_models):
        raise ValueError(
            "ablations.base_teacher: no teacher is fine-tuned (finetune: false), so every run "
            "is task-unaware already; remove the ablation"
        )
    names = [name for s in study.students for name in (s.model, s.called)]
    unknown = [s for s in part.students or [] if s not in names]
    if unknown:
        raise ValueError(f"ablations.students: {', '.join(unknown)} is not among students")


def _require_points(study: Study) -> None:
    have = {m.type for m in study.methods}
    for kind in ("temperature", "noise", "base_teacher"):
        part = getattr(study.ablations, kind)
        missing = [m for m in part.methods if m not in have] if part else []
        if missing:
            raise ValueError(
                f"ablations.{kind}: {', '.join(missing)} is not among methods; the curve would "
                "lack its main point; add it to methods or take it out here"
            )


def _require_field(study: Study, part: Vary, at: str) -> None:
    refuse_repeats(f"{at}.values", [json.dumps(v) for v in part.values])
    for name in part.methods:
        listed = [m for m in study.methods if m.type == name]
        if not listed:
            raise ValueError(f"{at}.methods: {name} is not among methods; add it there")
        for value in part.values:
            try:
                part.changed(listed[0], study.train, value)
            except ValidationError as e:
                what = e.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"{at}.values: {part.vary} {value}: {what}") from e
            except ValueError as e:
                raise ValueError(f"{at}.vary: {e}") from e


def _with(part: Any, path: str, value: Any) -> Any:
    """Return a part of the study with a field of it, or of a part of it, at another value."""
    head, _, tail = path.partition(".")
    if head not in type(part).model_fields:
        raise ValueError(
            f"there is no field {head}; known: {', '.join(sorted(type(part).model_fields))}"
        )
    if tail:
        below = getattr(part, head)
        if not isinstance(below, Strict):
            raise ValueError(f"{head} is {below} in this study, so that it has no {tail}")
        value = _with(below, tail, value)
    whole = part.model_dump() | {head: value.model_dump() if isinstance(value, Strict) else value}
    return type(part).model_validate(whole)
