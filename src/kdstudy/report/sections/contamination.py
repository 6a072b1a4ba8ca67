"""Contamination: test items that the training corpus holds, and results without them."""

from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import points
from kdstudy.measures.cell import GROUPS
from kdstudy.records import OVERLAPS
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, bare, rows_link
from kdstudy.report.views import Numbers, units

_HELD = {
    "exact": "As it is",
    "normalised": "But for case and spacing",
    "masked": "With other numbers",
    "none": "Not at all",
}


def section(data: ReportData) -> Section:
    """Return how many test items the corpus holds, and the results with and without them."""
    overlaps = overlap_counts(data.items)
    said = Text(sentence(data.seeds.means, overlaps))
    blocks = [said, contamination_sheet(overlaps), apart_sheet(data.seeds)]
    return Section("contamination", "Contamination", blocks)


def sentence(table: pd.DataFrame, overlaps: pd.DataFrame) -> str:
    """Say how many test items the corpus holds and what the gain is on the others."""
    if overlaps.empty:
        return "No benchmark was searched for in the corpus, so 0 items are known to be in it."
    total = int(overlaps["items"].sum())
    held, masked = int((overlaps.exact + overlaps.normalised).sum()), int(overlaps.masked.sum())
    text = (
        f"Of {total:,} test items the training corpus holds {held:,} and another {masked:,} with "
        "other numbers."
    )
    main = table[(table.kind == "distilled") & (table.ablation == "")]
    main = main[main.benchmark.isin(overlaps.index)]
    key = ["system", "benchmark"]
    clean, all_items = (main[main.metric == m][[*key, "value"]] for m in ("gain_clean", "gain"))
    both = all_items.merge(clean, on=key, suffixes=("", "_clean"))
    if (held or masked) and len(both):
        number, named = both.system.nunique(), units(main)
        number = f"one {named.removesuffix('s')}" if number == 1 else f"{number} {named}"
        where = "this benchmark" if both.benchmark.nunique() == 1 else "these benchmarks"
        text += (
            f" On the clean items of {where} the mean gain over SFT of {number} is "
            f"{points(both.value_clean.mean())} points, on all items of {where} "
            f"{points(both.value.mean())}."
        )
    return text


def overlap_counts(items: pd.DataFrame) -> pd.DataFrame:
    """Return, per benchmark that was looked at, how many items the corpus holds and how.

    Columns: items, then one per kind of `records.OVERLAPS`.
    """
    once = items[items.overlap != ""].drop_duplicates(["benchmark", "example_id"])
    counts = pd.crosstab(once.benchmark, once.overlap).reindex(columns=OVERLAPS, fill_value=0)
    return counts.assign(items=counts.sum(axis=1))


def contamination_sheet(overlaps: pd.DataFrame) -> Sheet:
    """Return, per benchmark, how many of its items the training corpus holds."""
    rows = [
        {
            "Benchmark": r["benchmark"],
            "Items": f"{r['items']:,}",
            **{_HELD[kind]: f"{r[kind]:,}" for kind in OVERLAPS},
        }
        for r in overlaps.reset_index().to_dict("records")
    ]
    title = "Test items whose question the training corpus holds"
    return Sheet.of("contamination", title, rows, open=True)


def apart_sheet(seeds: Seeds) -> Sheet:
    """Return accuracy and gain on clean, renumbered and contaminated items apart."""
    wanted = [f"accuracy_{g}" for g in GROUPS if g != "clean"]
    rows = seeds.means[seeds.means.metric.isin(wanted) & (seeds.means.benchmark != AVERAGE)]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        row = {"System": Cell(r.system, rows_link(system=r.system)), "Benchmark": r.benchmark}
        for what in ("accuracy", "gain"):
            for group in GROUPS:
                cell = bare(numbers, r, f"{what}_{group}", r.benchmark)
                row[f"{what.capitalize()}, {group}"] = cell
        return row

    note = (
        "Renumbered: the corpus holds the question with other numbers. Gains in points over SFT. "
        "A group may have few items: each number leads to its interval and n."
    )
    title = "Accuracy and gain on clean, renumbered and contaminated items"
    lines = seeds.lines(rows.drop_duplicates(["system", "benchmark"]), line, labels=2)
    page = rows_link(metric="accuracy_contaminated")
    return Sheet.of("apart", title, **lines, note=note, labels=2, more=page)
