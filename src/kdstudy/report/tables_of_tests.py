"""Tests in words and in tables, as several sections show them."""

import math
from collections.abc import Callable, Mapping, Sequence

from kdstudy.analysis.analysis import leads
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, points
from kdstudy.report.sheet import Cell, Sheet, rows_link
from kdstudy.report.views import scope_order

METRICS = {"1": "gain", "2": "accuracy", "3": "gain", "4": "agreement", "5": "bleu_corpus"}

_SHARES = {"Friedman test", "repeated-measures ANOVA"}


def one(tests: Sequence[Test], table: str, name: str, subject: str) -> Test | None:
    """Return a test on the average over benchmarks, or None."""
    fits = (t for t in tests if (t.table, t.name, t.subject) == (table, name, subject))
    return next((t for t in fits if t.scope == AVERAGE), None)


def of_one_student(tests: Sequence[Test]) -> str:
    """Return each method's difference from SFT where there is one student, else ""."""
    if not any(t.table in ("gain", "student") for t in tests):
        return ""
    found = [t for t in leads(tests) if t.table == "student"]
    text = " ".join(t.sentence for t in found)
    known = [t for t in found if not math.isnan(t.p_adjusted)]
    if len(known) > 1:
        each = ", ".join(f"{t.subject} {format_p(t.p_adjusted)}" for t in known)
        text += f" Holm's p over these {len(known)}: {each}."
    return text


def of(tests: Sequence[Test], table: str) -> list[Test]:
    """Return the tests of one kind (`Test.table`)."""
    return [t for t in tests if t.table == table]


def tests_sheet(
    name: str, title: str, tests: Sequence[Test], note: str, counts: Mapping[str, str]
) -> Sheet:
    """Return a row per test that has a result, those of the average first.

    Args:
        name: File stem.
        title: What it shows.
        tests: Tests of any kind; those without a result are named in the note.
        note: What stands under it.
        counts: The last columns, each of a count (`n`, `clusters`) of the test.
    """
    rows = [
        {
            "Test": t.name + (" (the paper's)" if t.table == "1" else ""),
            "Of": t.subject,
            "On": t.scope,
            "Estimate": linked(t, _unit(t), "agreement" if t.table == "bounds" else "gain"),
            "95% interval": ends(t, _unit(t)),
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            **{column: str(getattr(t, count)) for column, count in counts.items()},
        }
        for t in sorted(tests, key=lambda t: t.scope != AVERAGE)
        if _says(t)
    ]
    return Sheet.of(name, title, rows, note=note + _left_out(tests), labels=3)


def paper_sheet(tests: Sequence[Test], number: str, title: str) -> Sheet:
    """Return one of the paper's Tables 1-5: a statistic and its p in every cell."""
    found = of(tests, number)
    rows: dict[str, dict[str, str | Cell]] = {}
    # A table without any result names its tests alone; its note says why.
    told = [t for t in found if not math.isnan(t.statistic)] or found
    for t in told:
        label = f"{t.name}, {t.subject}"
        link = rows_link(benchmark=t.scope, metric=METRICS[number])
        rows.setdefault(label, {"Test": label})[t.scope] = Cell(_statistic(t), link)
    order = ["Test", *scope_order([t.scope for t in found])]
    unfit = sorted({t.sentence for t in found if math.isnan(t.statistic)})
    note = "Statistic (p), every run as if independent. One row per student, teacher and method."
    return Sheet.of(
        f"table{number}",
        title,
        [{c: row.get(c, "–") for c in order} for row in rows.values()],
        note=" ".join([note, *unfit[:1]]),
        paper=f"Table {number}",
    )


def _says(test: Test) -> bool:
    """Whether a test has a result; a mean that nothing can be said of stands in other tables."""
    if test.table in ("gain", "matched", "1"):
        return not (math.isnan(test.p) and math.isnan(test.low))
    return not math.isnan(test.estimate)


def _left_out(tests: Sequence[Test]) -> str:
    """Name the tests of a table that have no result on any of their rows."""
    said = {t.name for t in tests if _says(t)}
    names = list(dict.fromkeys(t.name for t in tests if t.name not in said))
    if not names:
        return ""
    return f" Not computable with the students, runs and seeds of this study: {'; '.join(names)}."


def ends(test: Test, text: Callable[[float], str]) -> str:
    """Return the interval of a test's effect; a dash for none."""
    if math.isnan(test.low) or math.isnan(test.high):
        return "–"
    return f"{text(test.low)} to {text(test.high)}"


def linked(test: Test, text: Callable[[float], str], metric: str) -> Cell:
    """Return the effect, linked to the rows of the metric that it is made from."""
    if math.isnan(test.estimate):
        return Cell("–")
    return Cell(text(test.estimate), rows_link(benchmark=test.scope, metric=metric))


def _unit(test: Test) -> Callable[[float], str]:
    """Return how a test's effect is printed: points, or the share or W that it is."""
    if test.table == "bounds":
        return "{:.0%}".format
    return "{:.2f}".format if test.name in _SHARES else points


def _statistic(test: Test) -> str:
    if math.isnan(test.statistic):
        return "–"
    number = f"{test.statistic:.2f}".replace("-", "−")
    return number if math.isnan(test.p) else f"{number} ({format_p(test.p)})"
