"""The loss statement: what each student kept of its teacher, and what it lost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from kdstudy.analysis.losses import ELSEWHERE
from kdstudy.analysis.measures import AVERAGE, HELD_OUT
from kdstudy.measures import Loss, Unit, hacking
from kdstudy.report import loss_words as words
from kdstudy.report.blocks import Block, Group, Listed, Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure, colours
from kdstudy.report.sheet import Cell, Sheet
from kdstudy.report.views import best_students, lines_in_order, short

_ACROSS = 3
_SCOPES = {AVERAGE: "trained for", ELSEWHERE: "not trained for", HELD_OUT: "held-out text"}


def section(data: ReportData) -> Section:
    """Return the best student's statement, then the others', the picture and every number."""
    told = statements(data)
    if not told:
        return Section("statement", "What was kept and what was lost", [])
    ranked = [s for s in best_students(data.seeds.means).system if any(s == k[0] for k in told)]
    first = next((k for k in told if ranked and k[0] == ranked[0]), next(iter(told)))
    finding, *more = told.pop(first)
    others = [" ".join(s) for s in told.values()]
    blocks: list[Block | None] = [
        Text(finding),
        Listed(more),
        Group([Listed(others)], title=f"The other {len(others)} students in sentences"),
        figure(data),
        sheet(data.losses, data),
        Group([Listed(notes(data))], title="What each measure is, and what it cannot tell"),
    ]
    return Section("statement", "What was kept and what was lost", blocks, short="Kept and lost")


def statements(data: ReportData) -> dict[tuple[str, str], list[str]]:
    """Return what is said of each student and teacher, the sentence that sums up first."""
    found = {}
    for key, rows in data.losses.groupby(["system", "teacher"], sort=False):
        told = words.sentences(rows, data.courses.get(key[0], {}))
        if several := rows.teacher.iloc[0] if _taught_by_several(data.losses, key[0]) else "":
            told[0] = f"Against {several}: {told[0]}"
        found[key] = [sentence for sentence in told if sentence]
    return found


def notes(data: ReportData) -> list[str]:
    """Return what each measured line is, what it is of, what it costs, and what it cannot tell."""
    there = [line for name, line in words.LINES.items() if (data.losses.measure == name).any()]
    told = [
        f"{line.note} It takes {line.cost}. It cannot tell {line.cannot.rstrip('.')}."
        for line in there
    ]
    if data.courses:
        told.append(f"{hacking.NOTE} {hacking.CANNOT}")
    return told


def sheet(rows: pd.DataFrame, data: ReportData, **page: Any) -> Sheet:
    """Return every line of the statement; of means over several benchmarks also each one's.

    Args:
        rows: Of `data.losses`.
        data: The study.
        page: `open`.
    """
    lines = [_line(r, several=data.losses.teacher.nunique() > 1) for r in rows.itertuples()]
    note = (
        "Kept: the student's number over its teacher's, both less what guessing scores. Change: the "
        "student's less its teacher's (or its base's, its model before training). 95% intervals "
        "in brackets, paired by item; lost and gained: where the interval leaves no change out. "
        f"Each interval stands alone: of {max(20, len(lines)):,} one in twenty is expected to miss. "
        "A domain is that of a known corpus or benchmark; not trained for: another than the corpus's."
    )
    title = "The loss statement, number by number"
    return Sheet.of("statement", title, lines, note=note, labels=3, **page)


def _line(r: Any, several: bool) -> dict[str, Any]:
    line = words.LINES[r.measure]
    head = {"System": r.system} | ({"Teacher": short(r.teacher)} if several else {})
    where = f"{r.of.count(', ') + 1} benchmarks, {_SCOPES[r.benchmark]}" if ", " in r.of else r.of
    where = "held-out text" if r.benchmark == HELD_OUT else where
    reference = words.number(r, "reference") if r.against else "–"
    change = Cell(words.value(r), sd=words.spread(r), ends=words.ends(r))
    undefined = Cell(f"– ({r.why})") if r.why else Cell("–")
    return head | {
        "What": line.title,
        "On": where,
        "Student": words.number(r, "student"),
        "Its teacher": reference if r.against == "teacher" else "–",
        "Its base": reference if r.against == "base" else "–",
        "Kept": (undefined if r.why else change) if words.kept(r) else Cell("–"),
        "Change": change if r.against and not words.kept(r) else Cell("–"),
        "In words": words.verdict(r) or "–",
        "n": f"{r.n:,}",
    }


def figure(data: ReportData) -> Figure | None:
    """Draw the means of every line as small multiples: a dot per system, beside no loss."""
    rows = data.losses[data.losses.benchmark.isin([*_SCOPES])].dropna(subset="value")
    if rows.empty:
        return None
    rows = _drawn(rows, data)
    panels = list(dict.fromkeys(rows.panel))
    order = lines_in_order(rows)
    height = 19 * len(order)
    chart = alt.concat(
        *(
            _panel(rows[rows.panel == p], order, height, labels=i % _ACROSS == 0)
            for i, p in enumerate(panels)
        ),
        columns=_ACROSS,
        spacing={"row": 26, "column": 14},
    )
    seeds = " and seeds" if (rows.seeds > 1).any() else ""
    title = (
        "What each student kept and lost; line: no loss, filled: lost or gained, hollow: cannot be "
        f"told (95% intervals over items{seeds})"
    )
    text = "; ".join(rows.text.head(60))
    return Figure(name="statement", title=title, description=text, chart=chart, data={"rows": rows})


def _drawn(rows: pd.DataFrame, data: ReportData) -> pd.DataFrame:
    """Return the rows as a figure needs them, in percent, points or nats."""
    facts = data.seeds.means.drop_duplicates("system").set_index("system")
    found = rows.assign(method=rows.system.map(facts.method).fillna(""))
    student = rows.system.map(facts.student).fillna("")
    several = student.nunique() > 1
    found["line"] = (student + " " if several else "") + found.method
    if rows.teacher.nunique() > 1:
        found["line"] += " ← " + rows.teacher.map(short)
    doubled = found.groupby(["measure", "benchmark"]).line.transform(lambda x: x.duplicated(False))
    found["line"] = found.line.where(~doubled, rows.system)
    of = [*rows.itertuples()]
    found["panel"] = [_panel_title(r) for r in of]
    found["verdict"] = [words.verdict(r) or words.KEPT for r in of]
    found["text"] = [
        f"{r.system}: {words.LINES[r.measure].title}, {_SCOPES[r.benchmark]}: {words.value(r)}"
        + (f" ({words.ends(r)})" if words.ends(r) else "")
        for r in of
    ]
    scale = [1.0 if words.LINES[r.measure].unit is Unit.NATS else 100.0 for r in of]
    for column in ("value", "low", "high"):
        found[column] = found[column] * scale
    found["none"] = [
        math.nan if not r.against else 100.0 if words.kept(r) else 0.0 for r in of
    ]
    order = {name: i for i, name in enumerate(words.LINES)}
    places = [(order[r.measure], list(_SCOPES).index(r.benchmark)) for r in of]
    found["place"] = places
    return found.sort_values("place", kind="stable").drop(columns="place")


def _panel_title(r: Any) -> str:
    line = words.LINES[r.measure]
    title = {
        "risk_coverage": "Excess risk",
        "false_equations": "False equations, answer right",
        "copied": "Training text repeated",
        "token_overconfidence": "Overconfidence, next token",
        "recall_lost": "KL(teacher, student)",
        "precision_lost": "KL(student, teacher)",
    }.get(r.measure, line.title)
    if r.benchmark == ELSEWHERE and r.measure != "forgetting":
        title += ", not trained for"
    if words.kept(r):
        return f"{title}: % of the teacher's"
    unit = "nats" if line.unit is Unit.NATS else "points"
    return f"{title}: {unit}" if not r.against else f"{title}: {unit} from the {r.against}"


def _panel(
    rows: pd.DataFrame, order: Sequence[str], height: int, *, labels: bool
) -> alt.LayerChart:
    ends = rows[["value", "low", "high", "none"]].to_numpy(float)
    known = ends[~pd.isna(ends)]
    low, high = float(known.min()), float(known.max())
    if rows.none.isna().all():
        low = 0.0
    room = 0.08 * (high - low or 1.0)
    domain = [low if low == 0 and rows.none.isna().all() else low - room, high + room]
    axis = alt.Axis(tickCount=4, domain=False, ticks=False, title=None)
    x = {"scale": alt.Scale(domain=domain, nice=False, zero=False), "axis": axis}
    y = alt.Y(
        "line:N",
        sort=list(order),
        scale=alt.Scale(domain=list(order)),
        title=None,
        axis=alt.Axis(domain=False, ticks=False, labels=labels, labelLimit=260),
    )
    panel = rows.panel.iloc[0].replace("'", "\\'")
    base = alt.Chart(ROWS).transform_filter(f"datum.panel == '{panel}'")
    colour = alt.Color("method:N", scale=colours(rows.method), legend=None)
    hollow = f"datum.verdict == '{words.UNKNOWN}'"
    return alt.layer(
        base.mark_rule(color=INK, strokeWidth=1, opacity=0.5).encode(
            x=alt.X("mean(none):Q", **x)
        ),
        base.mark_rule(strokeWidth=1.6).encode(
            x=alt.X("low:Q", **x), x2="high", y=y, color=colour
        ),
        base.mark_point(filled=True, size=58, opacity=1, strokeWidth=1.8).encode(
            x=alt.X("value:Q", **x),
            y=y,
            stroke=colour,
            fill=alt.condition(hollow, alt.value("transparent"), colour),
            description="text:N",
        ),
    ).properties(width=190, height=height, title=rows.panel.iloc[0])


def _taught_by_several(losses: pd.DataFrame, system: str) -> bool:
    return losses[losses.system == system].teacher.nunique() > 1
