"""What stages found that asked models again for the loss statement, by line, pair and benchmark."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from kdstudy.analysis.probed import CORPUS
from kdstudy.artifacts import Artifact, Memorised, OwnText, Reasoning
from kdstudy.measures import reasoning
from kdstudy.records import System

Probes = Mapping[str, Mapping[tuple[str, str], Mapping[str, pd.DataFrame]]]
"""By name of the line, by (run, teacher), by benchmark: a row per item."""


def found(opened: Iterable[tuple[str, Artifact]], systems: Sequence[System]) -> Probes:
    """Return the frames that `analysis.probed` takes.

    Args:
        opened: What stages left, each with its stage's label.
        systems: Of the study.
    """
    told: dict[str, dict[tuple[str, str], dict[str, pd.DataFrame]]] = {}
    pairs = {f"{s.label} with {t} on ": (s.label, t) for s in systems for t in s.teachers}
    went_on: dict[tuple[str, str], pd.DataFrame] = {}
    for label, artifact in opened:
        match artifact:
            case OwnText() if len(frame := artifact.table.read()):
                benchmark = str(frame.benchmark.iloc[0])
                if (pair := pairs.get(label.removesuffix(benchmark))) is not None:
                    told.setdefault("own_text", {}).setdefault(pair, {})[benchmark] = frame
            case Reasoning() if len(frame := artifact.table.read()):
                benchmark = str(frame.benchmark.iloc[0])
                went_on[label.removesuffix(f" on {benchmark}"), benchmark] = frame
            case Memorised() if len(frame := artifact.table.read()):
                for pair in pairs.values():
                    if pair[0] == label:
                        told.setdefault("memorised", {})[pair] = {CORPUS: frame}
    if reasoned := _beside(went_on, pairs.values()):
        told["reasoning"] = reasoned
    return told


def _beside(
    found: Mapping[tuple[str, str], pd.DataFrame], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, pd.DataFrame]]:
    """Return each system's outcomes beside its teacher's, by pair and benchmark."""
    benchmarks = sorted({benchmark for _, benchmark in found})
    told: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for own, teacher in pairs:
        for b in benchmarks:
            if (own, b) in found and (teacher, b) in found:
                both = reasoning.beside(found[own, b], found[teacher, b])
                told.setdefault((own, teacher), {})[b] = both
    return told
