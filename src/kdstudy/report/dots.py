"""Figures of dots with intervals: students down, benchmarks across, a line for each method."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.measures import UNITS, Unit
from kdstudy.report.plot import ACROSS, INK, ROWS, Figure, colours, means, single_seeds
from kdstudy.report.seeds import Seeds
from kdstudy.report.views import (
    describe,
    groups_in_order,
    lines_in_order,
    lookup,
    relations,
    scope_order,
    with_sft,
)

ENDS = ["value", "low", "high"]
DASHED = {"strokeDash": [5, 3], "strokeWidth": 1.3, "opacity": 0.85}


def of_systems(
    seeds: Seeds,
    metric: str,
    *,
    name: str,
    title: str,
    axis: str,
    lines: Mapping[str, float] | None = None,
    paper: str = "",
) -> Figure | None:
    """Draw a measure of SFT and of every distilled system; dashed: the teacher's.

    Args:
        seeds: The study.
        metric: What is measured.
        name: The figure's file stem.
        title: What is shown.
        axis: Title of the value axis.
        lines: Where a faint line stands in the small multiple of a benchmark.
        paper: Which of the paper's figures it is.
    """
    rows = with_sft(seeds.means, metric)
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    unit = UNITS[metric]
    scale = 100 if unit is Unit.HUNDRED else 1
    rows[ENDS] *= scale
    teacher = lookup(seeds.means, metric)
    keys = zip(rows.of_teacher, rows.benchmark, strict=True)
    rows["teacher_line"] = [scale * teacher.get(k, math.nan) for k in keys]
    rules: dict[str, Any] = {"teacher_line": DASHED}
    if lines is not None:
        rows["faint_line"] = rows.benchmark.map(lines).astype(float)
        rules["faint_line"] = {"strokeWidth": 1, "opacity": 0.3}
    ends = rows[[*ENDS, "teacher_line"]].to_numpy(float)
    domain = _domain(unit) or (min(0.0, np.nanmin(ends)), 1.05 * np.nanmax(ends))
    chart = panels(rows, axis, domain, rules=rules, percent=unit is Unit.SHARE)
    return figure(name, title, rows, chart, paper)


def of_pairs(
    seeds: Seeds,
    metric: str,
    *,
    name: str,
    title: str,
    axis: str,
    bounds: bool = False,
    paper: str = "",
) -> Figure | None:
    """Draw a measure of pairs: with the teacher (filled) and with the student's SFT run (hollow).

    Args:
        seeds: The study.
        metric: What is measured.
        name: The figure's file stem.
        title: What is shown.
        axis: Title of the value axis.
        bounds: Draw what the two accuracies allow as a grey bar.
        paper: Which of the paper's figures it is.
    """
    rows = relations(seeds.means, metric).dropna(subset="value")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    marks: dict[str, Any] = {"hollow": "hollow"}
    if bounds:
        for bound in ("lower", "upper"):
            values = lookup(seeds.means, f"{metric}_{bound}_bound", pair=True)
            keys = zip(rows.system, rows.reference, rows.benchmark, strict=True)
            rows[bound] = [values.get(k, math.nan) for k in keys]
        rows.loc[rows.hollow, ["lower", "upper"]] = math.nan
        marks["bands"] = [("lower", "upper")]
    unit = UNITS[metric]
    chart = panels(rows, axis, _domain(unit), percent=unit is Unit.SHARE, **marks)
    return figure(name, title, rows, chart, paper)


def figure(
    name: str, title: str, rows: pd.DataFrame, chart: alt.TopLevelMixin, paper: str = ""
) -> Figure:
    """Return a figure of rows from `Seeds.dots`, described by its means."""
    text = describe(rows[rows.part != "seed"])
    data = {"rows": rows}
    return Figure(name=name, title=title, description=text, chart=chart, data=data, paper=paper)


def panels(
    rows: pd.DataFrame,
    title: str,
    domain: tuple[float, float],
    *,
    percent: bool = True,
    **marks: Any,
) -> alt.TopLevelMixin:
    """Return `strip` of rows that are labelled for a figure (`views.labelled`)."""
    return strip(
        rows,
        x_title=title,
        domain=domain,
        columns=columns_of(rows),
        groups=groups_in_order(rows),
        lines=lines_in_order(rows),
        marks=marks,
        percent=percent,
    )


def columns_of(rows: pd.DataFrame) -> list[str]:
    """Return the benchmarks across, the average last; first where one row cannot hold them all.

    One benchmark stands alone: the average would be the same picture again.
    """
    names = scope_order(rows.column)
    if len(names) == 2 and AVERAGE in names:
        return names[:1]
    if len(names) <= ACROSS or AVERAGE not in names:
        return names
    return [AVERAGE, *names[:-1]]


def side_header() -> alt.Header:
    """Return the header of a figure's groups: upright, left of their rows."""
    look = {"labelAngle": 0, "labelAlign": "left", "labelAnchor": "middle", "labelPadding": 18}
    return alt.Header(title=None, **look)


def strip(
    rows: pd.DataFrame,
    *,
    x_title: str,
    domain: tuple[float, float],
    columns: list[str],
    groups: list[str],
    lines: list[str],
    marks: Mapping[str, Any],
    width: int = 0,
    percent: bool = True,
) -> alt.TopLevelMixin:
    """Return small multiples of dots with intervals: groups down, benchmarks across.

    More than `ACROSS` benchmarks go on in further rows of small multiples.

    Args:
        rows: Columns group, column, line (the label of a row of dots), method, value, low, high,
            text (its tooltip), and the columns that `marks` names; `part` is `seed` where a row is
            one run of a mean and drawn as a tick.
        x_title: Title of the value axis, with its unit.
        domain: Range of the value axis.
        columns: Order of the small multiples across.
        groups: Order of the small multiples down.
        lines: Order of the rows of dots inside one small multiple.
        marks: `rules` (column -> mark options, one line per small multiple), `bands` (low column,
            high column) and `hollow` (column that is true for a hollow mark).
        width: Width of one small multiple, in pixels; what fits, where left out.
        percent: Print the axis as percent.
    """
    x = _value_axis(x_title, domain, percent)
    y = alt.Y("line:N", sort=lines, title=None, axis=alt.Axis(domain=False, ticks=False))
    named = rows.method.ne("").any()
    colour = alt.Color("method:N", scale=colours(rows.method), legend=None)
    ticks = "part" in rows and (rows.part == "seed").any()
    layers = _strip_layers(x, y, colour if named else alt.value(INK), marks, ticks)
    width = width or max(110, min(260, 860 // min(len(columns), ACROSS) - 18))
    panel = alt.layer(*layers).properties(width=width, height=alt.Step(19))
    header = alt.Header(title=None, labelPadding=6)
    blocks = []
    for names in _blocks(columns):
        block = panel.facet(
            row=alt.Row("group:N", sort=groups, header=side_header()),
            column=alt.Column("column:N", sort=names, header=header),
            spacing={"row": 14, "column": 18},
        )
        block.transform = [alt.FilterTransform(alt.FieldOneOfPredicate("column", names))]
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else alt.vconcat(*blocks, spacing=30)


def _blocks(columns: list[str]) -> list[list[str]]:
    """Cut the columns into rows of nearly equal length, `ACROSS` at most."""
    rows = -(-len(columns) // ACROSS)
    length = -(-len(columns) // rows)
    return [columns[i : i + length] for i in range(0, len(columns), length)]


def _domain(unit: Unit) -> tuple[float, float] | None:
    """Return the whole range of a unit that has ends."""
    whole = {Unit.SHARE: (0, 1), Unit.HUNDRED: (0, 100), Unit.SCORE: (0, 100)}
    return whole.get(unit)


def _value_axis(title: str, domain: tuple[float, float], percent: bool) -> dict[str, Any]:
    ends = [domain[0], sum(domain) / 2, domain[1]] if min(domain) == 0 else alt.Undefined
    signed = "(datum.value > 0 ? '+' : '') + datum.label"
    axis = alt.Axis(
        format="%" if percent else "d",
        labelExpr=signed if domain[0] < 0 else alt.Undefined,
        values=ends,
        tickCount=4,
        domain=False,
        ticks=False,
        title=title,
    )
    return {"scale": alt.Scale(domain=list(domain), nice=False, zero=False), "axis": axis}


def _strip_layers(
    x: dict[str, Any], y: alt.Y, colour: Any, marks: Mapping[str, Any], ticks: bool
) -> list[alt.Chart]:
    base = means() if ticks else alt.Chart(ROWS)
    layers = []
    for low, high in marks.get("bands", ()):
        band = base.mark_bar(height=9, opacity=0.16, color=INK)
        layers.append(band.encode(x=alt.X(f"{low}:Q", **x), x2=high, y=y))
    for column, options in marks.get("rules", {}).items():
        rule = base.mark_rule(color=INK, **options)
        layers.append(rule.encode(x=alt.X(f"mean({column}):Q", **x)))
    line = base.mark_rule(strokeWidth=1.6)
    layers.append(line.encode(x=alt.X("low:Q", **x), x2="high", y=y, color=colour))
    if ticks:
        layers.append(single_seeds().encode(x=alt.X("value:Q", **x), y=y, color=colour))
    hollow = marks.get("hollow")
    full = alt.condition(f"!datum.{hollow}", colour, alt.value("transparent")) if hollow else colour
    dots = base.mark_point(filled=True, size=58, opacity=1, strokeWidth=1.8)
    layers.append(
        dots.encode(x=alt.X("value:Q", **x), y=y, stroke=colour, fill=full, description="text:N")
    )
    return layers
