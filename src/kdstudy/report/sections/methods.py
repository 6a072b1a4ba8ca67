"""Methods compared: item by item, and with students as units."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import EQUIVALENCE_MARGIN, Test, format_p, points
from kdstudy.report import dots
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import Figure
from kdstudy.report.sheet import Sheet
from kdstudy.report.tables_of_tests import ends, linked, of, paper_sheet, tests_sheet

_PAPER = "Do students gain, and do methods differ? The paper's tests, every run for itself"


def section(data: ReportData) -> Section:
    """Return which methods differ: by item, by student, and as the paper tests it."""
    tests = data.tests
    blocks = [
        Text(sentence(tests)),
        figure(tests),
        methods_sheet(tests),
        matched_sheet(tests),
        paper_sheet(tests, "1", _PAPER),
    ]
    return Section("methods", "Methods compared", blocks, short="Methods")


def sentence(tests: Sequence[Test]) -> str:
    """Say which methods differ, which are equivalent and where one cannot tell."""
    found = [t for t in of(tests, "methods") if t.scope == AVERAGE]
    over_students = _over_students(tests)
    if not found:
        text = "Fewer than two methods share a student and a teacher, so none can be compared."
        return over_students.lstrip() or text
    verdicts = Counter(t.verdict for t in found)
    told, same = verdicts["better"] + verdicts["worse"], verdicts["equivalent"]
    text = (
        f"Of {len(found)} pairs of methods, SFT among them, these items tell {told} apart, "
        f"show {same} to be equivalent within {100 * EQUIVALENCE_MARGIN:g} points and leave "
        f"{len(found) - told - same} undecided. "
    )
    widest = max(found, key=lambda t: abs(t.estimate) if not math.isnan(t.estimate) else -1)
    return text + f"The largest difference: {widest.sentence}" + over_students


def _over_students(tests: Sequence[Test]) -> str:
    """Say what the tests whose unit is the student make of the methods."""
    found = [t for t in of(tests, "matched") if t.scope == AVERAGE]
    pairs = [t for t in found if t.name == "matched difference" and not math.isnan(t.p)]
    equal = [t for t in found if t.name == "equivalence (TOST)" and not math.isnan(t.p)]
    if not pairs:
        return ""
    differ = sum(t.p_adjusted < 0.05 for t in pairs)
    same = sum(t.p < 0.05 for t in equal)
    return (
        f" With the {pairs[0].clusters} students as units, {differ} of {len(pairs)} pairs differ "
        f"(Holm) and {same} are equivalent within {100 * EQUIVALENCE_MARGIN:g} points (TOST)."
    )


def figure(tests: Sequence[Test]) -> Figure | None:
    """Draw paired differences between methods, with the margin of equivalence."""
    found = [t for t in of(tests, "methods") if not math.isnan(t.low)]
    if not found:
        return None
    margin = 100 * EQUIVALENCE_MARGIN
    rows = pd.DataFrame(
        {
            **{"line": t.subject, "column": t.scope, "group": "", "method": "", "text": t.sentence},
            **{"value": 100 * t.estimate, "low": 100 * t.low, "high": 100 * t.high},
            **{"below": -margin, "above": margin, "zero": 0.0},
        }
        for t in found
    )
    reach = 1.05 * max(float(rows[["low", "high"]].abs().to_numpy().max()), margin)
    edge = {"strokeDash": [2, 2], "opacity": 0.6}
    chart = dots.strip(
        rows,
        x_title="points",
        percent=False,
        domain=(-reach, reach),
        columns=dots.columns_of(rows),
        groups=[""],
        lines=list(dict.fromkeys(rows.line)),
        marks={"rules": {"zero": {"opacity": 0.5}, "below": edge, "above": edge}},
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


def methods_sheet(tests: Sequence[Test]) -> Sheet:
    """Return the differences between methods item by item, the averages first."""
    rows = [
        {
            "Difference": t.subject,
            "Benchmark": t.scope,
            "Points": linked(t, points, "accuracy"),
            "95% interval": ends(t, points),
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Items": str(t.n),
            "Verdict": t.sentence.split(" (")[0],
        }
        for t in sorted(of(tests, "methods"), key=lambda t: t.scope != AVERAGE)
    ]
    title = "Differences between methods, SFT among them, in points, paired by item"
    note = (
        "Over the students and teachers that both have, taken as they are: for other items and, "
        "where there are several, other seeds. SFT is without a teacher."
    )
    return Sheet.of("methods", title, rows, note=note, labels=2)


def matched_sheet(tests: Sequence[Test]) -> Sheet:
    """Return comparisons of methods with students as units: tests of all, then every pair."""
    note = (
        "Differences in points; Kendall's W for Friedman, partial eta squared for the ANOVA. A "
        "small p of an equivalence test shows that two methods are equal within the margin."
    )
    title = "Methods compared, students as units"
    return tests_sheet("matched", title, of(tests, "matched"), note, {"Students": "clusters"})
