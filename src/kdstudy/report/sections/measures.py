"""Measures without a section of their own, such as one that an installed package adds."""

from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.measures import MEASURES, Measure
from kdstudy.report import dots
from kdstudy.report.blocks import Block, Text
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, number, rows_link
from kdstudy.report.views import Numbers, dots_note, main_rows, printed

_ELSEWHERE = {"accuracy", "rouge_l", "tokens", "truncated_rate", "repetition", "parse_rate"}
"""Measures that have a place of their own in the report."""


def blocks(seeds: Seeds) -> list[Block | None]:
    """Return a sentence and a figure of each, and one table of all."""
    figures = [
        dots.of_systems(
            seeds,
            measure.name,
            name=f"measure-{measure.name}",
            title=f"{measure.note.rstrip('.')}; dashed: the teacher ({dots_note(seeds.means)})",
            axis=measure.column.lower(),
        )
        for measure in further(seeds.means)
    ]
    return [*map(Text, sentences(seeds.means)), *figures, measures_sheet(seeds)]


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


def sentences(table: pd.DataFrame) -> list[str]:
    """Say, for each measure without a section of its own, between what trained systems lie."""
    said = []
    for measure in further(table):
        rows = main_rows(table, measure.name)
        if rows.empty:
            continue
        least, most = rows.loc[rows.value.idxmin()], rows.loc[rows.value.idxmax()]
        said.append(
            f"{measure.column}: from {printed(least)} ({least.system}) to {printed(most)} "
            f"({most.system})."
        )
    return said
