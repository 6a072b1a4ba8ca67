"""GSM8K's strict match: the number behind the first `####`."""

from typing import ClassVar, Literal

from kdstudy.evaluation.graders.filters import Published


class StrictMatch(Published):
    """The number that stands behind `#### `, where GSM8K's worked answers have theirs."""

    filter: ClassVar[str] = "strict"
    type: Literal["strict"] = "strict"
    """Which grader this is."""
