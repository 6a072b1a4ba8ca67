"""Every figure of a report, each a pure function of the study's table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.stats import EQUIVALENCE_MARGIN, Test
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
from kdstudy.report.views import (
    ablation_rows,
    describe,
    graded,
    groups_in_order,
    items_note,
    lines_in_order,
    lookup,
    main_grid,
    mean_chance,
    relations,
    scope_order,
    with_sft,
)

Table = pd.DataFrame


def all_figures(
    table: Table, tests: Sequence[Test] = (), chance: Mapping[str, float] | None = None
) -> dict[str, Figure]:
    """Return every figure the table has data for, by name."""
    makers: list[Callable[[], Figure | None]] = [
        lambda: accuracy(table, chance or {}),
        lambda: gains(table),
        lambda: flow(table),
        lambda: scale(table),
        lambda: agreement(table),
        lambda: agreement_accuracy(table),
        lambda: fidelity(table),
        lambda: steps(table),
        lambda: rouge(table),
        lambda: depends(table),
        lambda: methods(tests),
        lambda: curve(table, "temperature"),
        lambda: curve(table, "noise"),
        lambda: unaware_teacher(table),
    ]
    drawn = [figure for make in makers if (figure := make()) is not None]
    return {figure.name: figure for figure in drawn}


def accuracy(table: Table, chance: Mapping[str, float]) -> Figure | None:
    """Draw accuracy by benchmark, student and method (paper, Figures 1 and 7)."""
    rows = with_sft(table, "accuracy")
    if rows.empty:
        return None
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
        f"({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="accuracy", title=text, description=describe(rows), chart=chart, data={"rows": rows}
    )


def gains(table: Table) -> Figure | None:
    """Draw the gain of each distilled system over its own SFT run."""
    rows = main_grid(table, "gain")
    if rows.empty:
        return None
    rows[["value", "low", "high"]] *= 100
    reach = 1.05 * float(np.nanmax(rows[["low", "high"]].abs().to_numpy()))
    rules = {"zero": {"strokeWidth": 1, "opacity": 0.5}}
    rows["zero"] = 0.0
    chart = _strip(rows, "points over SFT", (-reach, reach), rules=rules, percent=False)
    text = (
        f"Gain over the student's own SFT run, paired by item ({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="gains", title=text, description=describe(rows), chart=chart, data={"rows": rows}
    )


def agreement(table: Table) -> Figure | None:
    """Draw agreement with the teacher before and after, with its bounds (paper, Figures 3, 8)."""
    rows = relations(table, "agreement")
    if rows.empty:
        return None
    for bound in ("lower", "upper"):
        values = lookup(table, f"agreement_{bound}_bound", pair=True)
        keys = zip(rows.system, rows.reference, rows.benchmark, strict=True)
        rows[bound] = [values.get(k, math.nan) for k in keys]
    rows.loc[rows.hollow, ["lower", "upper"]] = math.nan
    chart = _strip(rows, "same final answer", (0, 1), bands=[("lower", "upper")], hollow="hollow")
    title = (
        "Agreement with the teacher (filled) and with the student's own SFT run (hollow); "
        f"grey: all that the two accuracies allow ({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="agreement", title=title, description=describe(rows), chart=chart, data={"rows": rows}
    )


def fidelity(table: Table) -> Figure | None:
    """Draw BLEU of the reasoning with the teacher's, before and after (paper, Figures 4, 9)."""
    rows = relations(table, "bleu_corpus")
    if rows.empty:
        return None
    chart = _strip(rows, "corpus BLEU (0-100)", (0, 100), hollow="hollow", percent=False)
    title = (
        "Fidelity of the text to the teacher's (filled) and to the student's own SFT run "
        f"(hollow), corpus BLEU ({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="fidelity", title=title, description=describe(rows), chart=chart, data={"rows": rows}
    )


def steps(table: Table) -> Figure | None:
    """Draw the share of reasoning steps that the texts have in common, before and after."""
    rows = relations(table, "fidelity_steps")
    rows = rows[rows.value.notna()] if len(rows) else rows
    if rows.empty:
        return None
    chart = _strip(rows, "shared steps", (0, 1), hollow="hollow")
    title = (
        "Steps of reasoning shared with the teacher (filled) and with the student's own SFT run "
        f"(hollow), in order ({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="steps", title=title, description=describe(rows), chart=chart, data={"rows": rows}
    )


def rouge(table: Table) -> Figure | None:
    """Draw ROUGE-L of free texts with their references, the teacher as a line."""
    rows = with_sft(table, "rouge_l")
    if rows.empty:
        return None
    teacher = lookup(table, "rouge_l")
    rows["teacher_line"] = [
        100 * teacher.get(k, math.nan) for k in zip(rows.of_teacher, rows.benchmark, strict=True)
    ]
    rows[["value", "low", "high"]] *= 100
    rule = {"strokeDash": [5, 3], "strokeWidth": 1.3, "opacity": 0.85}
    chart = _strip(rows, "ROUGE-L (0-100)", (0, 100), rules={"teacher_line": rule}, percent=False)
    title = (
        "ROUGE-L with the closest reference by student, method and benchmark; dashed: the teacher "
        f"({items_note(table, 'rouge_l')}, 95% intervals)"
    )
    return Figure(
        name="rouge", title=title, description=describe(rows), chart=chart, data={"rows": rows}
    )


def agreement_accuracy(table: Table) -> Figure | None:
    """Draw agreement with the teacher against accuracy, inside the mechanical bounds."""
    rows = relations(table, "agreement")
    rows = rows[~rows.hollow] if len(rows) else rows
    if rows.empty:
        return None
    found = lookup(table, "accuracy")
    rows["accuracy"] = [
        found.get(k, math.nan) for k in zip(rows.system, rows.benchmark, strict=True)
    ]
    students = list(dict.fromkeys(rows.sort_values("parameters").student))
    areas = _bound_areas(rows, found)
    both = pd.concat([rows.assign(part="dot"), areas.assign(part="area")])
    chart = (
        _bounded_scatter(rows.method, students)
        .properties(width=190, height=190)
        .facet(
            alt.Facet(
                "benchmark:N", sort=scope_order(rows.benchmark), header=alt.Header(title=None)
            ),
            columns=4,
            spacing=22,
        )
    )
    title = (
        "Agreement with the teacher against accuracy; grey: the region that the two accuracies "
        f"allow ({items_note(table)})"
    )
    return Figure(
        name="agreement-accuracy",
        title=title,
        description=describe(rows),
        chart=chart,
        data={"rows": both},
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


def unaware_teacher(table: Table) -> Figure | None:
    """Draw distillation from a tuned teacher against one that never saw the task (Figure 2)."""
    rows = ablation_rows(table, "base_teacher")
    rows = rows[rows.metric == "accuracy"].copy()
    if rows.empty:
        return None
    rows["hollow"] = rows.ablation == "base_teacher"
    rows["group"], rows["of_teacher"] = rows.student, ""
    sft = lookup(table, "accuracy")
    own = table[table.kind == "sft"].drop_duplicates("student").set_index("student").system
    rows["sft_line"] = [
        sft.get((own.get(s, ""), b), math.nan)
        for s, b in zip(rows.student, rows.benchmark, strict=True)
    ]
    rule = {"strokeWidth": 1.4, "opacity": 0.5, "strokeDash": [1, 2]}
    chart = _strip(rows, "accuracy", (0, 1), rules={"sft_line": rule}, hollow="hollow")
    title = (
        "Distilled from a fine-tuned teacher (filled) and from one that never saw the task "
        f"(hollow); dotted: SFT ({items_note(table)}, 95% intervals)"
    )
    return Figure(
        name="base-teacher",
        title=title,
        description=describe(rows),
        chart=chart,
        data={"rows": rows},
    )


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
    """Return the benchmarks across, the average last; first where one row cannot hold them all."""
    names = scope_order(rows.column)
    if len(names) <= ACROSS or AVERAGE not in names:
        return names
    return [AVERAGE, *names[:-1]]


def _width(columns: int) -> int:
    return max(110, min(260, 860 // min(columns, ACROSS) - 18))


def _bounded_scatter(methods: pd.Series, students: list[str]) -> alt.LayerChart:
    limits = alt.Scale(domain=[0, 1])
    legend = alt.Legend(title=None, orient="right")
    base = alt.Chart(ROWS)
    area = base.transform_filter("datum.part == 'area'").mark_area(opacity=0.12, color=INK)
    dots = base.transform_filter("datum.part == 'dot'")
    x = alt.X("accuracy:Q", scale=limits, axis=percent_axis("accuracy of the student"))
    return alt.layer(
        area.encode(x=x, y="lower:Q", y2="upper:Q", detail="of_teacher:N"),
        dots.mark_point(filled=True, size=62, opacity=0.95).encode(
            x=x,
            y=alt.Y("value:Q", scale=limits, axis=percent_axis("agreement with the teacher")),
            color=alt.Color("method:N", scale=colours(methods), legend=legend),
            shape=alt.Shape("student:N", scale=shapes(students), legend=legend),
            description="text:N",
        ),
    )


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
