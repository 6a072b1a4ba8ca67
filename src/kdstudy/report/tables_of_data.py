"""Tables about the data and its traps: sizes, contamination, alarms of collapse."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analyze.measures import GROUPS
from kdstudy.analyze.results import AVERAGE
from kdstudy.records import OVERLAPS
from kdstudy.report.alarms import alarms
from kdstudy.report.sheet import Cell, Sheet, number, rows_link
from kdstudy.report.views import Numbers

_HELD = {
    "exact": "As it is",
    "normalised": "But for case and spacing",
    "masked": "With other numbers",
    "none": "Not at all",
}
_SIGNS = {
    "tokens": "Tokens per text",
    "truncated_rate": "Cut",
    "repetition": "Repetition",
    "parse_rate": "Parsed",
}


def data_sheets(
    table: pd.DataFrame,
    numbers: Numbers,
    made: Mapping[str, Any],
    overlaps: pd.DataFrame | None,
) -> list[Sheet]:
    """Return every table about the data; those without rows are empty."""
    return [
        collapse_sheet(table, numbers, made),
        contamination_sheet(overlaps),
        apart_sheet(table, numbers),
        sizes_sheet(table, made),
    ]


def collapse_sheet(table: pd.DataFrame, numbers: Numbers, made: Mapping[str, Any]) -> Sheet:
    """Return the signs of collapse of every system, those that raise an alarm first."""
    raised = {a.system: a.reasons for a in alarms(table, numbers, made.get("training") or ())}
    systems = table[(table.metric == "tokens") & (table.benchmark == AVERAGE)].system
    rows = [
        {
            "System": Cell(system, rows_link(system=system)),
            "Alarm": "; ".join(raised.get(system, ())) or "none",
            **{n: number(numbers.row(system, m), bare=True) for m, n in _SIGNS.items()},
        }
        for system in sorted(systems, key=lambda s: s not in raised)
    ]
    note = (
        "Means over benchmarks. Repetition: share of a text's word 4-grams that it holds before "
        "(seq-rep-4). Base models raise no alarm: nobody trained them."
    )
    return Sheet.of("collapse", "Length, repetition and parse rate", rows, note=note, labels=2)


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


def apart_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return accuracy and gain on clean, renumbered and contaminated items apart."""
    wanted = [f"accuracy_{g}" for g in GROUPS if g != "clean"]
    rows = table[table.metric.isin(wanted) & (table.benchmark != AVERAGE)]
    rows = rows.drop_duplicates(["system", "benchmark"])
    found = []
    for r in rows.itertuples():
        row = {"System": Cell(r.system, rows_link(system=r.system)), "Benchmark": r.benchmark}
        for what in ("accuracy", "gain"):
            for group in GROUPS:
                found_row = numbers.row(r.system, f"{what}_{group}", r.benchmark)
                row[f"{what.capitalize()}, {group}"] = number(found_row, bare=True)
        found.append(row)
    note = (
        "Renumbered: the corpus holds the question with other numbers. Gains in points over SFT. "
        "A group may have few items: each number leads to its interval and n."
    )
    title = "Accuracy and gain on clean, renumbered and contaminated items"
    return Sheet.of("apart", title, found, note=note, labels=2)


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


def _sizes(name: str, *counts: str) -> dict[str, str]:
    columns: Sequence[str] = ("Data set", "Train", "Validation", "Test")
    return dict(zip(columns, (name, *counts), strict=True))
