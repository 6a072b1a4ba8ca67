"""The loss statement: what each student kept of its teacher, and what it lost."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from kdstudy.analysis.losses import ELSEWHERE
from kdstudy.analysis.measures import AVERAGE, HELD_OUT
from kdstudy.measures import Unit, hacking
from kdstudy.measures.base import Loss
from kdstudy.report import loss_words as words
from kdstudy.report.blocks import Block, Group, Listed, Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure, colours
from kdstudy.report.sections import robustness
from kdstudy.report.sheet import Cell, Sheet
from kdstudy.report.views import best_students, lines_in_order, printed, short

_ACROSS = 3
_EACH = ("accuracy_kept", "text_kept", "forgetting", "over_base")
"""Lines that the table has for every benchmark; statement.csv has all."""
_BOUNDS = ("lower", "upper")
_SCOPES = {AVERAGE: "the others", ELSEWHERE: "not trained for", HELD_OUT: "held-out text"}


def section(data: ReportData) -> Section:
    """Return the best student's statement, then the others', the picture and every number."""
    told = statements(data)
    if not told:
        return Section("statement", "What was kept and what was lost", [])
    (finding, *more), *rest = told.values()
    others = [" ".join(sentences) for sentences in rest]
    blocks: list[Block | None] = [
        Text(finding),
        Listed(more),
        Group([Listed(others)], title=_others(len(others))),
        figure(data),
        sheet(data.losses, data, note=READ),
        *robustness.blocks(data),
        Group([Listed(notes(data))], title="What each measure is, and what it cannot tell"),
    ]
    return Section("statement", "What was kept and what was lost", blocks, short="Kept and lost")


def _others(count: int) -> str:
    return "The other student in sentences" if count == 1 else f"The other {count} in sentences"


def statements(data: ReportData) -> dict[tuple[str, str], list[str]]:
    """Return what is said of each student and teacher, the sentence that sums up first.

    The student of the highest mean accuracy comes first.
    """
    found = {}
    groups = dict(iter(data.losses.groupby(["system", "teacher"], sort=False)))
    ranked = [*best_students(data.seeds.means).system]
    place = {key: ranked.index(key[0]) if key[0] in ranked else len(ranked) for key in groups}
    for key in sorted(groups, key=place.__getitem__):
        rows = groups[key]
        told = words.sentences(rows, data.courses.get(key[0], {}))
        told.insert(1, _agreement(data, *key))
        if several := rows.teacher.iloc[0] if _taught_by_several(data.losses, key[0]) else "":
            told[0] = f"Against {several}: {told[0]}"
        found[key] = [sentence for sentence in told if sentence]
    return found


def _agreement(data: ReportData, system: str, teacher: str) -> str:
    """Say how often it gives its teacher's answer, and what of that the accuracies force."""
    names = data.seeds.names
    of_a_run = names.get(system, system) != system
    numbers = data.seeds.of_runs if of_a_run else data.seeds.numbers
    teacher = teacher if of_a_run else names.get(teacher, teacher)
    found = numbers.row(system, "agreement", AVERAGE, teacher)
    ends = [numbers.row(system, f"agreement_{b}_bound", AVERAGE, teacher) for b in _BOUNDS]
    if found is None or None in ends:
        return ""
    low, high = (f"{100 * end.value:.0f}" for end in ends)
    return (
        f"It gives its teacher's answer on {printed(found)} of items, where the two accuracies "
        f"force {low}% and allow {high}%."
    )


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


READ = (
    "Kept, in percent: the student's number over its teacher's, both less what guessing scores. "
    "Change, with a sign: the student's less its teacher's, in points or nats, or less its base's, "
    "which is its model before training. Without a sign: a distance from its teacher. 95% "
    "intervals in brackets, student and reference on the same items; lost and gained: where the "
    "interval leaves no change out. Each interval stands alone: one in twenty is expected to miss. "
    "Not trained for: of another domain than the corpus, where both are known or a user says so."
)
"""How to read the table."""


def sheet(rows: pd.DataFrame, data: ReportData, name: str = "statement", **page: Any) -> Sheet:
    """Return every line of the statement, its mean over benchmarks; some also by benchmark.

    Args:
        rows: Of `data.losses`.
        data: The study.
        name: File stem.
        page: `note` and `open`.
    """
    alone = rows[["system", "teacher"]].drop_duplicates().shape[0] == 1
    head = [] if alone else ["System"]
    head += ["Teacher"] if not alone and data.losses.teacher.nunique() > 1 else []
    apart = (data.losses.benchmark == ELSEWHERE).any()
    shown = rows[rows.benchmark.isin([*_SCOPES]) | rows.measure.isin(_EACH)]
    seeds = data.losses.groupby("system").seeds.max()
    lines = [_line(r, head, apart, seeds[r.system]) for r in shown.itertuples()]
    title = "The loss statement, number by number"
    return Sheet.of(name, title, lines, labels=len(head) + 2, **page)


def _line(r: Any, head: Sequence[str], apart: bool, seeds: int) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        r: A row of `data.losses`.
        head: Its labels beside what was measured, and on what.
        apart: Benchmarks that nobody trained for are told from the others.
        seeds: Most that a line of its system has.
    """
    names = {"System": r.system, "Teacher": short(r.teacher)}
    where = f"{r.of.count(', ') + 1} benchmarks" if ", " in r.of else r.of
    where = _SCOPES[HELD_OUT] if r.benchmark == HELD_OUT else where
    of_two = words.kept(r) or r.measure == "over_base"
    if apart and r.benchmark in (AVERAGE, ELSEWHERE) and of_two:
        where += f" ({_SCOPES[r.benchmark]})"
    sd = words.spread(r)
    if r.seeds < seeds:
        sd = f"{sd or '–'} ({r.seeds} of {seeds} seeds)"
    value = Cell(words.value(r), sd=sd, ends=words.ends(r))
    return {name: names[name] for name in head} | {
        "What": words.LINES[r.measure].title,
        "On": where,
        "Student": words.number(r, "student") if r.against else "–",
        "Compared with": f"{words.number(r, 'reference')} ({r.against})" if r.against else "–",
        "Kept, or change": Cell("–") if r.why else value,
        "In words": r.why or words.verdict(r) or "–",
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
    found["panel"], found["unit"] = zip(*map(_panel_title, of), strict=True)
    found["verdict"] = [words.verdict(r) or words.KEPT for r in of]
    found["text"] = [
        f"{r.system}: {words.LINES[r.measure].title}, {_SCOPES[r.benchmark]}: {words.value(r)}"
        + (f" ({words.ends(r)})" if words.ends(r) else "")
        for r in of
    ]
    scale = [1.0 if words.LINES[r.measure].unit is Unit.NATS else 100.0 for r in of]
    for column in ("value", "low", "high"):
        found[column] = found[column] * scale
    found["none"] = [math.nan if not r.against else 100.0 if words.kept(r) else 0.0 for r in of]
    order = {name: i for i, name in enumerate(words.LINES)}
    places = [(order[r.measure], list(_SCOPES).index(r.benchmark)) for r in of]
    found["place"] = places
    return found.sort_values("place", kind="stable").drop(columns="place")


def _panel_title(r: Any) -> tuple[str, str]:
    """Return what a small multiple shows, and in what it counts."""
    line = words.LINES[r.measure]
    title = line.title
    if r.benchmark == ELSEWHERE and r.measure != "forgetting":
        title += ", not trained for"
    if words.kept(r):
        above = " above guessing" if r.floor else ""
        return title, f"% of the teacher's{above}"
    per = "item" if isinstance(line, Loss) else "token"
    unit = f"nats per {per}" if line.unit is Unit.NATS else "points"
    return title, f"{unit} more than the {r.against}" if r.against else unit


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
        base.mark_rule(color=INK, strokeWidth=1, opacity=0.5).encode(x=alt.X("mean(none):Q", **x)),
        base.mark_rule(strokeWidth=1.6).encode(x=alt.X("low:Q", **x), x2="high", y=y, color=colour),
        base.mark_point(filled=True, size=58, opacity=1, strokeWidth=1.8).encode(
            x=alt.X("value:Q", **x),
            y=y,
            stroke=colour,
            fill=alt.condition(hollow, alt.value("transparent"), colour),
            description="text:N",
        ),
    ).properties(
        width=220,
        height=height,
        title=alt.Title(
            rows.panel.iloc[0], subtitle=rows.unit.iloc[0], subtitleColor=INK, subtitleFontSize=11
        ),
    )


def _taught_by_several(losses: pd.DataFrame, system: str) -> bool:
    return losses[losses.system == system].teacher.nunique() > 1
