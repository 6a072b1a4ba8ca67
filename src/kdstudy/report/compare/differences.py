"""Two studies side by side: what they share, and how far B's numbers are from A's."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from kdstudy.analysis.families import holm
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from kdstudy.analysis.results import AVERAGE
from kdstudy.records import System
from kdstudy.report.compare.cells import (
    AS_IT_IS,
    ENDS,
    SAME_RUN,
    Cells,
    Row,
    against,
    agreement_cells,
    averages,
    graded_cells,
    spread_of,
)
from kdstudy.report.compare.match import KEY, StudyRows, draws, key_of, pairs, refuse_benchmarks

KINDS = ("distilled", "sft", "teacher", "base")
"""Kinds of systems as people ask for them."""

TESTED = ("accuracy", "rouge_l")
PLAIN = ("parse_rate", "agreement", "bleu_corpus")
COLUMNS = [
    *("system_a", "system_b", "draw_of", *KEY, "benchmark", "reference", "metric", "how"),
    *("a", "b", *ENDS, "seeds", "sd_a", "sd_b", "sd", "p", "p_holm", "family"),
    *("better", "worse", "n", "n_a", "n_b", "signature"),
]
_WHAT = {"accuracy": "", "rouge_l": "", "agreement": "same answer, "}

Matched = tuple[System, System]
"""A run of study A and the same run of study B."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One study as it is compared.

    Attributes:
        graded: Each run's cells.
        agreements: By run, the cells of each reference, called as in study A.
        runs: Keys of its measurements, as in `StudyRows`.
        labels: Its own labels, by those of study A.
    """

    graded: Mapping[str, Cells]
    agreements: Mapping[str, Mapping[str, Cells]]
    runs: Mapping[tuple[str, str], str]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, study: StudyRows, names: Mapping[str, str]) -> "Side":
        """Lay a study out; `names` are study A's labels of its systems."""
        graded = graded_cells(study)
        agreements: dict[str, dict[str, Cells]] = {}
        for (system, reference), cells in agreement_cells(study, graded).items():
            agreements.setdefault(system, {})[names.get(reference, "")] = cells
        return cls(graded, agreements, study.runs, {a: own for own, a in names.items()})


def compare(a: StudyRows, b: StudyRows, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> pd.DataFrame:
    """Return how study B's numbers differ from A's, system by system and benchmark by benchmark.

    Runs match by `KEY`, benchmarks by name, items by content and gold answer. Accuracy (ROUGE-L of
    free texts) and agreement are compared over the items that both studies have: difference B − A
    with paired bootstrap 95% interval (`intervals.difference`), and the exact McNemar p where both
    drew one answer per item. Where no item matches the difference is unpaired: Newcombe's (1998)
    interval for accuracy, Welch's for ROUGE-L, and no p. `average` is the unweighted mean over
    common benchmarks, its interval by MOVER, its p that of all flips of items in this very mean
    (`flips.flip_p`). Interval and p are brought to agree on 0 (`flips.agreed`).

    Matched runs that differ by their seed alone are draws of one system. It has rows of its own:
    means over those seeds, with interval and p for other items and other seeds
    (`contrasts.contrast`). Rows of its runs name it in `draw_of`.

    Holm's correction covers families: the main grid and the ablations, benchmarks and averages,
    systems and single seeds, accuracy and agreement, each apart. Parse rate, BLEU, and agreement
    where its items are not known, stand as each study has them, without an interval.

    Returns:
        Columns `COLUMNS`. `a` and `b` are fractions (BLEU 0-100); `how` is one of paired, unpaired,
        mixed (an average over both), same run (one measurement that both studies hold) and plain;
        `seeds` are averaged, `sd_a`, `sd_b` and `sd` are sample standard deviations over them of a,
        b and the difference, NaN for one; `better` and `worse` count the items that B alone or A
        alone gets right; `n` items were compared of `n_a` and `n_b`.

    Raises:
        InputError: Nothing was measured in both studies.
    """
    found = pairs(a, b)
    sides = (
        Side.of(a, {x.label: x.label for x, _ in found}),
        Side.of(b, {y.label: x.label for x, y in found}),
    )
    rows: list[Row] = []
    for group in draws(found):
        rows += _system(group, sides, bootstrap)
    if not any(row["metric"] in TESTED for row in rows):
        refuse_benchmarks(a, b)
    rows += _plain(a, b, found, rows)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_holm"] = _holm(table)
    counts = ["better", "worse", "n", "n_a", "n_b", "seeds"]
    table[counts] = table[counts].astype("Int64")
    order = ["kind", "system_a", "metric", "reference", "benchmark"]
    return table.sort_values(
        order, key=lambda c: c.map(KINDS.index) if c.name == "kind" else c, ignore_index=True
    )


def systems_only(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compare` without those of single seeds of a system."""
    return table[table.draw_of == ""]


def _system(group: Sequence[Matched], sides: tuple[Side, Side], bootstrap: Bootstrap) -> list[Row]:
    """Return the rows of one system: of its only run, or its means and those of each run."""
    several = len(group) > 1
    found = []
    for x, y in group:
        rows = [*_tested([(x, y)], sides, bootstrap, several)]
        found += [_identity(x, y, several) | row for row in [*rows, *averages(rows)]]
    if several:
        rows = [*_tested(group, sides, bootstrap, False)]
        found += [_shared_identity(group[0]) | row for row in [*rows, *averages(rows)]]
    return found


def _tested(
    group: Sequence[Matched], sides: tuple[Side, Side], bootstrap: Bootstrap, single: bool
) -> Iterator[Row]:
    """Yield a row per measure and benchmark that both studies have, and that asks for the same.

    Args:
        group: One run, or the runs of one system.
        sides: The two studies.
        bootstrap: How items are drawn again.
        single: The run is one seed of several: it is corrected for with its like.
    """
    part = "ablations" if group[0][0].ablation else "main grid"
    part += ", single seeds" if single else ""
    for reference, matched in _measures(group, sides).items():
        for benchmark in dict.fromkeys(b for old, _, _ in matched for b in old):
            both = [m for m in matched if benchmark in m[0] and benchmark in m[1]]
            old, new = ([m[side][benchmark] for m in both] for side in (0, 1))
            if not both or old[0].metric != new[0].metric:
                continue
            row = against(old, new, bootstrap) | {"benchmark": benchmark, "reference": reference}
            row["family"] = f"B − A by item, {_WHAT[row['metric']]}{part}, tasks"
            if all(benchmark in same for *_, same in both):
                row |= {"how": SAME_RUN, "p": np.nan}
            yield row


def _measures(
    group: Sequence[Matched], sides: tuple[Side, Side]
) -> dict[str, list[tuple[Cells, Cells, set[str]]]]:
    """Return what can be compared: "" for grades, the reference for agreement.

    Each with the cells of every run in both studies, and the benchmarks on which they are one and
    the same measurement.
    """
    a, b = sides
    found: dict[str, list[tuple[Cells, Cells, set[str]]]] = {}
    for x, y in group:
        same = _same(sides, x.label, y.label)
        found.setdefault("", []).append((a.graded[x.label], b.graded[y.label], same))
        theirs = b.agreements.get(y.label, {})
        for reference, cells in a.agreements.get(x.label, {}).items():
            if not reference or reference not in theirs:
                continue
            name = reference.removesuffix(f"/seed={x.seed}") if len(group) > 1 else reference
            both = same & _same(sides, reference, b.labels[reference])
            found.setdefault(name, []).append((cells, theirs[reference], both))
    return found


def _same(sides: tuple[Side, Side], a: str, b: str) -> set[str]:
    """Return the benchmarks on which both studies hold one and the same measurement."""
    mine = {(name, key) for (label, name), key in sides[0].runs.items() if label == a}
    theirs = {(name, key) for (label, name), key in sides[1].runs.items() if label == b}
    return {name for name, _ in mine & theirs}


def _plain(
    a: StudyRows, b: StudyRows, found: Sequence[Matched], tested: Sequence[Row]
) -> list[Row]:
    """Return parse rate, agreement and BLEU as each study has them, and their averages."""
    twin = {y.label: x.label for x, y in found} | {"": ""}
    several = {x.label: group for group in draws(found) for x, _ in group if len(group) > 1}
    own = {x.label: (x, y) for x, y in found}
    key = ["system", "reference", "benchmark", "metric"]
    shown = [*key, "value", "n", "signature"]
    left, right = (s.table.loc[s.table.metric.isin(PLAIN), shown] for s in (a, b))
    right = right.assign(system=right.system.map(twin), reference=right.reference.map(twin))
    known = pd.DataFrame(tested)[["system_a", "reference", "benchmark", "metric"]].rename(
        columns={"system_a": "system"}
    )
    by_item = set(known[known.metric == "agreement"][key].itertuples(index=False, name=None))
    known = known[known.metric.isin(TESTED) & (known.benchmark != AVERAGE)]
    known = known.rename(columns={"metric": "tested"}).drop(columns="reference")
    both = left.merge(right, on=key, suffixes=("_a", "_b")).merge(known, on=["system", "benchmark"])
    apart = [k not in by_item for k in both[key].itertuples(index=False, name=None)]
    both = both[np.array(apart, dtype=bool)]
    rows = []
    for (system, reference, metric), part in both.groupby(["system", "reference", "metric"]):
        base = {"reference": reference, "metric": metric, "how": AS_IT_IS}
        lines = [base | row for row in _lines(part)]
        rows += [_identity(*own[system], system in several) | row for row in lines]
    return [*rows, *_plain_means(rows, several)]


def _plain_means(rows: Sequence[Row], several: Mapping[str, Sequence[Matched]]) -> list[Row]:
    """Return the means over seeds of rows without an interval."""
    parts: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["draw_of"]:
            reference = row["reference"].removesuffix(f"/seed={row['seed']}")
            key = (row["draw_of"], reference, row["metric"], row["benchmark"])
            parts.setdefault(key, []).append(row)
    found = []
    for (_, reference, _, _), part in parts.items():
        before, after = (np.array([r[side] for r in part]) for side in ("a", "b"))
        row = part[0] | _shared_identity(several[part[0]["system_a"]][0])
        change = {"difference": float((after - before).mean()), "reference": reference}
        found.append(row | change | spread_of(before, after))
    return found


def _lines(part: pd.DataFrame) -> Iterator[Row]:
    """Yield one measure of one system by benchmark, then its mean (over answers if any)."""
    for r in part.itertuples():
        sign = f"{r.signature_a} / {r.signature_b}"
        yield _line(r.benchmark, r.value_a, r.value_b, r.n_a, r.n_b, sign)
    answers = part[part.tested == "accuracy"]
    part = answers if len(answers) else part
    values, sizes = part[["value_a", "value_b"]].mean(), part[["n_a", "n_b"]].sum()
    yield _line(AVERAGE, *values, *sizes, f"mean of {len(part)} benchmarks")


def _line(name: str, old: float, new: float, n_a: int, n_b: int, sign: str) -> Row:
    value = {"a": float(old), "b": float(new), "difference": float(new - old), "seeds": 1}
    return value | {"benchmark": name, "n_a": int(n_a), "n_b": int(n_b), "signature": sign}


def _identity(x: System, y: System, several: bool) -> Row:
    """Return what a run is; one of several seeds names its system."""
    named = dict(zip(KEY, key_of(x), strict=True))
    more = {"draw_of": _name(x) if several else "", "p": np.nan, "family": ""}
    return {"system_a": x.label, "system_b": y.label} | named | more


def _shared_identity(run: Matched) -> Row:
    """Return what a system of several seeds is, given one of its runs."""
    names = {"system_a": _name(run[0]), "system_b": _name(run[1])}
    return _identity(*run, False) | names


def _name(system: System) -> str:
    return system.label.removesuffix(f"/seed={system.seed}")


def _holm(table: pd.DataFrame) -> pd.Series:
    """Return Holm's p inside each family; a row without a p does not count."""
    found = pd.Series(np.nan, index=table.index)
    for _, part in table[table.p.notna() & (table.family != "")].groupby("family"):
        found[part.index] = holm(part.p.to_numpy(float))
    return found
