"""The kind of stage of this room, and what it is told."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.artifacts import Report
from kdstudy.stage import Config, Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Of `report`.

    Attributes:
        study: The study, as JSON has it.
        protocol_differences: What it does otherwise than its preset, in words.
        epochs: What is to be said of each method's epochs, by its name; empty where all have as
            many.
        only_starts: Keys of the train stages that others start from and no system is; None where
            `epochs` is empty.
        origins: Where models were read from, by name.
        prompts_apart: By pair, that a student and its teacher are asked in different prompts.
    """

    study: Mapping[str, Any]
    protocol_differences: Sequence[Any]
    epochs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only_starts: Sequence[str] | None = None
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompts_apart: Mapping[str, str] = dataclasses.field(default_factory=dict)


KINDS = {
    "report": Kind(config=ReportConfig, version=9, writes=Report),
}
