"""Every figure of a report, each a pure function of the study's table."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import EQUIVALENCE_MARGIN, Test
from kdstudy.measures import Measure, Unit
from kdstudy.report.curves import curve, depends, scale
from kdstudy.report.flow import flow
from kdstudy.report.plot import (
    ACROSS,
    INK,
    ROWS,
    Figure,
    colours,
    percent_axis,
    shapes,
    strip,
)
from kdstudy.report.seeds import Seeds, sft_of
from kdstudy.report.tables_of_data import further
from kdstudy.report.views import (
    ablation_rows,
    describe,
    dots_note,
    graded,
    groups_in_order,
    items_note,
    lines_in_order,
    lookup,
    main_grid,
    mean_chance,
    relations,
    scope_order,
    varied,
    with_sft,
)

Table = pd.DataFrame


def all_figures(
    table: Table, tests: Sequence[Test] = (), chance: Mapping[str, float] | None = None
) -> dict[str, Figure]:
    """Return every figure the table has data for, by name."""
    seeds = Seeds(table, tests)
    makers: list[Callable[[], Figure | None]] = [
        lambda: accuracy(seeds, chance or {}),
        lambda: gains(seeds),
        lambda: flow(seeds.means),
        lambda: scale(seeds),
        lambda: agreement(seeds),
        lambda: agreement_accuracy(seeds),
        lambda: fidelity(seeds),
        lambda: steps(seeds),
        lambda: rouge(seeds),
        lambda: depends(table),
        lambda: methods(tests),
        lambda: curve(seeds, "temperature"),
        lambda: curve(seeds, "noise"),
        lambda: unaware_teacher(seeds),
        *(functools.partial(further_measure, seeds, measure) for measure in further(table)),
        *(functools.partial(curve, seeds, field) for field in varied(table)),
    ]
    drawn = [figure for make in makers if (figure := make()) is not None]
    return {figure.name: figure for figure in drawn}


def accuracy(seeds: Seeds, chance: Mapping[str, float]) -> Figure | None:
    """Draw accuracy by benchmark, student and method (paper, Figures 1 and 7)."""
    table = seeds.means
    rows = with_sft(table, "accuracy")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    teacher = lookup(table, "accuracy")
    rows["teacher_line"] = [
        teacher.get((t, b), math.nan) for t, b in zip(rows.of_teacher, rows.benchmark, strict=True)
    ]
    known = {**chance, AVERAGE: mean_chance(chance, graded(table))}
    rows["chance_line"] = rows.benchmark.map(known).astype(float)
    rules = {
        "teacher_line": {"strokeDash": [5, 3], "strokeWidth": 1.3, "opacity": 0.85},
        "chance_line": {"strokeWidth": 1, "opacity": 0.3},
    }
    chart = _strip(rows, "accuracy", (0, 1), rules=rules)
    text = (
        "Accuracy by student, method and benchmark; dashed: the teacher, grey line: chance "
        f"({dots_note(table)})"
    )
    return _figure("accuracy", text, rows, chart)


def gains(seeds: Seeds) -> Figure | None:
    """Draw the gain of each distilled system over its own SFT run."""
    rows = main_grid(seeds.means, "gain")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    rows[["value", "low", "high"]] *= 100
    reach = 1.05 * float(np.nanmax(rows[["value", "low", "high"]].abs().to_numpy()))
    rules = {"zero": {"strokeWidth": 1, "opacity": 0.5}}
    rows["zero"] = 0.0
    chart = _strip(rows, "points over SFT", (-reach, reach), rules=rules, percent=False)
    note = dots_note(seeds.means)
    if seeds.several:
        note = note.replace("intervals over items;", "intervals over items and seeds;")
    text = f"Gain over the student's own SFT, paired by item ({note})"
    return _figure("gains", text, rows, chart)


def agreement(seeds: Seeds) -> Figure | None:
    """Draw agreement with the teacher before and after, with its bounds (paper, Figures 3, 8)."""
    table = seeds.means
    rows = relations(table, "agreement")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    for bound in ("lower", "upper"):
        values = lookup(table, f"agreement_{bound}_bound", pair=True)
        keys = zip(rows.system, rows.reference, rows.benchmark, strict=True)
        rows[bound] = [values.get(k, math.nan) for k in keys]
    rows.loc[rows.hollow, ["lower", "upper"]] = math.nan
    chart = _strip(rows, "same final answer", (0, 1), bands=[("lower", "upper")], hollow="hollow")
    title = (
        "Agreement with the teacher (filled) and with the student's own SFT run (hollow); "
        f"grey: all that the two accuracies allow ({dots_note(table)})"
    )
    return _figure("agreement", title, rows, chart)


def fidelity(seeds: Seeds) -> Figure | None:
    """Draw BLEU of the reasoning with the teacher's, before and after (paper, Figures 4, 9)."""
    rows = relations(seeds.means, "bleu_corpus")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    chart = _strip(rows, "corpus BLEU (0-100)", (0, 100), hollow="hollow", percent=False)
    title = (
        "Fidelity of the text to the teacher's (filled) and to the student's own SFT run "
        f"(hollow), corpus BLEU ({dots_note(seeds.means)})"
    )
    return _figure("fidelity", title, rows, chart)


def steps(seeds: Seeds) -> Figure | None:
    """Draw the share of reasoning steps that the texts have in common, before and after."""
    rows = relations(seeds.means, "fidelity_steps")
    rows = rows[rows.value.notna()] if len(rows) else rows
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    chart = _strip(rows, "shared steps", (0, 1), hollow="hollow")
    title = (
        "Steps of reasoning shared with the teacher (filled) and with the student's own SFT run "
        f"(hollow), in order ({dots_note(seeds.means)})"
    )
    return _figure("steps", title, rows, chart)


def rouge(seeds: Seeds) -> Figure | None:
    """Draw ROUGE-L of free texts with their references, the teacher as a line."""
    rows = with_sft(seeds.means, "rouge_l")
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    teacher = lookup(seeds.means, "rouge_l")
    rows["teacher_line"] = [
        100 * teacher.get(k, math.nan) for k in zip(rows.of_teacher, rows.benchmark, strict=True)
    ]
    rows[["value", "low", "high"]] *= 100
    rule = {"strokeDash": [5, 3], "strokeWidth": 1.3, "opacity": 0.85}
    chart = _strip(rows, "ROUGE-L (0-100)", (0, 100), rules={"teacher_line": rule}, percent=False)
    title = (
        "ROUGE-L with the closest reference by student, method and benchmark; dashed: the teacher "
        f"({dots_note(seeds.means, 'rouge_l')})"
    )
    return _figure("rouge", title, rows, chart)


def further_measure(seeds: Seeds, measure: Measure) -> Figure | None:
    """Draw a measure that has no figure of its own by student, method and benchmark."""
    rows = with_sft(seeds.means, measure.name)
    if rows.empty:
        return None
    rows = seeds.dots(rows)
    scale = 100 if measure.unit is Unit.HUNDRED else 1
    rows[["value", "low", "high"]] *= scale
    teacher = lookup(seeds.means, measure.name)
    keys = zip(rows.of_teacher, rows.benchmark, strict=True)
    rows["teacher_line"] = [scale * teacher.get(k, math.nan) for k in keys]
    share = measure.unit is Unit.SHARE
    ends = rows[["value", "low", "high", "teacher_line"]].to_numpy(float)
    reach = (0.0, 1.0) if share else (min(0.0, np.nanmin(ends)), 1.05 * np.nanmax(ends))
    rule = {"strokeDash": [5, 3], "strokeWidth": 1.3, "opacity": 0.85}
    chart = _strip(rows, measure.column.lower(), reach, rules={"teacher_line": rule}, percent=share)
    title = f"{measure.note.rstrip('.')}; dashed: the teacher ({dots_note(seeds.means)})"
    return _figure(f"measure-{measure.name}", title, rows, chart)


def agreement_accuracy(seeds: Seeds) -> Figure | None:
    """Draw agreement with the teacher against accuracy, inside the mechanical bounds."""
    rows = relations(seeds.means, "agreement")
    rows = rows[~rows.hollow] if len(rows) else rows
    if rows.empty:
        return None
    students = list(dict.fromkeys(rows.sort_values("parameters").student))
    rows = seeds.dots(rows)
    found = lookup(seeds.runs, "accuracy") | lookup(seeds.means, "accuracy")
    rows["accuracy"] = [
        found.get(k, math.nan) for k in zip(rows.system, rows.benchmark, strict=True)
    ]
    areas = _bound_areas(rows, found)
    both = pd.concat([rows, areas.assign(part="area")])
    chart = (
        _bounded_scatter(rows, students)
        .properties(width=190, height=190)
        .facet(
            alt.Facet(
                "benchmark:N", sort=scope_order(rows.benchmark), header=alt.Header(title=None)
            ),
            columns=4,
            spacing=22,
        )
    )
    seeds_note = "; large: means over seeds, small: single seeds" if seeds.several else ""
    title = (
        "Agreement with the teacher against accuracy; grey: the region that the two accuracies "
        f"allow ({items_note(seeds.means)}{seeds_note})"
    )
    return dataclasses.replace(
        _figure("agreement-accuracy", title, rows, chart), data={"rows": both}
    )


def methods(tests: Sequence[Test]) -> Figure | None:
    """Draw paired differences between methods, with the margin of equivalence."""
    found = [t for t in tests if t.table == "methods" and not math.isnan(t.low)]
    if not found:
        return None
    margin = 100 * EQUIVALENCE_MARGIN
    rows = pd.DataFrame(
        [
            {
                "line": t.subject,
                "column": t.scope,
                "group": "",
                "method": "",
                "value": 100 * t.estimate,
                "low": 100 * t.low,
                "high": 100 * t.high,
                "text": t.sentence,
                "below": -margin,
                "above": margin,
                "zero": 0.0,
            }
            for t in found
        ]
    )
    reach = 1.05 * max(float(rows[["low", "high"]].abs().to_numpy().max()), margin)
    edge = {"strokeDash": [2, 2], "opacity": 0.6}
    chart = strip(
        rows,
        x_title="points",
        percent=False,
        domain=(-reach, reach),
        columns=_columns(rows),
        groups=[""],
        lines=list(dict.fromkeys(rows.line)),
        marks={"rules": {"zero": {"opacity": 0.5}, "below": edge, "above": edge}},
        width=_width(rows.column.nunique()),
    )
    title = (
        "Differences between methods, paired by item; dotted: the margin of equivalence, "
        f"±{margin:g} points (95% intervals)"
    )
    return Figure(
        name="methods",
        title=title,
        description=" ".join(t.sentence for t in found),
        chart=chart,
        data={"rows": rows},
    )


def unaware_teacher(seeds: Seeds) -> Figure | None:
    """Draw distillation from a tuned teacher against one that never saw the task (Figure 2)."""
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
    chart = _strip(rows, "accuracy", (0, 1), rules={"sft_line": rule}, hollow="hollow")
    title = (
        "Distilled from a fine-tuned teacher (filled) and from one that never saw the task "
        f"(hollow); dotted: SFT ({dots_note(table)})"
    )
    return _figure("base-teacher", title, rows, chart)


def _figure(name: str, title: str, rows: Table, chart: alt.TopLevelMixin) -> Figure:
    """Return a figure of rows from `Seeds.dots`, described by its means."""
    text = describe(rows[rows.part != "seed"])
    return Figure(name=name, title=title, description=text, chart=chart, data={"rows": rows})


def _strip(rows: Table, title: str, domain: tuple[float, float], **marks: Any) -> alt.TopLevelMixin:
    percent = marks.pop("percent", True)
    columns = _columns(rows)
    return strip(
        rows,
        x_title=title,
        domain=domain,
        columns=columns,
        groups=groups_in_order(rows),
        lines=lines_in_order(rows),
        marks=marks,
        width=_width(len(columns)),
        percent=percent,
    )


def _columns(rows: Table) -> list[str]:
    """Return the benchmarks across, the average last; first where one row cannot hold them all.

    One benchmark stands alone: the average would be the same picture again.
    """
    names = scope_order(rows.column)
    if len(names) == 2 and AVERAGE in names:
        return names[:1]
    if len(names) <= ACROSS or AVERAGE not in names:
        return names
    return [AVERAGE, *names[:-1]]


def _width(columns: int) -> int:
    return max(110, min(260, 860 // min(columns, ACROSS) - 18))


def _bounded_scatter(rows: Table, students: list[str]) -> alt.LayerChart:
    limits = alt.Scale(domain=[0, 1])
    legend = alt.Legend(title=None, orient="right")
    base = alt.Chart(ROWS)
    area = base.transform_filter("datum.part == 'area'").mark_area(opacity=0.12, color=INK)
    x = alt.X("accuracy:Q", scale=limits, axis=percent_axis("accuracy of the student"))
    layers = [area.encode(x=x, y="lower:Q", y2="upper:Q", detail="of_teacher:N")]
    for part, look in (("seed", {"size": 14, "opacity": 0.7}), ("mean", {"size": 62})):
        if not (rows.part == part).any():
            continue
        dots = base.transform_filter(f"datum.part == '{part}'")
        layers.append(
            dots.mark_point(**{"filled": True, "opacity": 0.95} | look).encode(
                x=x,
                y=alt.Y("value:Q", scale=limits, axis=percent_axis("agreement with the teacher")),
                color=alt.Color("method:N", scale=colours(rows.method), legend=legend),
                shape=alt.Shape("student:N", scale=shapes(students), legend=legend),
                description="text:N",
            )
        )
    return alt.layer(*layers)


def _bound_areas(rows: Table, accuracies: Mapping[tuple, float]) -> Table:
    """Return the region of possible agreement for every teacher and benchmark."""
    grid = np.linspace(0, 1, 41)
    parts = []
    for teacher, benchmark in sorted(set(zip(rows.of_teacher, rows.benchmark, strict=True))):
        level = accuracies.get((teacher, benchmark), math.nan)
        part = pd.DataFrame({"accuracy": np.unique([*grid, level])})
        part["lower"] = (part.accuracy + level - 1).clip(lower=0)
        part["upper"] = 1 - (part.accuracy - level).abs()
        parts.append(part.assign(of_teacher=teacher, benchmark=benchmark))
    return pd.concat(parts)
