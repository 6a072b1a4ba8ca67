"""The figures of two studies side by side: dots with intervals around no change."""

import math

import altair as alt
import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import points
from kdstudy.report.compare.cells import SAME_RUN
from kdstudy.report.compare.differences import KINDS, TESTED, systems_only
from kdstudy.report.compare.match import StudyRows
from kdstudy.report.compare.words import LEVEL, decided
from kdstudy.report.plot import INK, Figure, colours, means, order_of, single_seeds
from kdstudy.report.views import short, shown

_MEASURE = {"accuracy": "accuracy", "rouge_l": "ROUGE-L of free texts"}
_ENDS = ["difference", "low", "high"]
FIGURES = tuple(
    f"{m.replace('_', '-')}-{part}" for m in TESTED for part in ("averages", "benchmarks")
)
"""Names of the figures that a comparison can have."""

_ACROSS = 3
"""Benchmarks side by side before the next row of panels."""


def all_figures(table: pd.DataFrame, a: StudyRows) -> list[Figure]:
    """Return the figures: per measure the averages, and the benchmarks of the main grid."""
    found = []
    for metric in TESTED:
        rows = _with_seeds(table[table.metric == metric])
        # One run that both studies hold did not change: a dot at 0 would be no measurement.
        changed = rows[rows.how != SAME_RUN]
        rows = _prepared(changed if len(changed) else rows, metric, a)
        average, single = rows[rows.benchmark == AVERAGE], rows[rows.benchmark != AVERAGE]
        if rows.empty:
            continue
        found.append(_figure(average, metric, "averages", "mean of common benchmarks"))
        single = single[single.ablation == ""]
        if single.benchmark.nunique() > 1:
            found.append(_figure(single, metric, "benchmarks", "by benchmark, main grid"))
    return found


def _with_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `part`: `seed` for a run of a system that has a row of its own."""
    systems, single = systems_only(rows), rows[rows.draw_of != ""]
    nothing = dict.fromkeys(("low", "high"), math.nan)
    single = single.assign(**nothing, part="seed")
    systems = systems.assign(part="mean")
    return pd.concat([systems, single], ignore_index=True) if len(single) else systems


def _prepared(rows: pd.DataFrame, metric: str, a: StudyRows) -> pd.DataFrame:
    """Return the rows in the figure's order, in points, with the label and tooltip of each."""
    rows = rows.copy()
    rows[_ENDS] = 100 * rows[_ENDS].astype(float)
    rows["hollow"] = ~decided(rows)
    rows["line"] = _labels(rows)
    rows["text"] = [
        f"{r.system_a} on {r.benchmark}: {shown(metric, r.a)} to {shown(metric, r.b)}, "
        f"{points(r.difference / 100)} points"
        + ("" if math.isnan(r.low) else f" ({points(r.low / 100)} to {points(r.high / 100)})")
        for r in rows.itertuples()
    ]
    sizes = a.table.drop_duplicates("model").set_index("model").parameters.to_dict()
    place = [
        (KINDS.index(r.kind), _size(sizes.get(r.model)), r.model, *order_of(r.method), r.system_a)
        for r in rows.itertuples()
    ]
    return rows.iloc[sorted(range(len(rows)), key=place.__getitem__)]


def _size(parameters: int | None) -> int:
    return 0 if parameters is None or pd.isna(parameters) else int(parameters)


def _labels(rows: pd.DataFrame) -> list[str]:
    """Return short labels: a teacher or a seed is named only where there are several."""
    distilled = rows[rows.kind == "distilled"]
    teachers = distilled[distilled.ablation != "base_teacher"].teacher.nunique()
    alone = rows[rows.kind.isin(["sft", "distilled"]) & (rows.seeds == 1) & (rows.part == "mean")]
    found = []
    for r in rows.itertuples():
        trained = r.kind in ("sft", "distilled")
        parts = [r.model, r.method if trained else r.kind, _ablation(r)]
        if r.kind == "distilled" and teachers > 1:
            parts.append(f"← {short(r.teacher)}")
        if trained and alone.seed.nunique() > 1 and r.seeds == 1 and r.part == "mean":
            parts.append(f"seed {r.seed}")
        found.append(" ".join(p for p in parts if p))
    return found


def _ablation(row) -> str:
    known = {"temperature": f"τ={row.temperature:g}", "noise": f"noise={row.noise:g}"}
    return known.get(row.ablation, row.setting or row.ablation.replace("_", " "))


def _figure(rows: pd.DataFrame, metric: str, name: str, what: str) -> Figure:
    items = " to ".join(f"{n:,}" for n in sorted({int(rows.n.min()), int(rows.n.max())}))
    ticks = "; dots: means over seeds, ticks: single seeds" if (rows.part == "seed").any() else ""
    title = (
        f"Change in {_MEASURE[metric]} from A to B, {what}, in points with 95% intervals "
        f"({items} matched items per dot{ticks}). Filled: Holm's p below {LEVEL}, "
        "or, where there is no p, an interval without 0."
    )
    panels = sorted(set(rows.benchmark))
    chart = _dots(rows, 290 if len(panels) == 1 else 170)
    if len(panels) > 1:
        header = alt.Header(title=None, labelPadding=6)
        facet = alt.Facet("benchmark:N", sort=panels, header=header)
        chart = chart.facet(facet=facet, columns=_ACROSS, spacing={"row": 18, "column": 34})
    return Figure(
        name=f"{metric.replace('_', '-')}-{name}",
        title=title,
        description="; ".join(rows[rows.part == "mean"].text.head(40)),
        chart=chart,
        data={"rows": rows[["line", "benchmark", "method", *_ENDS, "hollow", "text", "part"]]},
    )


def _dots(rows: pd.DataFrame, width: int) -> alt.LayerChart:
    ends = [*rows[_ENDS].min(), *rows[_ENDS].max(), 0]
    pad = 0.04 * (max(ends) - min(ends)) or 1
    scale = alt.Scale(domain=[min(ends) - pad, max(ends) + pad], nice=False, zero=False)
    signed = "datum.value > 0 ? '+' + datum.label : datum.label"
    axis = alt.Axis(labelExpr=signed, tickCount=5, domain=False, ticks=False, title="points, B − A")
    labels = alt.Axis(domain=False, ticks=False, labelLimit=280)
    lines = list(dict.fromkeys(rows.line))
    y = alt.Y("line:N", sort=lines, title=None, axis=labels)
    named = alt.Color("method:N", scale=colours(rows.method), legend=None)
    colour = alt.condition("datum.method == ''", alt.value(INK), named)
    filled = alt.condition("datum.hollow", alt.value("transparent"), named)
    base, x = means(), alt.X("difference:Q", scale=scale, axis=axis)
    one = base.transform_aggregate(n="count()")  # one line, not one per row
    none = one.mark_rule(color=INK, opacity=0.5, strokeWidth=1).encode(x=alt.datum(0))
    line = base.mark_rule(strokeWidth=1.6).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high", y=y, color=colour
    )
    ticks = single_seeds().encode(x=x, y=y, color=colour)
    dots = base.mark_point(size=58, opacity=1, strokeWidth=1.8).encode(
        x=x,
        y=y,
        stroke=colour,
        fill=filled,
        description="text:N",
    )
    return alt.layer(none, line, ticks, dots).properties(width=width, height=alt.Step(19))
