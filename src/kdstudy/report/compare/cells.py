"""Two cells of two studies: what each item scored under each, and how far apart they are."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans

from kdstudy.analysis.contrasts import Group, contrast
from kdstudy.analysis.flips import agreed, flip_p
from kdstudy.analysis.intervals import Bootstrap, difference, mover
from kdstudy.analysis.results import AVERAGE
from kdstudy.records import is_text
from kdstudy.report.compare.match import StudyRows

PAIRED, UNPAIRED, MIXED, SAME_RUN, AS_IT_IS = "paired", "unpaired", "mixed", "same run", "plain"
ENDS = ("difference", "low", "high")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One run on one benchmark: each item's mean quality over draws, and its gold answer.

    Quality is being right, ROUGE-L, or giving another system's answer: `metric` says which.
    """

    quality: pd.Series
    gold: pd.Series
    draws: int
    rule: str
    metric: str


Cells = Mapping[str, Cell]
"""By benchmark."""


def graded_cells(study: StudyRows) -> dict[str, dict[str, Cell]]:
    """Return each run's graded answers and texts."""
    found: dict[str, dict[str, Cell]] = {}
    for (system, benchmark), part in study.items.groupby(["system", "benchmark"], sort=True):
        by_item = part.groupby("example_id", sort=True)
        rule = "+".join(sorted(set(part.rule)))
        found.setdefault(str(system), {})[str(benchmark)] = Cell(
            quality=by_item.quality.mean(),
            gold=by_item.gold.first(),
            draws=part["sample"].nunique(),
            rule=rule,
            metric="rouge_l" if is_text(rule) else "accuracy",
        )
    return found


def agreement_cells(
    study: StudyRows, graded: Mapping[str, Cells]
) -> dict[tuple[str, str], dict[str, Cell]]:
    """Return, by run and reference, how often they give one answer; texts have none."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    keys = ["system", "reference", "benchmark"]
    for (system, reference, benchmark), part in study.pairs.groupby(keys, sort=True):
        own = graded.get(system, {}).get(benchmark)
        if own is None or own.metric == "rouge_l":
            continue
        found.setdefault((system, reference), {})[benchmark] = Cell(
            quality=part.astype({"agree": float}).groupby("example_id", sort=True).agree.mean(),
            gold=own.gold,
            draws=part["sample"].nunique(),
            rule="same answer",
            metric="agreement",
        )
    return found


def against(old: Sequence[Cell], new: Sequence[Cell], bootstrap: Bootstrap) -> Row:
    """Return how far `new` is from `old`; several of each are seeds of one system.

    `runs` holds the values of each run by item, where items match.
    """
    common, k = _shared_items([*old, *new]), len(old)
    before, after = (_values(cells, common) for cells in (old, new))
    text = old[0].metric == "rouge_l"
    row = {
        "metric": old[0].metric,
        "how": PAIRED if len(common) else UNPAIRED,
        **spread_of(before.mean(axis=1), after.mean(axis=1)),
        "n": len(common),
        "n_a": len(old[0].quality),
        "n_b": len(new[0].quality),
    }
    note = f"rules:{old[0].rule},{new[0].rule}|draws:{old[0].draws},{new[0].draws}"
    if not len(common):
        return row | _unpaired(before.mean(axis=0), after.mean(axis=0), text or k > 1, note)
    row["runs"] = (before, after)
    if k > 1:
        return row | _over_seeds({"": row["runs"]}, note)
    change = after[0] - before[0]
    ends = difference(change, bootstrap)
    row |= {**dict(zip(ENDS, ends, strict=True)), "signature": f"{note}|ci:paired-{bootstrap}"}
    if text or old[0].draws > 1 or new[0].draws > 1:
        return row
    row["signature"] += "|p:mcnemar-exact"
    counts = {"better": int((change > 0).sum()), "worse": int((change < 0).sum())}
    return row | counts | _flipped([change], ends)


def averages(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the means over common benchmarks of one system's rows, each measure for itself."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["metric"], row["reference"]), []).append(row)
    for (metric, reference), part in parts.items():
        kinds = {r["how"] for r in part} - {SAME_RUN} or {SAME_RUN}
        row = {
            "metric": metric,
            "benchmark": AVERAGE,
            "reference": reference,
            "how": kinds.pop() if len(kinds) == 1 else MIXED,
            **spread_of(*(np.mean([r["of_runs"][side] for r in part], axis=0) for side in (0, 1))),
            **{k: sum(r[k] for r in part) for k in ("n", "n_a", "n_b")},
            "family": part[0]["family"].replace("tasks", "averages"),
        }
        row |= _mean_of(part, row["seeds"])
        yield row | ({"p": np.nan} if row["how"] == SAME_RUN else {})


def spread_of(before: np.ndarray, after: np.ndarray) -> Row:
    """Return means and sample standard deviations over runs, given one value of each."""
    several = len(before) > 1
    values = {"sd_a": before, "sd_b": after, "sd": after - before}
    return {
        "a": float(before.mean()),
        "b": float(after.mean()),
        "seeds": len(before),
        "of_runs": (before, after),
        **{k: float(v.std(ddof=1)) if several else np.nan for k, v in values.items()},
    }


def _mean_of(part: Sequence[Row], seeds: int) -> Row:
    note = f"mean of {len(part)} benchmarks"
    if seeds > 1 and all("runs" in r for r in part):
        return _over_seeds({r["benchmark"]: r["runs"] for r in part}, note)
    ends = mover(*([r[k] for r in part] for k in ENDS))
    row = dict(zip(ENDS, ends, strict=True)) | {"signature": f"{note}|ci:mover-95"}
    if all("better" in r for r in part):
        row |= {k: sum(r[k] for r in part) for k in ("better", "worse")}
        changes = [after[0] - before[0] for before, after in (r["runs"] for r in part)]
        row |= _flipped(changes, ends)
        row["signature"] += "|p:flips of items, benchmarks alike"
    return row


def _flipped(changes: Sequence[np.ndarray], ends: Sequence[float]) -> Row:
    """Return the exact p of the mean of benchmarks' means, and an interval that agrees with it."""
    low, high, p = agreed(changes, ends[1], ends[2], flip_p(changes))
    return {"low": low, "high": high, "p": p}


def _over_seeds(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], note: str) -> Row:
    """Return the difference with interval and p for other items and other seeds."""
    found = contrast(
        [
            Group(weight, [{b: both[side][i] for b, both in runs.items()} for i in range(k)])
            for side, weight in ((0, -1.0), (1, 1.0))
            for k in {len(both[side]) for both in runs.values()}
        ]
    )
    row = {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
    return row | {"signature": f"{note}|seeds x items|t:{found.freedom:.1f}"}


def _shared_items(cells: Sequence[Cell]) -> pd.Index:
    common = cells[0].quality.index
    for cell in cells[1:]:
        common = common.intersection(cell.quality.index)
    same = [(cell.gold[common] == cells[0].gold[common]).to_numpy(bool) for cell in cells]
    return common[np.all(same, axis=0)]


def _values(cells: Sequence[Cell], common: pd.Index) -> np.ndarray:
    """Return the qualities, run by item: of the items in common, of all where there are none."""
    own = common if len(common) else cells[0].quality.index
    return np.array([cell.quality[own].to_numpy(float) for cell in cells])


def _unpaired(before: np.ndarray, after: np.ndarray, graded: bool, note: str) -> Row:
    low = high = np.nan
    if graded and min(len(before), len(after)) > 1:
        low, high = CompareMeans.from_data(after, before).tconfint_diff(usevar="unequal")
    elif not graded:
        counts = after.sum(), len(after), before.sum(), len(before)
        low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb")
    return {
        "difference": float(after.mean() - before.mean()),
        "low": float(low),
        "high": float(high),
        "signature": f"{note}|ci:{'welch' if graded else 'newcombe'}-95",
    }
