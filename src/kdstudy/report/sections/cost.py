"""What systems cost: size, length of texts, seconds and memory; accuracy against size."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.report.data import ReportData
from kdstudy.report.plot import (
    INK,
    SIZES,
    Figure,
    apart,
    colours,
    means,
    percent_axis,
    single_seeds,
)
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, bare, rows_link
from kdstudy.report.views import Numbers, best_first, describe, dots_note, tooltips


def cost_sheet(seeds: Seeds, seconds: Mapping[str, float], made: Mapping[str, Any]) -> Sheet:
    """Return size and time of each system, and memory where a stage has recorded it."""
    sizes = dict(zip(seeds.means.system, seeds.means.parameters, strict=True))
    trained = {r["system"]: r["seconds"] for r in made.get("training") or () if "seconds" in r}
    peaks = {r["system"]: r.get("peak_memory_gib") for r in made.get("training") or ()}
    peaks = {system: peak for system, peak in peaks.items() if peak is not None}
    trained, peaks = (with_means(found, seeds.names) for found in (trained, peaks))

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        large = sizes.get(r.teacher)
        share = "–" if pd.isna(large) or pd.isna(r.parameters) else f"{r.parameters / large:.0%}"
        row = {
            "System": Cell(r.system, rows_link(system=r.system)),
            "Parameters": parameters(r.parameters),
            "Of its teacher's": share,
            "Tokens per text": bare(numbers, r, "tokens"),
            "Seconds per 1,000 items": known("{:.1f}", seconds, r.system),
            "Training seconds": known("{:,.0f}", trained, r.system),
        }
        peak = {"Peak training memory (GiB)": known("{:.2f}", peaks, r.system)}
        return row | (peak if peaks else {})

    note = (
        "Seconds per 1,000 items: generation alone, without importing packages and loading the "
        "model. Training seconds: the whole stage, loading and validation included, and those of "
        "the SFT run that a run starts from. Memory: the "
        "most that training took, of the GPU if it used one, else of its process. Means over seeds "
        "where a system has several."
    )
    title = "Cost: size, length of texts, time and memory"
    return Sheet.of("cost", title, **seeds.lines(best_first(seeds.means), line), note=note)


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
    last["place"] = apart(last.value.to_numpy(), 0.055)
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


def pace(seeds: Seeds, seconds: Mapping[str, float]) -> Figure | None:
    """Draw mean accuracy against seconds per 1,000 items, and which systems no other beats.

    Args:
        seeds: The numbers.
        seconds: Seconds to generate 1,000 items, by system.
    """
    table = seeds.means
    rows = table[(table.metric == "accuracy") & (table.benchmark == AVERAGE)].copy()
    rows["seconds"] = rows.system.map(seconds)
    rows = rows[(rows.ablation == "") & (rows.seconds > 0)]
    if rows[rows.kind == "distilled"].empty:
        return None
    rows["series"] = np.where(rows.kind == "distilled", rows.method, rows.kind)
    rows["text"] = tooltips(rows)
    x = alt.X(
        "seconds:Q",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(grid=False, title="seconds per 1,000 items", tickCount=6, format="~s"),
    )
    y = alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), axis=percent_axis("mean accuracy"))
    trained = rows.kind.isin(["sft", "distilled"])
    scale = colours(rows[trained].series)
    marks = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=["teacher", "base"], range=["diamond", "circle"]),
        legend=alt.Legend(title=None, orient="top-left", symbolStrokeColor=INK),
    )
    front = alt.Chart(alt.NamedData("front")).mark_line(
        interpolate="step-after", strokeDash=[4, 3], color=INK, opacity=0.5
    )
    others = alt.Chart(alt.NamedData("others")).mark_point(size=60, strokeWidth=1.6, color=INK)
    legend = alt.Legend(title=None, orient="right", symbolOpacity=1)
    colour = alt.Color("series:N", scale=scale, legend=legend)
    chart = alt.layer(
        front.encode(x=x, y=y),
        means().mark_rule(opacity=0.35).encode(x=x, y=alt.Y("low:Q"), y2="high", color=colour),
        means()
        .mark_point(filled=True, size=60, opacity=1)
        .encode(x=x, y=y, color=colour, description="text:N"),
        others.encode(x=x, y=y, shape=marks, description="text:N"),
    ).properties(width=620, height=300)
    rows = rows.drop(columns="rows").assign(part="mean")
    ahead = undominated(rows)
    title = (
        "Mean accuracy against seconds to answer 1,000 items on the machine that ran the study "
        f"({dots_note(table)}; dashed: systems that no other beats in both)"
    )
    text = describe(rows) + " No other beats: " + ", ".join(ahead.system) + "."
    data = {"rows": rows[trained], "others": rows[~trained], "front": ahead}
    return Figure(name="pace", title=title, description=text, chart=chart, data=data)


def undominated(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, fastest first, that no row beats in `value` without more `seconds`."""
    rows = rows.sort_values(["seconds", "value"], ascending=[True, False], kind="stable")
    best = rows.value.cummax().shift(fill_value=-np.inf)
    return rows[rows.value > best]


def seconds_of(data: ReportData) -> dict[str, float]:
    """Return generation seconds per 1,000 items of the systems whose every benchmark was timed.

    A stage `generate` is labelled `<system> on <benchmark>`. Its `pace` leaves out the start-up,
    which the first stage of a process alone has to bear; of a stage that is given
    without one the whole time counts, and of an empty one nothing is known.
    """
    stages = [s for s in data.made.get("stages") or [] if s["kind"] == "generate"]
    timed = {s["label"]: s for s in stages if s.get("seconds") is not None}
    draws = (data.study.get("generation") or {}, data.study.get("text_generation") or {})
    own = data.graded_rows
    found = {}
    for system, rows in own.groupby("system"):
        times = [
            _of_stage(timed.get(f"{system} on {r.benchmark}"), r.n, draws[r.metric == "rouge_l"])
            for r in rows.itertuples()
        ]
        if None not in times:
            found[str(system)] = 1000 * sum(times) / int(rows.n.sum())
    return found


def _of_stage(
    stage: Mapping[str, Any] | None, items: int, settings: Mapping[str, Any]
) -> float | None:
    """Return the seconds that a stage `generate` takes for its items, by its pace if it has one."""
    if stage is None:
        return None
    pace = stage.get("pace")
    if pace is None:
        return stage["seconds"]
    if not pace:  # of an older version, or resumed with a single batch left
        return None
    return pace["seconds"] / pace["done"] * items * settings.get("samples", 1)


def known(form: str, values: Mapping[str, float], system: str) -> str:
    return form.format(values[system]) if system in values else "–"


def with_means(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Return the values by run, and their means by system."""
    found: dict[str, list[float]] = {}
    for run, value in values.items():
        found.setdefault(names.get(run, run), []).append(value)
    return {**values, **{system: sum(own) / len(own) for system, own in found.items()}}


def parameters(count: object) -> str:
    if pd.isna(count):
        return "–"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if int(count) >= size:
            return f"{int(count) / size:.3g}{unit}"
    return str(count)
