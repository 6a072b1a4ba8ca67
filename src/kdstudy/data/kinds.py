"""The kinds of stage of this room, and what each is told."""

import dataclasses
from collections.abc import Mapping

from kdstudy.artifacts import Contaminations, Corpus, ReplayCorpus
from kdstudy.stage import Config, Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig(Config):
    """Of `corpus` and `replay_corpus`.

    Attributes:
        name: What the corpus is called.
        fingerprint: Hash of its file.
        kind: Type of the file: the same bytes are other rows as CSV than as TSV.
        columns: Names of the file's columns, by what they hold.
        rows: How many to take; None for all.
        validation_rows: How many of them to hold out; None for a share.
        seed: Draws both.
    """

    name: str
    fingerprint: str
    kind: str
    columns: Mapping[str, str]
    rows: int | None
    validation_rows: int | None
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContaminationConfig(Config):
    """Of `contamination`: which benchmark is looked for."""

    benchmark: str


KINDS = {
    "corpus": Kind(config=CorpusConfig, version=4, writes=Corpus),
    "replay_corpus": Kind(
        entry="kdstudy.data.stages:corpus", config=CorpusConfig, writes=ReplayCorpus
    ),
    "contamination": Kind(config=ContaminationConfig, writes=Contaminations),
}
