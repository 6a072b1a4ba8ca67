"""Generalization: accuracy, and what distillation gained over supervised fine-tuning."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.analysis import leads
from kdstudy.analysis.cells import ALL
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, points
from kdstudy.report import dots
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure, colours, order_of
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, items_link, number, rows_link
from kdstudy.report.tables_of_tests import ends, linked, of, of_one_student, one, tests_sheet
from kdstudy.report.views import (
    Numbers,
    best_first,
    dots_note,
    graded,
    groups_in_order,
    lines_in_order,
    main_grid,
    main_rows,
    mean_chance,
    scope_order,
    short,
    units,
)

_SEED = re.compile(r"/seed=\d+$")
_FLOW = {
    "kept_right": "Stayed right",
    "newly_right": "Became right",
    "newly_wrong": "Became wrong",
    "still_wrong": "Stayed wrong",
}


def section(data: ReportData) -> Section:
    """Return accuracies and gains: of benchmarks, of items, and their tests."""
    seeds, tests = data.seeds, data.tests
    blocks = [
        Text(sentence(seeds, tests)),
        accuracy(data),
        gains(seeds),
        flow(seeds.means),
        accuracy_sheet(seeds),
        gain_sheet(tests),
        flow_sheet(seeds, data.runs),
        paired_sheet(tests),
    ]
    return Section("generalization", "Generalization", blocks)


def sentence(seeds: Seeds, tests: Sequence[Test]) -> str:
    """Say what distillation gained over students, then run by run, then as the paper tests it.

    With one student it is what each method gained on it, over items and seeds.
    """
    rows = main_rows(seeds.means, "gain")
    if rows.empty:
        return "No distilled run can be compared with its SFT run yet."
    up, down = int((rows.low > 0).sum()), int((rows.high < 0).sum())
    text = of_one_student(tests)
    if not text and any(t.table == "gain" for t in tests):
        text = leads(tests)[0].sentence
    text = f"{text} " if text else ""
    text += (
        f"Taken one by one, {up} of {len(rows)} distilled {units(rows)} beat their student's SFT "
        f"run on the mean of benchmarks, {down} fell below it, and {len(rows) - up - down} cannot "
        f"be told apart from it with this many items{' and seeds' * (units(rows) == 'systems')}."
    )
    test = one(tests, "1", "one-sample t-test", ALL)
    if test and not math.isnan(test.p):
        text += (
            f" The paper's test, which takes the {test.n} runs as independent, has one-sided "
            f"p = {format_p(test.p)}."
        )
    return text


def accuracy(data: ReportData) -> Figure | None:
    """Draw accuracy by benchmark, student and method."""
    benchmarks = data.made.get("benchmarks") or {}
    chance = {name: b["chance"] for name, b in benchmarks.items() if "chance" in b}
    title = (
        "Accuracy by student, method and benchmark; dashed: the teacher, grey line: chance "
        f"({dots_note(data.seeds.means)})"
    )
    return dots.of_systems(
        data.seeds,
        "accuracy",
        name="accuracy",
        title=title,
        axis="accuracy",
        lines={**chance, AVERAGE: mean_chance(chance, graded(data.table))},
        paper="Figures 1 and 7",
    )


def gains(seeds: Seeds) -> Figure | None:
    """Draw the gain of each distilled system over its own SFT run."""
    rows = main_grid(seeds.means, "gain")
    if rows.empty:
        return None
    rows = seeds.dots(rows).assign(zero=0.0)
    rows[dots.ENDS] *= 100
    reach = 1.05 * float(np.nanmax(rows[dots.ENDS].abs().to_numpy()))
    rules = {"zero": {"strokeWidth": 1, "opacity": 0.5}}
    chart = dots.panels(rows, "points over SFT", (-reach, reach), rules=rules, percent=False)
    note = dots_note(seeds.means)
    if seeds.several:
        note = note.replace("intervals over items;", "intervals over items and seeds;")
    title = f"Gain over the student's own SFT, paired by item ({note})"
    return dots.figure("gains", title, rows, chart)


def flow(table: pd.DataFrame) -> Figure | None:
    """Draw, on the average, which items distillation made right and which it made wrong.

    Args:
        table: From `seeds.over_seeds`.
    """
    table = table[table.benchmark == AVERAGE]
    rows = main_grid(table, ("newly_right", "newly_wrong", "kept_right"))
    if rows.empty:
        return None
    index = ["group", "method", "line"]
    wide = rows.pivot(index=index, columns="metric", values="value").reset_index()
    seeds = rows.groupby(index).seeds.max().reindex(pd.MultiIndex.from_frame(wide[index]))
    wide["seeds"] = seeds.to_numpy()
    wide["lost"] = -wide.newly_wrong
    wide["note"] = [
        f"{100 * r.newly_wrong:.1f}% lost · {100 * r.newly_right:.1f}% won · "
        f"{100 * r.kept_right:.1f}% kept" + (f" · {r.seeds} seeds" if r.seeds > 1 else "")
        for r in wide.itertuples()
    ]
    reach = 1.05 * float(wide[["newly_right", "newly_wrong"]].to_numpy().max())
    base = alt.Chart(ROWS)
    axis = alt.Axis(format="%", tickCount=5, domain=False, ticks=False, title="share of items")
    scale_x = alt.Scale(domain=[-reach, reach], nice=False)
    y = alt.Y(
        "line:N",
        sort=lines_in_order(wide),
        title=None,
        axis=alt.Axis(domain=False, ticks=False),
    )
    colour = {"scale": colours(wide.method), "legend": None}
    won = base.mark_bar(height=11).encode(
        x=alt.X("newly_right:Q", scale=scale_x, axis=axis),
        y=y,
        fill=alt.Fill("method:N", **colour),
        description="note:N",
    )
    lost = base.mark_bar(height=11, fillOpacity=0, strokeWidth=1.5).encode(
        x=alt.X("lost:Q", scale=scale_x, axis=axis),
        y=y,
        stroke=alt.Stroke("method:N", **colour),
        description="note:N",
    )
    text = base.mark_text(align="left", dx=0, color=INK).encode(
        x=alt.value(440), y=y, text="note:N"
    )
    chart = (
        alt.layer(lost, won, text)
        .properties(width=430, height=alt.Step(19))
        .facet(
            row=alt.Row("group:N", sort=groups_in_order(rows), header=dots.side_header()),
            spacing=14,
        )
    )
    title = "Items that distillation lost (outlined, left) and won (filled, right), average"
    title += " over benchmarks and seeds" if (wide.seeds > 1).any() else ""
    return Figure(
        name="flow", title=title, description="; ".join(wide.note), chart=chart, data={"rows": wide}
    )


def accuracy_sheet(seeds: Seeds) -> Sheet:
    """Return accuracy by teacher, student and method, in percent."""
    rows = seeds.means[(seeds.means.metric == "accuracy") & (seeds.means.ablation == "")]
    names = scope_order(rows.benchmark)
    # Of each system the row with most runs behind it.
    whole = rows.sort_values("seeds", ascending=False, kind="stable").drop_duplicates("system")
    whole = whole.assign(
        rank=whole.kind.map(["base", "teacher", "sft", "distilled"].index),
        place=whole.method.map(order_of),
    ).sort_values(["rank", "teacher", "parameters", "model", "place", "system"])

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        method = {"base": "base", "distilled": r.method}.get(r.kind, "SFT")
        method += "" if numbers is seeds.numbers else f" · seed {r.seed}"
        found = {b: numbers.row(r.system, "accuracy", b) for b in names}
        labels = {"Teacher": short(r.teacher) or "–", "Student": r.model, "Method": method}
        # The whole table is in percent.
        cells = {b: number(row, bare=True, seeds=r.seeds) for b, row in found.items()}
        return labels | {b: c._replace(text=c.text.rstrip("%")) for b, c in cells.items()}

    lines = seeds.lines(whole, line, labels=3)
    title = "Accuracy in percent, by teacher, student and method"
    return Sheet.of("table7", title, **lines, labels=3, paper="Tables 7 and 8")


def gain_sheet(tests: Sequence[Test]) -> Sheet:
    """Return every test of the mean gain: the one to lead with first, the paper's last."""
    wanted = of(tests, "gain") + [t for t in of(tests, "1") if t.name == "one-sample t-test"]
    wanted += [t for t in tests if t.table in ("collapse", "seeds", "power", "bounds")]
    note = (
        "Students (or, for seeds, cells) are the units. Points, except the share of agreement's "
        "variance that accuracies explain, in percent. The paper's test takes every run for an "
        "independent one and is one-sided."
    )
    counts = {"Units": "clusters", "Rows": "n"}
    return tests_sheet("gain", "Every test of the gain over SFT", wanted, note, counts)


def flow_sheet(seeds: Seeds, runs: Collection[str]) -> Sheet:
    """Return, per distilled system, which share of items distillation made right and wrong."""
    kinds = {"newly_right": "gained", "newly_wrong": "lost"}

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        cells: dict[str, Any] = {"System": Cell(r.system, rows_link(system=r.system))}
        for metric, name in _FLOW.items():
            bare = metric in ("kept_right", "still_wrong")
            cell = number(numbers.row(r.system, metric), bare=bare, seeds=r.seeds)
            if metric in kinds and r.system in runs and cell.href:
                cell = cell._replace(href=items_link(run=r.system, kind=kinds[metric]))
            cells[name] = cell
        return cells

    found = best_first(seeds.means[seeds.means.kind == "distilled"])
    known = found.system.map(lambda s: seeds.numbers.row(s, "kept_right") is not None).astype(bool)
    title = "Items by what distillation did to them: right or wrong under SFT, and after"
    note = "Shares of items, means over benchmarks, against the student's own SFT run."
    return Sheet.of("flow", title, **seeds.lines(found[known], line), note=note)


def paired_sheet(tests: Sequence[Test]) -> Sheet:
    """Return every distilled system against SFT on its student, the averages first.

    A system with several seeds is one row, its runs below it.
    """
    own = {(t.subject, t.scope): t for t in tests if t.table == "student"}
    runs: dict[tuple[str, str], list[Test]] = {}
    for t in of(tests, "paired"):
        system = _SEED.sub("", t.subject)
        name = system if (system, t.scope) in own else t.subject
        runs.setdefault((name, t.scope), []).append(t)
    keys = sorted({**own, **runs}, key=lambda key: key[1] != AVERAGE)
    rows, below = [], []
    for key in keys:
        single = runs.get(key, [])
        alone = single[0] if len(single) == 1 else None
        rows.append(_over_sft(own.get(key) or single[0], alone))
        below.append([_over_sft(t, t) for t in single] if key in own and alone is None else [])
    note = (
        "Paired by item. Where a system has several seeds, items and seeds of this student are "
        "the units; with one seed its p is that of all flips of items (mid-p), of a single run "
        "and of ablations exact McNemar's. Nothing is said of other students."
    )
    title = "Gain over SFT on the same student in points"
    link = rows_link(metric="gain")
    return Sheet.of("paired", title, rows, runs=below, note=note, labels=2, more=link)


def _over_sft(test: Test, run: Test | None) -> dict[str, str | Cell]:
    """Return a row of a test; how many items changed is known of one run."""
    changed = "–" if run is None or math.isnan(run.statistic) else f"{run.statistic:.0f}"
    seeds = f"{test.clusters} seeds, items" if test.clusters < test.n else "items"
    return {
        "System": test.subject,
        "Benchmark": test.scope,
        "Gain": linked(test, points, "gain"),
        "95% interval": ends(test, points),
        "Items that changed": changed,
        "p": format_p(test.p),
        "Holm p": format_p(test.p_adjusted),
        "Items": str(test.n),
        "Units": seeds,
    }
