"""Variants of benchmarks: answers paired with those to the same items as they are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from kdstudy.analysis.losses import Cells, Varied, least_known, over_items_and_seeds
from kdstudy.measures.cell import cells_of
from kdstudy.measures.robustness import LOSSES, Changed, paired
from kdstudy.records import Score, System

COLUMNS = [
    *("system", "kind", "variant", "benchmark", "before", "after"),
    *("change", "low", "high", "sd", "seeds", "n"),
]
"""Of `changes`: accuracy on the items as they are and in the variant, and the second less the
first with its 95% interval; all fractions."""


def varied_cells(
    scores: Mapping[str, Iterable[Score]], cells: Cells, facts: Mapping[str, Mapping[str, Any]]
) -> Varied:
    """Return answers to variants beside those to the originals, where both are there.

    Args:
        scores: Graded answers to variants, by system label.
        cells: Graded answers to the benchmarks (`losses.cells_of_items`).
        facts: Of each variant, by its name: `original` and `variant`.

    Raises:
        InputError: A variant has an item that its benchmark has not.
    """
    found: dict[str, dict[str, dict[str, Changed]]] = {}
    for label, rows in scores.items():
        for name, cell in cells_of(label, list(rows)).items():
            told = facts.get(name)
            original = told and cells.get(label, {}).get(told["original"])
            if told and original is not None:
                pair = paired(original, cell, f"{label}: {name}")
                found.setdefault(told["variant"], {}).setdefault(label, {})[told["original"]] = pair
    return found


def changes(
    varied: Varied,
    systems: Sequence[System],
    names: Mapping[str, str],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """Return what each variant does to each system's accuracy; columns `COLUMNS`.

    Args:
        varied: Answers to variants.
        systems: Of the study.
        names: The system that each run is a draw of (`results.names_of`).
        bootstrap: How items are drawn again.
    """
    runs: dict[str, list[System]] = {}
    for system in systems:
        runs.setdefault(names.get(system.label, system.label), []).append(system)
    rows = []
    for variant in (v for v in LOSSES if v in varied):
        for name, own in runs.items():
            there = [varied[variant].get(run.label, {}) for run in own]
            for benchmark in sorted({b for part in there for b in part}):
                pairs = [part[benchmark] for part in there if benchmark in part]
                shared = {"system": name, "kind": own[0].kind, "variant": variant}
                rows.append(shared | {"benchmark": benchmark} | _moved(pairs, bootstrap))
    return pd.DataFrame(rows, columns=COLUMNS)


def _moved(pairs: Sequence[Changed], bootstrap: Bootstrap) -> dict[str, Any]:
    n = len(pairs[0].ids)
    weights = np.vstack([np.ones(n), bootstrap.weights(n)])
    moves = np.array([p.moves for p in pairs])
    moved = moves @ weights.T / weights.sum(axis=1)
    least = least_known([moves.mean(axis=0)], pairs=1)
    change, low, high, sd = over_items_and_seeds(moved, n - 1, least)
    return {
        "before": float(np.mean([p.before.mean() for p in pairs])),
        "after": float(np.mean([p.after.mean() for p in pairs])),
        **{"change": change, "low": low, "high": high, "sd": sd, "seeds": len(pairs), "n": n},
    }
