"""GSM8K's flexible extract: the last number of a text."""

from typing import ClassVar, Literal

from kdstudy.evaluation.graders.filters import Published


class FlexibleExtract(Published):
    """The last number of a text, whatever it says of it."""

    filter: ClassVar[str] = "flexible"
    type: Literal["flexible"] = "flexible"
    """Which grader this is."""
