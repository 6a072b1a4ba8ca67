"""The kinds of stage of this room, and what each is told."""

import dataclasses

from kdstudy.artifacts import CutModel, Importance
from kdstudy.config.cuts import By
from kdstudy.data.prompts import Prompted
from kdstudy.stage import Config, Kind, Stage, kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(Config):
    """A model's bytes, and whether code that comes with it runs."""

    fingerprint: str
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Source):
    """A model under the name that the study's labels have."""

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceConfig(Prompted):
    """Of `importance`.

    Attributes:
        source: The model that is measured.
        max_length: Most tokens of a row.
        rows: How many training rows to measure it on.
        neurons: Whether MLPs are measured.
    """

    source: Source
    max_length: int
    rows: int
    neurons: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutConfig(Config):
    """Of `cut`: the model that is cut, and the fields of `cuts.Cut`."""

    source: Source
    layers: int | tuple[int, ...] | None = None
    by: By = "spacing"
    intermediate: int | None = None


def named_in(stage: Stage) -> list[Named]:
    """Return the models that a stage is told of under a name."""
    config = kinds()[stage.kind].config.of(stage.config)
    values = [getattr(config, field.name) for field in dataclasses.fields(config)]
    several = [value if isinstance(value, tuple) else (value,) for value in values]
    return [one for value in several for one in value if isinstance(one, Named)]


KINDS = {
    "importance": Kind(config=ImportanceConfig, writes=Importance, needs_model=True),
    "cut": Kind(config=CutConfig, writes=CutModel, needs_model=True),
}
