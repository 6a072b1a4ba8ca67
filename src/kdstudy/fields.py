"""The base of every type that a user writes: immutable, and unknown keys are refused."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

TAGS = ("of one form", "of the other")
"""Branches of a field that has two forms; an error's path leaves them out."""


class Strict(BaseModel):
    """A part of the study: immutable, and unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added later: a dump lacks them where they have their default, which is what
    was the case before, so that the keys of older stages stay."""

    @model_serializer(mode="wrap")
    def _without_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        made = dump(self)
        for name in self.LATER & made.keys():
            if getattr(self, name) == type(self).model_fields[name].get_default():
                del made[name]
        return made

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                known = (
                    f"did you mean '{near[0]}'?"
                    if near
                    else f"known: {', '.join(cls.model_fields)}"
                )
                raise PydanticCustomError(
                    "unknown_key", "unknown key '{key}'; {known}", {"key": str(key), "known": known}
                )
        return value


def refuse_repeats(field: str, values: list[Any]) -> None:
    """Raise ValueError where a value of a field's list is there twice."""
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"{field}: {', '.join(twice)} is listed twice; list each once")
