"""Item-by-item tests of one run: each distilled system against its own SFT run."""

import math
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.families import corrected
from kdstudy.analysis.flips import agreed, flip_p
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points

EQUIVALENCE_MARGIN = 0.02
"""Two methods count as equally good when their accuracies differ by less (two points)."""


def paired_tests(table: pd.DataFrame) -> list[Test]:
    """Return exact McNemar tests of every distilled system against its own SFT run.

    An average weighs every benchmark alike, and so do the flips of its items' outcomes behind its
    p. The interval is the table's, brought to agree with p (`flips.agreed`). Holm's correction
    covers two families apart: all benchmarks of the main grid, and its averages. Ablations are not
    corrected.
    """
    gains = table[table.metric == "gain"]
    changed = _changed(table)
    single = set(gains[gains.signature.str.contains("|draws:1|", regex=False)].system)
    found = []
    for row in gains.itertuples():
        own = changed[row.system]
        over = sorted(own.keys() - {AVERAGE}) if row.benchmark == AVERAGE else [row.benchmark]
        found.append(_mcnemar(row, [own[b] for b in over], row.system in single))
    return corrected(found)


def _changed(table: pd.DataFrame) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Return how many items became right and wrong, of how many, by system and benchmark."""

    def counts(metric: str) -> dict[tuple[str, str], tuple[int, int]]:
        rows = table[table.metric == metric]
        cells = zip(rows.system, rows.benchmark, rows.value, rows.n, strict=True)
        return {(s, b): (int(np.rint(share * n)), int(n)) for s, b, share, n in cells}

    found: dict[str, dict[str, tuple[int, int, int]]] = {}
    worse = counts("newly_wrong")
    for (system, benchmark), (up, n) in counts("newly_right").items():
        down, _ = worse[system, benchmark]
        found.setdefault(system, {})[benchmark] = up, down, n
    return found


def _mcnemar(row: Any, changed: list[tuple[int, int, int]], single: bool) -> Test:
    n = int(row.n)
    where = "average" if row.benchmark == AVERAGE else "tasks"
    shared = {
        "table": "paired",
        "name": "gain over SFT, exact McNemar",
        "subject": row.system,
        "scope": row.benchmark,
        "n": n,
        "clusters": n,
        "signature": f"mcnemar|exact|{row.signature}",
        "family": "" if row.ablation else f"gain over SFT by item, {where}",
    }
    better, worse, _ = (sum(counts) for counts in zip(*changed, strict=True))
    tested = single and better + worse > 0
    low, high, p = float(row.low), float(row.high), math.nan
    if tested:
        changes = [
            np.repeat([1.0, -1.0, 0.0], [up, down, items - up - down])
            for up, down, items in changed
        ]
        low, high, p = agreed(changes, low, high, flip_p(changes))
    effect = {"estimate": float(row.value), "low": low, "high": high}
    text = f"{row.system} on {row.benchmark}: {points(row.value)} points over SFT"
    interval = f"95% interval {points(low)} to {points(high)}"
    if not tested:
        why = "no item changed its outcome" if single else "several draws per item"
        return empty(shared, f"{text} ({interval}); no McNemar test: {why}.", **effect)
    sentence = (
        f"{text} ({interval}); of {n} items {better} became right and {worse} wrong, "
        f"p = {format_p(p)}."
    )
    return Test(**shared, **effect, statistic=float(better + worse), p=p, sentence=sentence)
