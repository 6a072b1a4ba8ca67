"""Figures with a continuous axis: model size, temperature, noise, optimizer steps."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.cells import cells, main_runs
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import main_grid
from kdstudy.report.plot import (
    INK,
    ROWS,
    Figure,
    colours,
    means,
    percent_axis,
    shapes,
    single_seeds,
)
from kdstudy.report.seeds import Seeds
from kdstudy.report.views import (
    ablation_rows,
    describe,
    dots_note,
    figure_name,
    items_note,
    settings,
    short,
    tooltips,
)

Table = pd.DataFrame
SIZES = {
    "format": ".3~s",
    "title": "parameters",
    "labelExpr": "replace(datum.label, 'G', 'B')",
    "labelOverlap": True,
}
"""An axis of parameters: d3 writes a billion as G."""


_UNITS = {"temperature": "loss temperature τ", "noise": "noise scale σ on teacher logits"}


def scale(seeds: Seeds) -> Figure | None:
    """Draw mean accuracy against parameters, one line per method."""
    table = seeds.means
    rows = table[(table.metric == "accuracy") & (table.benchmark == AVERAGE)].copy()
    rows = rows[(rows.ablation == "") & rows.parameters.notna()]
    if rows[rows.kind == "distilled"].empty:
        return None
    rows["parameters"] = rows.parameters.astype(float)
    rows["series"] = np.where(rows.kind == "distilled", rows.method, rows.kind)
    rows["text"] = tooltips(rows)
    rows = seeds.dots(rows)
    x = alt.X(
        "parameters:Q",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(grid=False, values=sorted(rows.parameters.unique()), **SIZES),
    )
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), axis=percent_axis("mean accuracy"))
    lines = rows[rows.kind.isin(["sft", "distilled"])]
    colour = alt.Color("series:N", scale=colours(lines.series), legend=None)
    base = means()
    last = lines[(lines.parameters == lines.parameters.max()) & (lines.part == "mean")]
    last = last.groupby(["series", "parameters"], as_index=False).value.mean()
    last["place"] = _spread(last.value.to_numpy(), 0.055)
    layers = [
        base.mark_rule(opacity=0.35).encode(x=x, y=alt.Y("low:Q"), y2="high", color=colour),
        base.mark_line(strokeWidth=2).encode(x=x, y=alt.Y("mean(value):Q"), color=colour),
        single_seeds("horizontal").encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            x=x, y=y, color=colour, description="text:N"
        ),
        alt.Chart(alt.NamedData("last"))
        .mark_text(align="left", dx=9)
        .encode(x=x, y="place:Q", text="series:N", color=colour),
    ]
    others = alt.Chart(alt.NamedData("others"))
    layers.append(
        others.mark_point(size=60, strokeWidth=1.6, color=INK).encode(
            x=x,
            y=y,
            shape=alt.Shape(
                "kind:N",
                scale=alt.Scale(domain=["teacher", "base"], range=["diamond", "circle"]),
                legend=alt.Legend(title=None, orient="top-left", symbolStrokeColor=INK),
            ),
            description="text:N",
        )
    )
    chart = alt.layer(*layers).properties(width=700, height=300)
    data = {"rows": lines, "last": last, "others": rows[rows.kind.isin(["base", "teacher"])]}
    title = f"Mean accuracy against model size ({dots_note(table)})"
    text = describe(rows[rows.part == "mean"])
    return Figure(name="scale", title=title, description=text, chart=chart, data=data)


def depends(table: Table) -> Figure | None:
    """Draw mean gain against size, agreement and fidelity, each student's own trend through it.

    The paper's Tables 3-5 pool these dots; the lines show what happens inside a student. The last
    panel sets change against change: how agreement moved from SFT.
    """
    runs = main_grid(table)
    if runs is None:
        return None
    rows = cells(main_runs(runs))
    rows = rows[rows.task == AVERAGE]
    if len(rows) < 3:
        return None
    change = rows.agreement - rows.agreement_sft
    rows = rows.assign(gain=100 * rows.gain, bleu=100 * rows.fidelity, change=100 * change)
    rows["text"] = [
        f"{r.student}, {r.method}, {short(r.teacher)}: {r.gain:+.1f} points"
        for r in rows.itertuples()
    ]
    students = list(dict.fromkeys(rows.sort_values("size").student))
    sizes = sorted(rows["size"].dropna().unique().tolist())
    axes = {
        "size": {"values": sizes, **SIZES},
        "agreement": {"format": "%", "title": "agreement with the teacher"},
        "bleu": {"title": "corpus BLEU with the teacher"},
        "change": {"title": "change of agreement, points"},
    }
    panels = [
        _trend(rows, students, factor, axis)
        for factor, axis in axes.items()
        if rows[factor].notna().any()
    ]
    title = (
        f"Mean gain over SFT in points; lines: the trend inside each student ({items_note(table)})"
    )
    return Figure(
        name="depends",
        title=title,
        description="; ".join(rows.text),
        chart=alt.concat(*panels, columns=2, spacing=24),
        data={
            "rows": rows[["gain", *axes, "method", "student", "text"]],
            "zero": pd.DataFrame({"gain": [0.0]}),
        },
    )


def curve(seeds: Seeds, ablation: str) -> Figure | None:
    """Draw accuracy and parse rate over temperature, noise (paper, Figures 5 and 6) or any field.

    Values of any other field stand side by side in their order, as they may be no numbers.
    """
    table = seeds.means
    rows = ablation_rows(table, ablation)
    rows = rows[(rows.benchmark == AVERAGE) & rows.metric.isin(["accuracy", "parse_rate"])].copy()
    unit, names = _UNITS.get(ablation, ablation), []
    if ablation in _UNITS:
        rows["x"] = rows[ablation]
    elif len(rows):
        said = settings(rows, ablation)
        names = sorted(said.dropna().unique(), key=_in_order)
        rows["x"] = said.map({name: float(i) for i, name in enumerate(names)})
    if rows.empty or rows.x.nunique() < 2:
        return None
    rows["column"] = rows.student + " ← " + rows.teacher.map(short)
    rows = seeds.dots(rows)
    upper = _labelled_ends(rows[rows.metric == "accuracy"], 0.075)
    lower = rows[rows.metric == "parse_rate"].assign(is_last=False, place=0.0)
    chart = alt.vconcat(
        _panel(upper, "accuracy", None, names, "mean accuracy", 180),
        _panel(lower, "parsed", unit, names, "parsed", 60),
        spacing=10,
    )
    the = "the " if ablation in _UNITS else ""
    title = f"Accuracy, and under it the parse rate, over {the}{unit} ({dots_note(table)})"
    return Figure(
        name=figure_name(ablation),
        title=title,
        description=describe(rows[rows.part == "mean"]),
        chart=chart,
        data={"accuracy": upper, "parsed": lower},
    )


def training(
    runs: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> Figure | None:
    """Draw the losses of every run over its steps, one small multiple per system.

    Args:
        runs: Each run's `training.json`, with its label as `system`.
        names: The system that a run is a draw of, by its label (`results.names_of`).
    """
    names = names or {}
    rows = pd.DataFrame(
        [
            {
                "system": names.get(r["system"], r["system"]),
                "run": r["system"],
                "step": p["step"],
                "kind": kind,
                "value": p.get(key),
            }
            for r in runs
            for p in r.get("curve") or ()
            for key, kind in (("loss", "training"), ("eval_loss", "validation"))
        ]
    )
    if rows.empty or rows.value.isna().all():
        return None
    rows = rows.dropna(subset="value")
    chart = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.6, color=INK)
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(tickCount=3, grid=False, title=None)),
            y=alt.Y("value:Q", axis=alt.Axis(tickCount=3, domain=False, title=None)),
            strokeDash=alt.StrokeDash("kind:N", legend=alt.Legend(title=None, orient="top")),
            opacity=alt.Opacity(
                "kind:N", scale=alt.Scale(domain=["training", "validation"], range=[0.45, 1])
            ),
            detail="run:N",
        )
        .properties(width=180, height=70)
        .facet(alt.Facet("system:N", header=alt.Header(title=None)), columns=4, spacing=18)
        .resolve_scale(y="independent")
    )
    last = rows[rows.kind == "validation"].groupby("run").value.last()
    text = "; ".join(f"{run}: {value:.3f}" for run, value in last.items())
    lines = ", a line per seed" if rows.run.nunique() > rows.system.nunique() else ""
    title = f"Loss over optimizer steps{lines} (nats per token; its scale differs between methods)"
    return Figure(name="training", title=title, description=text, chart=chart, data={"rows": rows})


def _spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Return the values moved apart so that labels beside them do not overlap."""
    order = np.argsort(values)
    placed = values[order].astype(float)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    placed -= (placed - values[order]).mean()
    return placed[np.argsort(order)]


def _trend(rows: Table, students: list[str], factor: str, axis: dict[str, Any]) -> alt.LayerChart:
    sizes = factor == "size"
    x = alt.X(
        f"{factor}:Q",
        scale=alt.Scale(type="log" if sizes else "linear", zero=False, padding=16, nice=False),
        axis=alt.Axis(**{"tickCount": 4, "domain": False, "ticks": False} | axis),
    )
    y_title = "points over SFT"
    y = alt.Y("gain:Q", axis=alt.Axis(tickCount=5, domain=False, ticks=False, title=y_title))
    base = alt.Chart(ROWS)
    dots = base.mark_point(filled=True, size=62, opacity=0.95).encode(
        x=x,
        y=y,
        color=alt.Color("method:N", scale=colours(rows.method), legend=alt.Legend(title=None)),
        shape=alt.Shape("student:N", scale=shapes(students), legend=alt.Legend(title=None)),
        description="text:N",
    )
    zero = alt.Chart(alt.NamedData("zero")).mark_rule(color=INK, opacity=0.4)
    layers = [zero.encode(y="gain:Q"), dots]
    if not sizes:
        fit = base.transform_regression(factor, "gain", groupby=["student"])
        line = fit.mark_line(color=INK, opacity=0.45)
        layers.insert(1, line.encode(x=x, y=y, detail="student:N"))
    return alt.layer(*layers).properties(width=330, height=190)


def _labelled_ends(rows: Table, gap: float) -> Table:
    """Add `is_last` and `place`: where the method's name stands at the right end of its line."""
    rows = rows.assign(is_last=False, place=0.0)
    for _, part in rows[rows.part == "mean"].groupby("column"):
        ends = part[part.x == part.x.max()].drop_duplicates("method")
        rows.loc[ends.index, "is_last"] = True
        rows.loc[ends.index, "place"] = _spread(ends.value.to_numpy(), gap)
    return rows


def _in_order(value: str) -> tuple[float, str]:
    """Sort numbers by size, before whatever is none."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _panel(
    rows: Table, name: str, x_title: str | None, names: list[str], y_title: str, height: int
) -> alt.FacetChart:
    values = sorted(float(v) for v in rows.x.unique())
    labels = {"labelExpr": f"{json.dumps(names)}[datum.value]"} if names else {"format": ".6~g"}
    room = 0.32 * (values[-1] - values[0])
    x = alt.X(
        "x:Q",
        scale=alt.Scale(nice=False, domain=[values[0] - 0.05 * room, values[-1] + room]),
        axis=alt.Axis(values=values, title=x_title, grid=False, **labels),
    )
    axis = alt.Axis(
        format="%", values=[0, 0.5, 1], domain=False, ticks=False, title=y_title, titleAngle=-90
    )
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    colour = alt.Color("method:N", scale=colours(rows.method), legend=None)
    everything = alt.Chart(alt.NamedData(name))
    base = everything.transform_filter("datum.part == 'mean'")
    ticks = everything.transform_filter("datum.part == 'seed'")
    layers = [
        base.mark_rule(strokeWidth=1.4, opacity=0.6).encode(
            x=x, y="low:Q", y2="high", color=colour
        ),
        ticks.mark_tick(orient="horizontal", thickness=1.3, size=11, opacity=0.8).encode(
            x=x, y=y, color=colour, description="text:N"
        ),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            x=x, y=y, color=colour, description="text:N"
        ),
        base.transform_filter("datum.is_last")
        .mark_text(align="left", dx=9)
        .encode(x=x, y="place:Q", text="method:N", color=colour),
    ]
    # Vega-Lite ignores `labels=False` on a wrapped facet; an empty label is the way to say it.
    header = alt.Header(title=None) if x_title is None else alt.Header(title=None, labelExpr="''")
    panel = alt.layer(*layers).properties(width=300, height=height)
    return panel.facet(alt.Facet("column:N", header=header), columns=3, spacing=26)
