"""Instruction following: ROUGE-L of free texts with their references."""

from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import points
from kdstudy.report import dots
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Sheet, bare, number, rows_link
from kdstudy.report.views import Numbers, dots_note, main_rows, printed, units


def section(data: ReportData) -> Section:
    """Return how close texts come to their references; nothing without free texts."""
    seeds = data.seeds
    drawn = dots.of_systems(
        seeds,
        "rouge_l",
        name="rouge",
        title="ROUGE-L with the closest reference by student, method and benchmark; dashed: the "
        f"teacher ({dots_note(seeds.means, 'rouge_l')})",
        axis="ROUGE-L (0-100)",
    )
    blocks = [Text(sentence(seeds.means)), drawn, instruct_sheet(seeds)]
    return Section("instruct", "Instruction following", blocks, short="Instructions")


def sentence(table: pd.DataFrame) -> str:
    """Say how many runs write texts closer to the references than SFT does; "" without texts."""
    scores = table[(table.metric == "rouge_l") & (table.benchmark == AVERAGE)]
    if scores.empty:
        return ""
    top = scores.sort_values(["value", "system"], ascending=[False, True]).iloc[0]
    text = (
        f"The texts closest to the references are those of {top.system}: mean ROUGE-L "
        f"{printed(top)} over {top.n:,} items."
    )
    gains = main_rows(table, "rouge_l_gain")
    if len(gains):
        up, down = int((gains.low > 0).sum()), int((gains.high < 0).sum())
        text += (
            f" {up} of {len(gains)} distilled {units(gains)} come closer than their SFT run, "
            f"{down} fall behind it; the mean change is {points(gains.value.mean())} points."
        )
    return text


def instruct_sheet(seeds: Seeds) -> Sheet:
    """Return ROUGE-L with the references, per benchmark of free texts."""
    rows = seeds.means[seeds.means.metric == "rouge_l"]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        gain = numbers.row(r.system, "rouge_l_gain", r.benchmark)
        return {
            "System": r.system,
            "Benchmark": r.benchmark,
            "ROUGE-L": number(r),
            "Points over SFT": number(gain, seeds=r.seeds),
            "Cut": bare(numbers, r, "truncated_rate", r.benchmark),
            "Items": str(r.n),
        }

    title = "Instruction following: ROUGE-L (0-100) with the closest reference"
    found = seeds.lines(rows[rows.benchmark != AVERAGE], line, labels=2)
    page = rows_link(metric="rouge_l")
    return Sheet.of("instruct", title, **found, labels=2, open=True, more=page)
