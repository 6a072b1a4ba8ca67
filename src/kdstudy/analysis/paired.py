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
    flow = table[table.metric.isin(["newly_right", "newly_wrong"])]
    counts = flow.pivot(index=["system", "benchmark"], columns="metric", values=["value", "n"])
    single = set(gains[gains.signature.str.contains("|draws:1|", regex=False)].system)
    found = []
    for row in gains.itertuples():
        where = (row.system, row.benchmark)
        parts = counts.loc[[where]] if row.benchmark != AVERAGE else counts.loc[[row.system]]
        if row.benchmark == AVERAGE:
            parts = parts[parts.index.get_level_values("benchmark") != AVERAGE]
        shares, n = parts["value"], parts["n"]["newly_right"].astype(int)
        changed = [
            np.rint((shares[m] * n).astype(float)).astype(int)
            for m in ("newly_right", "newly_wrong")
        ]
        found.append(_mcnemar(row, *changed, n, row.system in single))
    return corrected(found)


def _mcnemar(row: Any, up: pd.Series, down: pd.Series, items: pd.Series, single: bool) -> Test:
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
    better, worse = int(up.sum()), int(down.sum())
    tested = single and better + worse > 0
    low, high, p = float(row.low), float(row.high), math.nan
    if tested:
        changes = [
            np.repeat([1.0, -1.0, 0.0], [u, d, k - u - d])
            for u, d, k in zip(up, down, items, strict=True)
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
