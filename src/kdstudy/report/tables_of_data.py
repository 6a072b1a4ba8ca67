"""Tables about the data and its traps: sizes, contamination, alarms of collapse."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.measures import MEASURES, Measure
from kdstudy.measures.cell import GROUPS
from kdstudy.records import OVERLAPS
from kdstudy.report.alarms import alarms
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, number, rows_link
from kdstudy.report.views import Numbers

_HELD = {
    "exact": "As it is",
    "normalised": "But for case and spacing",
    "masked": "With other numbers",
    "none": "Not at all",
}
_SIGNS = ("tokens", "truncated_rate", "repetition", "parse_rate")
_ELSEWHERE = {"accuracy", "rouge_l", *_SIGNS}
"""Measures that have a place of their own in the report."""


def data_sheets(
    table: pd.DataFrame,
    seeds: Seeds,
    made: Mapping[str, Any],
    overlaps: pd.DataFrame | None,
) -> list[Sheet]:
    """Return every table about the data; those without rows are empty."""
    return [
        collapse_sheet(table, seeds, made),
        measures_sheet(seeds),
        contamination_sheet(overlaps),
        apart_sheet(seeds),
        sizes_sheet(table, made),
    ]


def collapse_sheet(table: pd.DataFrame, seeds: Seeds, made: Mapping[str, Any]) -> Sheet:
    """Return the signs of collapse of every system, those that raise an alarm first.

    Each run is judged for itself: a mean would hide one collapsed seed.
    """
    found = alarms(table, Numbers(table), made.get("training") or ())
    raised: dict[str, list[str]] = {}
    for alarm in found:
        reasons = "; ".join(alarm.reasons)
        raised[alarm.system] = [reasons]
        if (name := seeds.names.get(alarm.system, alarm.system)) != alarm.system:
            raised.setdefault(name, []).append(f"{_tail(alarm.system, name)}: {reasons}")
    rows = seeds.means[(seeds.means.metric == "tokens") & (seeds.means.benchmark == AVERAGE)]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        signs = {m: numbers.row(r.system, m) for m in _SIGNS}
        return {
            "System": Cell(r.system, rows_link(system=r.system)),
            "Alarm": "; ".join(raised.get(r.system, ())) or "none",
            **{MEASURES[m].column: number(signs[m], bare=True, seeds=r.seeds) for m in _SIGNS},
        }

    note = (
        f"Means over benchmarks. {MEASURES['repetition'].note} "
        "Base models raise no alarm: nobody trained them."
    )
    rows = rows.sort_values("system", key=lambda s: ~s.isin(raised.keys()), kind="stable")
    title = "Length, repetition and parse rate"
    return Sheet.of("collapse", title, **seeds.lines(rows, line, labels=2), note=note, labels=2)


def further(table: pd.DataFrame) -> list[Measure]:
    """Return the measures of one system that no other part of the report shows."""
    there = set(table.metric)
    return [
        m
        for m in MEASURES.values()
        if isinstance(m, Measure) and m.name in there and m.name not in _ELSEWHERE
    ]


def measures_sheet(seeds: Seeds) -> Sheet:
    """Return every further measure of each system, means over benchmarks."""
    known = further(seeds.means)
    rows = seeds.means[seeds.means.metric.isin([m.name for m in known])]
    rows = rows[rows.benchmark == AVERAGE].drop_duplicates("system")

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        found = {m.column: number(numbers.row(r.system, m.name), seeds=r.seeds) for m in known}
        return {"System": Cell(r.system, rows_link(system=r.system))} | found

    note = " ".join(["Means over benchmarks.", *(m.note for m in known)])
    return Sheet.of("measures", "Further measures", **seeds.lines(rows, line), note=note)


def contamination_sheet(overlaps: pd.DataFrame | None) -> Sheet:
    """Return, per benchmark, how many of its items the training corpus holds."""
    rows = [
        {
            "Benchmark": r["benchmark"],
            "Items": f"{r['items']:,}",
            **{_HELD[kind]: f"{r[kind]:,}" for kind in OVERLAPS},
        }
        for r in ([] if overlaps is None else overlaps.reset_index().to_dict("records"))
    ]
    title = "Test items whose question the training corpus holds"
    return Sheet.of("contamination", title, rows)


def apart_sheet(seeds: Seeds) -> Sheet:
    """Return accuracy and gain on clean, renumbered and contaminated items apart."""
    wanted = [f"accuracy_{g}" for g in GROUPS if g != "clean"]
    rows = seeds.means[seeds.means.metric.isin(wanted) & (seeds.means.benchmark != AVERAGE)]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        row = {"System": Cell(r.system, rows_link(system=r.system)), "Benchmark": r.benchmark}
        for what in ("accuracy", "gain"):
            for group in GROUPS:
                found = numbers.row(r.system, f"{what}_{group}", r.benchmark)
                row[f"{what.capitalize()}, {group}"] = number(found, bare=True, seeds=r.seeds)
        return row

    note = (
        "Renumbered: the corpus holds the question with other numbers. Gains in points over SFT. "
        "A group may have few items: each number leads to its interval and n."
    )
    title = "Accuracy and gain on clean, renumbered and contaminated items"
    lines = seeds.lines(rows.drop_duplicates(["system", "benchmark"]), line, labels=2)
    return Sheet.of("apart", title, **lines, note=note, labels=2)


def sizes_sheet(table: pd.DataFrame, made: Mapping[str, Any]) -> Sheet:
    """Return the sizes of all data sets."""
    corpus: Mapping[str, Any] = made.get("corpus") or {}
    rows = []
    if corpus:
        kept = [corpus.get("train", corpus.get("kept")), corpus.get("validation")]
        cells = [f"{n:,}" if n is not None else "–" for n in kept]
        rows.append(_sizes(str(corpus.get("name", "corpus")), *cells, "–"))
    tested = table[table.metric.isin(["accuracy", "rouge_l"]) & (table.benchmark != AVERAGE)]
    known = {name: b.get("n") for name, b in (made.get("benchmarks") or {}).items()}
    known = dict(zip(tested.benchmark, tested.n.astype(int), strict=True)) | known
    rows += [_sizes(b, "–", "–", f"{n:,}") for b, n in sorted(known.items()) if n is not None]
    return Sheet.of("table6", "Rows to learn from, to validate on and to test on", rows)


def _tail(run: str, system: str) -> str:
    """Return what a run's label says beyond its system's, such as `seed 1`."""
    return run.removeprefix(system).strip("/").replace("seed=", "seed ") or run


def _sizes(name: str, *counts: str) -> dict[str, str]:
    columns: Sequence[str] = ("Data set", "Train", "Validation", "Test")
    return dict(zip(columns, (name, *counts), strict=True))
