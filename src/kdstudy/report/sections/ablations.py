"""Ablations: temperature, noise, a teacher that never saw the task, and any other field."""

import json
import math
from typing import Any

import altair as alt
import pandas as pd
from scipy import stats

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import points
from kdstudy.report import dots
from kdstudy.report.blocks import Group, Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import Figure, apart, colours
from kdstudy.report.seeds import Seeds, sft_of
from kdstudy.report.sheet import Cell, Sheet, bare, number, rows_link
from kdstudy.report.views import (
    NAMED,
    Numbers,
    ablation_rows,
    describe,
    dots_note,
    figure_name,
    lookup,
    printed,
    settings,
    short,
    varied,
)

_UNITS = {"temperature": "loss temperature τ", "noise": "noise scale σ on teacher logits"}
_PAPER = {"temperature": "Figure 6", "noise": "Figure 5"}


def section(data: ReportData) -> Section:
    """Return what each ablation did, its curve, and every run."""
    seeds = data.seeds
    blocks = [
        *map(Text, sentences(seeds.means) or ["This study has no finished ablation."]),
        Group([curve(seeds, "temperature"), curve(seeds, "noise")]),
        unaware_teacher(seeds),
        Group([curve(seeds, field) for field in varied(data.table)]),
        ablations_sheet(seeds),
    ]
    return Section("ablations", "Ablations", blocks)


def sentences(table: pd.DataFrame) -> list[str]:
    """Say, for each ablation there is, what its far end did to mean accuracy."""
    named = [s for a in NAMED if (s := _ablation(table, a))]
    return named + [s for field in varied(table) if (s := _varied(table, field))]


def _ablation(table: pd.DataFrame, ablation: str) -> str:
    rows = ablation_rows(table, ablation)
    if rows.empty:
        return ""
    rows = rows[(rows.metric == "accuracy") & (rows.benchmark == AVERAGE)]
    plain, changed = (rows[(rows.ablation == a)] for a in ("", ablation))
    if plain.empty or changed.empty:
        return ""
    if ablation == "base_teacher":
        return _unaware(plain, changed)
    far = changed[changed[ablation] == changed[ablation].max()]
    worst = far.sort_values("value").iloc[0]
    same = plain[(plain.student == worst.student) & (plain.method == worst.method)].iloc[0]
    symbol = "τ" if ablation == "temperature" else "σ"
    top = rows[(rows.student == worst.student) & (rows.method == worst.method)]
    top = top.sort_values("value").iloc[-1]
    name = f"{ablation.capitalize()}: {worst.method} on {worst.student}"
    if worst.value >= same.value:
        return f"{name} keeps {printed(worst)} at {symbol} = {worst[ablation]:g}."
    change = (
        f"from {printed(same)} at {symbol} = {same[ablation]:g} to {printed(worst)} at "
        f"{symbol} = {worst[ablation]:g}"
    )
    if worst.high > same.low:
        return f"{name} goes {change}: the intervals over items overlap, so no trend is shown."
    if _seeds_overlap(worst, same):
        return f"{name} goes {change}: seeds differ by as much, so no trend is shown."
    return f"{name} falls {change}; its best point is {symbol} = {top[ablation]:g}."


def _varied(table: pd.DataFrame, field: str) -> str:
    """Say how far the method that a field moves most is moved, from the study's own value."""
    rows = ablation_rows(table, field)
    rows = rows[(rows.metric == "accuracy") & (rows.benchmark == AVERAGE)]
    rows = rows.assign(said=settings(rows, field))
    plain, changed = rows[rows.ablation == ""], rows[rows.ablation == field]
    both = plain.merge(changed, on=["student", "method", "teacher"], suffixes=("", "_changed"))
    if both.empty:
        return ""
    change = (both.value_changed - both.value).abs()
    pair = both.loc[change.idxmax()]
    same = plain[plain.system == pair.system].iloc[0]
    other = changed[changed.system == pair.system_changed].iloc[0]
    change = (
        f"{field}: {same.method} on {same.student} goes from {printed(same)} at {same.said} to "
        f"{printed(other)} at {other.said}"
    )
    if len(both) > 1:
        change += f", the largest change of {len(both)}"
    if other.low <= same.high and same.low <= other.high:
        return f"{change}: the intervals over items overlap, so no trend is shown."
    if _seeds_overlap(other, same):
        return f"{change}: seeds differ by as much, so no trend is shown."
    return f"{change}."


def _seeds_overlap(worst: pd.Series, same: pd.Series) -> bool:
    """Return whether Welch's t-test over seeds, on these items, leaves 0 open at 5%."""
    if getattr(worst, "seeds", 1) < 2 or getattr(same, "seeds", 1) < 2:
        return False
    ends = (x for row in (same, worst) for x in (row.value, row.sd, row.seeds))
    return not stats.ttest_ind_from_stats(*ends, equal_var=False).pvalue < 0.05


def _unaware(plain: pd.DataFrame, changed: pd.DataFrame) -> str:
    both = plain.merge(changed, on=["student", "method"], suffixes=("", "_changed"))
    both = both.assign(change=both.value_changed - both.value).sort_values(
        "change", key=lambda change: -change.abs(), kind="stable"
    )
    if both.empty:
        return ""
    r = both.iloc[0]
    parts = [c for c in ("metric", "value", "low", "high", "sd", "seeds") if c in both]
    before, after = (
        printed(r[[c + side for c in parts]].set_axis(parts)) for side in ("", "_changed")
    )
    return (
        f"Task-unaware teacher: {r.method} on {r.student} reaches {after} instead of {before}, "
        f"the largest change of {len(both)} ({points(r.change)} points)."
    )


def curve(seeds: Seeds, ablation: str) -> Figure | None:
    """Draw accuracy and parse rate over temperature, noise or any other field.

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
    both, parsed = {"accuracy": upper, "parsed": lower}, ", and under it the parse rate,"
    if lower.empty:  # choices by likelihood have nothing to parse, and no mean where some do not
        both, parsed = {"accuracy": upper}, ""
    chart = alt.vconcat(
        _panel(upper, "accuracy", None if parsed else unit, names, "mean accuracy", 180),
        *([_panel(lower, "parsed", unit, names, "parsed", 60)] if parsed else []),
        spacing=10,
    )
    the = "the " if ablation in _UNITS else ""
    title = f"Accuracy{parsed} over {the}{unit} ({dots_note(table)})"
    return Figure(
        name=figure_name(ablation),
        title=title,
        description=describe(rows[rows.part == "mean"]),
        chart=chart,
        data=both,
        paper=_PAPER.get(ablation, ""),
    )


def _labelled_ends(rows: pd.DataFrame, gap: float) -> pd.DataFrame:
    """Add `is_last` and `place`: where the method's name stands at the right end of its line."""
    rows = rows.assign(is_last=False, place=0.0)
    for _, part in rows[rows.part == "mean"].groupby("column"):
        ends = part[part.x == part.x.max()].drop_duplicates("method")
        rows.loc[ends.index, "is_last"] = True
        rows.loc[ends.index, "place"] = apart(ends.value.to_numpy(), gap)
    return rows


def _in_order(value: str) -> tuple[float, str]:
    """Sort numbers by size, before whatever is none."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _panel(
    rows: pd.DataFrame, name: str, x_title: str | None, names: list[str], y_title: str, height: int
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


def unaware_teacher(seeds: Seeds) -> Figure | None:
    """Draw distillation from a tuned teacher against one that never saw the task."""
    table = seeds.means
    rows = ablation_rows(table, "base_teacher")
    rows = rows[rows.metric == "accuracy"].copy()
    if rows.empty:
        return None
    rows["hollow"] = rows.ablation == "base_teacher"
    rows["group"], rows["of_teacher"] = rows.student, ""
    accuracies, own = lookup(table, "accuracy"), sft_of(table)
    rows["sft_line"] = [
        accuracies.get((own.get(s, ""), b), math.nan)
        for s, b in zip(rows.system, rows.benchmark, strict=True)
    ]
    rows = seeds.dots(rows)
    rule = {"strokeWidth": 1.4, "opacity": 0.5, "strokeDash": [1, 2]}
    chart = dots.panels(rows, "accuracy", (0, 1), rules={"sft_line": rule}, hollow="hollow")
    title = (
        "Distilled from a fine-tuned teacher (filled) and from one that never saw the task "
        f"(hollow); dotted: SFT ({dots_note(table)})"
    )
    return dots.figure("base-teacher", title, rows, chart, "Figure 2")


def ablations_sheet(seeds: Seeds) -> Sheet:
    """Return every ablation: accuracy, parse rate and repetition on the average."""
    rows = seeds.means[(seeds.means.ablation != "") & (seeds.means.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values(["ablation", "student", "method", "system"])

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        return {
            "Ablation": r.setting or r.ablation.replace("_", " "),
            "System": Cell(r.system, rows_link(system=r.system)),
            "τ": f"{r.temperature:g}",
            "σ": f"{r.noise:g}",
            "Accuracy": number(r),
            "Gain over SFT": number(numbers.row(r.system, "gain"), seeds=r.seeds),
            "Parsed": bare(numbers, r, "parse_rate"),
            "Repetition": bare(numbers, r, "repetition"),
        }

    title = "Ablation runs, means over benchmarks"
    return Sheet.of("ablations", title, **seeds.lines(rows, line, labels=2), labels=2)
