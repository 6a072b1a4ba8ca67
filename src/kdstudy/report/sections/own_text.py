"""Exposure bias: how far a student is from its teacher on text of its own, by position."""

import math
from typing import Any

import altair as alt
import pandas as pd

from kdstudy.measures import own_text
from kdstudy.measures.units import Unit, text
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure, colours
from kdstudy.report.sheet import Cell, Sheet
from kdstudy.report.views import best_students, lines_in_order, scope_order, short

_NOTE = (
    "KL(student, teacher) in nats per token at the positions that a student's answer and its "
    "teacher's both have, read by both models; 95% intervals over items, both answers of an item "
    "drawn together. Cross-entropy: of each text under the student, then under the teacher. "
    "Further along there are fewer answers, and they are other ones."
)


def section(data: ReportData) -> Section:
    """Return how the gap goes along a text; nothing where nobody asked for it."""
    rows = data.own_texts
    blocks = [Text(sentence(data)), figure(rows, data), sheet(rows, data)] if len(rows) else []
    return Section("own-text", "On text of its own", blocks, short="Own text")


def sentence(data: ReportData) -> str:
    """Say where the gap of the best student begins and where it ends; "" where it has none."""
    rows = data.own_texts[data.own_texts.text == "gap"]
    told = [s for s in best_students(data.seeds.means).system if s in set(rows.system)]
    if not told:
        return ""
    first = rows[rows.system == told[0]]
    own = first[(first.teacher == first.teacher.iloc[0])]
    own = own[own.benchmark == own.benchmark.iloc[0]]
    ends = [own.iloc[0], own.iloc[-1]]
    said = [f"{_signed(r.value)}{_bracket(r)} in tokens {r.tokens}" for r in ends[: len(own)]]
    sure = int(((own.low > 0) | (own.high < 0)).sum())
    sure = int(((own.low > 0) | (own.high < 0)).sum())
    return (
        f"On {own.benchmark.iloc[0]} KL(student, teacher) of {told[0]} on its own answers less "
        f"that on its teacher's, at the same positions, is {' and '.join(dict.fromkeys(said))} "
        "(nats per token; above 0: it strays further on its own text). "
        f"{sure or 'None'} of {len(own)} stretches of the text {'is' if sure < 2 else 'are'} told "
        "from 0."
    )


def figure(rows: pd.DataFrame, data: ReportData) -> Figure | None:
    """Draw the gap by position, a small multiple for each student and benchmark."""
    rows = rows[rows.text == "gap"]
    if rows.empty:
        return None
    facts = data.seeds.means.drop_duplicates("system").set_index("system")
    rows = rows.assign(
        student=rows.system.map(facts.student).fillna(""),
        method=rows.system.map(facts.method).fillna(""),
        line=rows.system + (" ← " + rows.teacher if rows.teacher.nunique() > 1 else ""),
    )
    rows["told"] = [
        f"{r.system}, {r.benchmark}, tokens {r.tokens}: {_signed(r.value)}{_bracket(r)} nats"
        for r in rows.itertuples()
    ]
    x = alt.X("tokens:N", sort=[*own_text.BINS], title="position in the answer, tokens")
    x.axis = alt.Axis(labelAngle=0, domain=False, ticks=False)
    offset = alt.XOffset("line:N", sort=lines_in_order(rows))
    legend = alt.Legend(title=None, orient="top") if rows.method.nunique() > 1 else None
    colour = alt.Color("method:N", scale=colours(rows.method), legend=legend)
    base = alt.Chart(ROWS).encode(x=x, xOffset=offset, color=colour)
    title = "nats per token more on its own text"
    layers = alt.layer(
        alt.Chart(ROWS).mark_rule(color=INK, opacity=0.5).encode(y=alt.datum(0)),
        base.mark_rule(strokeWidth=1.6).encode(y=alt.Y("low:Q", title=title), y2="high"),
        base.mark_point(filled=True, size=40, opacity=1).encode(y="value:Q", description="told:N"),
    ).properties(width=max(220, 12 * rows.tokens.nunique() * rows.line.nunique()), height=150)
    chart = layers.facet(
        row=alt.Row("student:N", title=None),
        column=alt.Column("benchmark:N", sort=scope_order(rows.benchmark), title=None),
        spacing=18,
    )
    said = "; ".join(rows.told.head(60))
    name = "How much further students are from their teacher on their own text, by position"
    return Figure(
        name="own_text", title=f"{name} (95% intervals over items)", description=said, chart=chart,
        data={"rows": rows},
    )  # fmt: skip


def sheet(rows: pd.DataFrame, data: ReportData) -> Sheet:
    """Return both distances and the gap by position."""
    keys = ["system", "teacher", "benchmark", "tokens"]
    several = rows.teacher.nunique() > 1
    lines = []
    for (system, teacher, benchmark, tokens), part in rows.groupby(keys, sort=False):
        of = {r.text: r for r in part.itertuples()}
        head = {"System": system} | ({"Teacher": short(teacher)} if several else {})
        lines.append(
            head
            | {
                "Benchmark": benchmark,
                "Tokens": tokens,
                "On its own": text(Unit.NATS, of["own"].value),
                "On its teacher's": text(Unit.NATS, of["reference"].value),
                "More on its own": Cell(
                    _signed(of["gap"].value), sd=_sd(of["gap"]), ends=_ends(of["gap"])
                ),
                **{f"Cross-entropy, {own_text.OF[t]}": _both(of[t]) for t in own_text.OF},
                "Texts": f"{of['gap'].n:,}",
            }
        )
    title = "KL(student, teacher) by position, nats per token"
    return Sheet.of("own_text", title, lines, labels=4 if several else 3, note=_NOTE)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _ends(row: Any) -> str:
    return "" if math.isnan(row.low) else f"{_signed(row.low)} to {_signed(row.high)}"


def _bracket(row: Any) -> str:
    return f" ({_ends(row)})" if _ends(row) else ""


def _both(row: Any) -> str:
    return ", ".join(text(Unit.NATS, ce) for ce in (row.ce_student, row.ce_teacher))


def _sd(row: Any) -> str:
    return "" if math.isnan(row.sd) else f"{row.sd:.3f}"
