"""What the gain goes with: student size, teacher accuracy, agreement, fidelity."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from kdstudy.analysis.cells import cells, main_runs
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, main_grid
from kdstudy.analysis.verdict import signed
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, SIZES, Figure, colours, shapes
from kdstudy.report.sheet import Sheet
from kdstudy.report.tables_of_tests import METRICS, ends, linked, one, paper_sheet
from kdstudy.report.views import items_note, short

_PAPER = {
    "2": "Gain against teacher accuracy, pooled over runs",
    "3": "Gain against student size, pooled over runs",
    "4": "Gain against agreement with the teacher, pooled over runs",
    "5": "Gain against fidelity to the teacher, pooled over runs",
}
_DEPENDS = {
    "all runs (the paper's)": "Spearman rank correlation",
    "students' means": "Spearman between students",
    "teachers' means": "Spearman between teachers",
    "inside students": "within-student correlation",
    "inside students, permuted": "within-student correlation, permutation",
}
_POOLED = (
    "The paper pools all runs, and runs of one student are not independent. Inside-student "
    "correlations hold the student fixed; where the two disagree in sign, the pooled one is about "
    "students, not about distillation."
)


def section(data: ReportData) -> Section:
    """Return the strongest factor, each student's own trend, and the paper's tables."""
    tables = [paper_sheet(data.tests, number, title) for number, title in _PAPER.items()]
    blocks = [
        Text(sentence(data.tests)),
        Text(_POOLED if tables[1].entries else "", style=""),
        figure(data.table),
        depends_sheet(data.tests),
        *tables,
    ]
    title = "Does it depend on size, teacher, agreement or fidelity?"
    return Section("depends", title, blocks, short="Depends on")


def sentence(tests: Sequence[Test]) -> str:
    """Say what the gain goes with, pooled and inside students."""
    pooled = [t for t in tests if t.table in _PAPER and t.scope == AVERAGE]
    known = [t for t in pooled if not math.isnan(t.p)]
    if not known:
        return "Too few runs to say what the gain depends on." + (
            f" {pooled[0].sentence}" if pooled else ""
        )
    strongest = min(known, key=lambda t: t.p)
    inside = {
        t.subject: t
        for t in tests
        if t.name == "within-student correlation" and t.scope == AVERAGE and not math.isnan(t.p)
    }
    text = f"Strongest over all runs: {_lower(strongest.sentence)[:-1]}"
    if not math.isnan(strongest.low):
        ends = f"{signed(strongest.low)} to {signed(strongest.high)}"
        text += f" (95% interval {ends}, runs as if independent)"
    text += _inside(inside.get(strongest.subject))
    turned = [t for t in known if t.subject in inside and t is not strongest]
    turned = [t for t in turned if t.estimate * inside[t.subject].estimate < 0]
    if turned:
        t, w = turned[0], inside[turned[0].subject]
        text += (
            f" Mind the pooling: gain against {t.subject} is {signed(t.estimate)} over all runs "
            f"but {signed(w.estimate)} (p = {format_p(w.p)}) inside students."
        )
    change = one(tests, "correlation", "Spearman rank correlation", "change of agreement over SFT")
    if change and not math.isnan(change.p):
        text += f" Change on change: {_lower(change.sentence)}"
    unknown = [t.subject for t in pooled if math.isnan(t.p)]
    return text + (f" Not estimable here: {', '.join(unknown)}." if unknown else "")


def _inside(test: Test | None) -> str:
    if test is None:
        return "; inside students it cannot be told."
    return f"; inside students it is {signed(test.estimate)} (p = {format_p(test.p)})."


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def figure(table: pd.DataFrame) -> Figure | None:
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


def _trend(
    rows: pd.DataFrame, students: list[str], factor: str, axis: dict[str, Any]
) -> alt.LayerChart:
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


def depends_sheet(tests: Sequence[Test]) -> Sheet:
    """Return, on the average, each factor's correlation with the gain by unit of evidence."""
    found = {(t.subject, t.name): t for t in tests if t.scope == AVERAGE}
    subjects = dict.fromkeys(t.subject for t in tests if t.name == _DEPENDS["inside students"])
    wanted = [(s, over, found.get((s, n))) for s in subjects for over, n in _DEPENDS.items()]
    rows = [
        {
            "Gain against": subject,
            "Over": over,
            "Correlation": linked(t, signed, METRICS.get(t.table, "gain")),
            "95% interval": ends(t, signed),
            "p": format_p(t.p),
            "Rows": str(t.n),
            "Students or teachers": str(t.clusters),
        }
        for subject, over, t in wanted
        if t is not None and not math.isnan(t.estimate)
    ]
    note = (
        "On the average over benchmarks. Change of agreement sets change against change: how far "
        "agreement with the teacher moved from SFT to distilled, and the gain."
    )
    title = "The gain and what it goes with: over runs, between students, inside students"
    return Sheet.of("depends", title, rows, note=note, labels=2)
