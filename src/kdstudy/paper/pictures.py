"""Two pictures: the gain with students as units, and agreement as level and as change."""

import altair as alt
import pandas as pd

from kdstudy.analysis import clustered
from kdstudy.analysis.cells import ALL, subjects
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import points
from kdstudy.paper.evidence import NAMES, Evidence
from kdstudy.report.dots import strip
from kdstudy.report.plot import INK, ROWS, Figure

_WHOLE, _INTACT = "every run", "without collapsed"


def pictures(evidence: Evidence) -> list[Figure]:
    """Return the page's figures."""
    return [_gains(evidence), _agreement(evidence)]


def _gains(evidence: Evidence) -> Figure:
    rows = pd.DataFrame(
        _gain(part, subject, name, intact)
        for name in NAMES
        for intact in (False, True)
        for subject, part in subjects(evidence.average(name, intact))
    )
    students = evidence.average("math").student.nunique()
    reach = 5.0 * (rows[["low", "high"]].abs().to_numpy().max() // 5 + 1)
    chart = strip(
        rows,
        x_title="gain over SFT in points",
        percent=False,
        domain=(-reach, reach),
        columns=list(NAMES),
        groups=[_WHOLE, _INTACT],
        lines=[ALL, "SeqKD", "RevKD", "GKD"],
        marks={"rules": {"zero": {"opacity": 0.5}}},
        width=270,
    )
    return Figure(
        name="gains",
        title=f"Mean gain over SFT at temperature 1, students as units ({students} students, "
        "95% intervals)",
        description=" ".join(rows.text),
        chart=chart,
        data={"rows": rows},
    )


def _gain(part: pd.DataFrame, subject: str, name: str, intact: bool) -> dict:
    test = clustered.student_level(part, subject, AVERAGE)
    interval = f"{points(test.low)} to {points(test.high)}"
    return {
        "group": _INTACT if intact else _WHOLE,
        "column": name,
        "line": subject,
        "method": subject.lower(),
        "value": 100 * test.estimate,
        "low": 100 * test.low,
        "high": 100 * test.high,
        "zero": 0.0,
        "text": f"{name}, {subject}: {points(test.estimate)} points ({interval}).",
    }


def _agreement(evidence: Evidence) -> Figure:
    parts = [evidence.sound(n, intact=True).assign(benchmark=n) for n in NAMES]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[(rows.task != AVERAGE) & rows.agreement.notna()]
    shown = pd.DataFrame(
        {
            "level": 100 * rows.agreement,
            "change": 100 * (rows.agreement - rows.agreement_sft),
            "gain": 100 * rows.gain,
            "benchmark": rows.benchmark,
            "text": [
                f"{r.task}, {r.teacher} to {r.student}: gain {points(r.gain)}, agreement "
                f"{100 * r.agreement:.1f}, {points(r.agreement - r.agreement_sft)} over SFT"
                for r in rows.itertuples()
            ],
        }
    )
    panels = [
        _scatter("level", "agreement after distillation, % (what Table 4 uses)", "gain, points"),
        _scatter("change", "rise of agreement over SFT, points", None),
    ]
    return Figure(
        name="agreement",
        title=f"Gain against agreement with the teacher: {len(shown)} runs and tasks of RevKD, "
        "collapsed runs left out; circles: math, squares: commonsense",
        description="Left, gain against the level of agreement: no clear trend. Right, gain "
        "against its rise over SFT: the two rise together.",
        chart=alt.hconcat(*panels, spacing=28),
        data={"rows": shown},
    )


def _scatter(column: str, title: str, y_title: str | None) -> alt.Chart:
    kinds = alt.Scale(domain=list(NAMES), range=["circle", "square"])
    colour = alt.Scale(domain=list(NAMES), range=["#0072b2", "#d55e00"])
    axis = alt.Axis(domain=False, ticks=False, tickCount=5)
    return (
        alt.Chart(ROWS)
        .mark_point(filled=True, size=42, opacity=0.75, color=INK)
        .encode(
            x=alt.X(f"{column}:Q", scale=alt.Scale(zero=False), axis=axis, title=title),
            y=alt.Y("gain:Q", axis=axis, title=y_title),
            shape=alt.Shape("benchmark:N", scale=kinds, legend=None),
            color=alt.Color("benchmark:N", scale=colour, legend=None),
            description="text:N",
        )
        .properties(width=330, height=240)
    )
