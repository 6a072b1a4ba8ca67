"""Item-by-item tests: each distilled system against its own SFT run, and method against method."""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from kdstudy.analyze.families import corrected
from kdstudy.analyze.results import AVERAGE, cells_of
from kdstudy.analyze.verdict import Test, empty, format_p, points
from kdstudy.records import Score, System

EQUIVALENCE_MARGIN = 0.02
"""Two methods count as equally good when their accuracies differ by less (two points)."""


def paired_tests(table: pd.DataFrame) -> list[Test]:
    """Return exact McNemar tests of every distilled system against its own SFT run.

    Holm's correction covers two families apart: all benchmarks of the main grid, and its averages
    (there the items of all benchmarks are pooled for p). Ablations are not corrected.
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
        shares, n = parts["value"], parts["n"]["newly_right"]
        up, down = (float((shares[m] * n).sum()) for m in ("newly_right", "newly_wrong"))
        found.append(_mcnemar(row, up, down, row.system in single))
    return corrected(found)


def method_tests(systems: Sequence[System], scores: Mapping[str, Sequence[Score]]) -> list[Test]:
    """Return item-by-item differences between methods, over the runs that both have.

    Students, teachers and seeds are taken as they are; the interval says what other test items
    could have shown. Holm's correction covers two families: the averages, and all benchmarks.
    """
    return compare_methods(_runs_by_method(systems, scores))


Run = Mapping[str, np.ndarray]
"""One run: per benchmark, each item's share of right draws, in an order all runs share."""


def compare_methods(runs: Mapping[str, Mapping[Hashable, Run]]) -> list[Test]:
    """Return `method_tests` for runs by method and by what they were run on."""
    found = []
    for a, b in itertools.combinations(sorted(runs), 2):
        shared = sorted(runs[a].keys() & runs[b].keys())
        if not shared:
            continue
        changes = _mean_changes([runs[a][k] for k in shared], [runs[b][k] for k in shared])
        found += [_difference({s: d}, a, b, s, len(shared)) for s, d in changes.items()]
        found.append(_difference(changes, a, b, AVERAGE, len(shared)))
    return [_with_verdict(t) for t in corrected(found)]


def _family(what: str, scope: str) -> str:
    return f"{what} by item, {'average' if scope == AVERAGE else 'tasks'}"


def _mcnemar(row: Any, up: float, down: float, single: bool) -> Test:
    n = int(row.n)
    shared = {
        "table": "paired",
        "name": "gain over SFT, exact McNemar",
        "subject": row.system,
        "scope": row.benchmark,
        "n": n,
        "clusters": n,
        "signature": f"mcnemar|exact|{row.signature}",
        "family": "" if row.ablation else _family("gain over SFT", row.benchmark),
    }
    effect = {"estimate": float(row.value), "low": float(row.low), "high": float(row.high)}
    text = f"{row.system} on {row.benchmark}: {points(row.value)} points over SFT"
    interval = f"95% interval {points(row.low)} to {points(row.high)}"
    if not single or round(up) + round(down) == 0:
        why = "no item changed its outcome" if single else "several draws per item"
        return empty(shared, f"{text} ({interval}); no McNemar test: {why}.", **effect)
    better, worse = round(up), round(down)
    p = float(mcnemar([[0, better], [worse, 0]], exact=True).pvalue)
    sentence = (
        f"{text} ({interval}); of {n} items {better} became right and {worse} wrong, "
        f"p = {format_p(p)}."
    )
    return Test(**shared, **effect, statistic=float(better + worse), p=p, sentence=sentence)


def _runs_by_method(systems: Sequence[System], scores: Mapping[str, Sequence[Score]]) -> dict:
    runs: dict[str, dict[tuple, dict]] = {}
    for s in systems:
        if s.kind == "distilled" and not s.ablation and s.label in scores:
            cells = cells_of(s.label, scores[s.label])
            # A free text is neither right nor wrong: it would count as a tie.
            right = {b: c.share("correct") for b, c in cells.items() if not c.text}
            if right:
                runs.setdefault(s.method, {})[s.model, s.teacher, s.seed] = right
    return runs


def _mean_changes(first: Sequence[Run], second: Sequence[Run]) -> dict[str, np.ndarray]:
    """Return per benchmark each item's mean difference in correctness over matched runs."""
    common = set.intersection(*(set(c) for c in (*first, *second)))
    return {
        b: np.mean([x[b] - y[b] for x, y in zip(first, second, strict=True)], axis=0)
        for b in sorted(common)
    }


def _difference(changes: Mapping[str, np.ndarray], a: str, b: str, scope: str, runs: int) -> Test:
    n = sum(map(len, changes.values()))
    shared = {
        "table": "methods",
        "name": "paired difference in accuracy",
        "subject": f"{a} − {b}",
        "scope": scope,
        "n": n,
        "clusters": n,
        "signature": f"paired-z|runs:{runs}|benchmarks:{len(changes)}|margin:{EQUIVALENCE_MARGIN}",
        "family": _family("method against method", scope),
    }
    mean = float(np.mean([d.mean() for d in changes.values()]))
    if any(len(d) < 2 for d in changes.values()):
        return empty(shared, f"{a} and {b} on {scope}: fewer than two items.", estimate=mean)
    error = math.sqrt(sum(d.var(ddof=1) / len(d) for d in changes.values())) / len(changes)
    if error == 0:
        return empty(shared, f"{a} and {b} on {scope}: no item tells them apart.", estimate=mean)
    low, high = stats.norm.interval(0.95, mean, error)
    z = mean / error
    sentence = (
        f"{a} − {b}: {points(mean)} points, 95% interval {points(low)} to {points(high)}, "
        f"{runs} matched runs, {n} items"
    )
    numbers = {"statistic": z, "estimate": mean, "low": float(low), "high": float(high)}
    return Test(**shared, **numbers, p=float(2 * stats.norm.sf(abs(z))), sentence=sentence)


def _with_verdict(test: Test) -> Test:
    """Put the verdict first: equivalent, better, or cannot tell.

    Equivalent is two one-sided tests at 5%, that is a 90% interval inside the margin. Better needs
    Holm's p, since several pairs of methods are looked at.
    """
    if math.isnan(test.p):
        return test
    a, b = test.subject.split(" − ")
    half = (test.high - test.low) / 2 * stats.norm.ppf(0.95) / stats.norm.ppf(0.975)
    if abs(test.estimate) + half < EQUIVALENCE_MARGIN:
        verdict = f"{a} and {b} are equivalent within {100 * EQUIVALENCE_MARGIN:g} points"
    elif test.p_adjusted < 0.05:
        better, worse = (a, b) if test.estimate > 0 else (b, a)
        verdict = f"{better} is better than {worse}"
    else:
        verdict = f"Cannot tell {a} and {b} apart with this many items"
    numbers = f"{test.sentence}, Holm p = {format_p(test.p_adjusted)}"
    return dataclasses.replace(test, sentence=f"{verdict} on {test.scope} ({numbers}).")
