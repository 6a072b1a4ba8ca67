"""The base of every type that a user writes: immutable, and unknown keys are refused."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

TAGS = ("of one form", "of the other")
"""Branches of a field that has two forms; an error's path leaves them out."""


class Strict(BaseModel):
    """A part of the study: immutable, and unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
