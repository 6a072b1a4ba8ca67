"""The kind of stage of this room, and what it is told."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.artifacts import Results
from kdstudy.stage import Config, Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultsConfig(Config):
    """Of `results`: the study's name, and each system's `System.row`."""

    study: str
    systems: Sequence[Mapping[str, Any]]


KINDS = {
    "results": Kind(config=ResultsConfig, version=9, writes=Results),
}
