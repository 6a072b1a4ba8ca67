"""Tables of tests: the paper's Tables 1-5 for this study, and the sound ones beside them."""

import math
import re
from collections.abc import Callable, Sequence

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, points
from kdstudy.analysis.verdict import signed
from kdstudy.report.sheet import Cell, Sheet, rows_link
from kdstudy.report.views import scope_order

PAPER_TITLES = {
    "1": "Do students gain, and do methods differ? The paper's tests, every run for itself",
    "2": "Gain against teacher accuracy, pooled over runs",
    "3": "Gain against student size, pooled over runs",
    "4": "Gain against agreement with the teacher, pooled over runs",
    "5": "Gain against fidelity to the teacher, pooled over runs",
}
_METRICS = {"1": "gain", "2": "accuracy", "3": "gain", "4": "agreement", "5": "bleu_corpus"}
_SEED = re.compile(r"/seed=\d+$")
_SHARES = {"Friedman test", "repeated-measures ANOVA"}
_DEPENDS = {
    "all runs (the paper's)": "Spearman rank correlation",
    "students' means": "Spearman between students",
    "teachers' means": "Spearman between teachers",
    "inside students": "within-student correlation",
    "inside students, permuted": "within-student correlation, permutation",
}


def sheets_of_tests(tests: Sequence[Test]) -> list[Sheet]:
    """Return every table of tests; those without tests are empty."""
    return [
        gain_sheet(tests),
        paired_sheet(tests),
        *(paper_sheet(tests, number) for number in PAPER_TITLES),
        depends_sheet(tests),
        matched_sheet(tests),
        methods_sheet(tests),
    ]


def gain_sheet(tests: Sequence[Test]) -> Sheet:
    """Return every test of the mean gain: the one to lead with first, the paper's last."""
    wanted = [t for t in tests if t.table == "gain"]
    wanted += [t for t in tests if t.table == "1" and t.name == "one-sample t-test"]
    wanted += [t for t in tests if t.table in ("collapse", "seeds", "power", "bounds")]
    rows = [
        {
            "Test": t.name + (" (the paper's)" if t.table == "1" else ""),
            "Of": t.subject,
            "On": t.scope,
            "Estimate": _linked(t, _unit(t), "agreement" if t.table == "bounds" else "gain"),
            "95% interval": _ends(t, _unit(t)),
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Units": str(t.clusters),
            "Rows": str(t.n),
        }
        for t in sorted(wanted, key=lambda t: t.scope != AVERAGE)
        if _says(t)
    ]
    note = (
        "Students (or, for seeds, cells) are the units. Points, except the share of agreement's "
        "variance that accuracies explain, in percent. The paper's test takes every run for an "
        "independent one and is one-sided."
    ) + _left_out(wanted)
    return Sheet.of("gain", "Every test of the gain over SFT", rows, note=note, labels=3)


def paired_sheet(tests: Sequence[Test]) -> Sheet:
    """Return every distilled system against SFT on its student, the averages first.

    A system with several seeds is one row, its runs below it.
    """
    own = {(t.subject, t.scope): t for t in tests if t.table == "student"}
    runs: dict[tuple[str, str], list[Test]] = {}
    for t in _of(tests, "paired"):
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
    return Sheet.of("paired", title, rows, runs=below, note=note, labels=2)


def _over_sft(test: Test, run: Test | None) -> dict[str, str | Cell]:
    """Return a row of a test; how many items changed is known of one run."""
    changed = "–" if run is None or math.isnan(run.statistic) else f"{run.statistic:.0f}"
    seeds = f"{test.clusters} seeds, items" if test.clusters < test.n else "items"
    return {
        "System": test.subject,
        "Benchmark": test.scope,
        "Gain": _linked(test, points, "gain"),
        "95% interval": _ends(test, points),
        "Items that changed": changed,
        "p": format_p(test.p),
        "Holm p": format_p(test.p_adjusted),
        "Items": str(test.n),
        "Units": seeds,
    }


def paper_sheet(tests: Sequence[Test], number: str) -> Sheet:
    """Return one of the paper's Tables 1-5: a statistic and its p in every cell."""
    found = _of(tests, number)
    rows: dict[str, dict[str, str | Cell]] = {}
    # A table without any result names its tests alone; its note says why.
    told = [t for t in found if not math.isnan(t.statistic)] or found
    for t in told:
        label = f"{t.name}, {t.subject}"
        link = rows_link(benchmark=t.scope, metric=_METRICS[number])
        rows.setdefault(label, {"Test": label})[t.scope] = Cell(_statistic(t), link)
    order = ["Test", *scope_order([t.scope for t in found])]
    unfit = sorted({t.sentence for t in found if math.isnan(t.statistic)})
    note = "Statistic (p), every run as if independent. One row per student, teacher and method."
    return Sheet.of(
        f"table{number}",
        PAPER_TITLES[number],
        [{c: row.get(c, "–") for c in order} for row in rows.values()],
        note=" ".join([note, *unfit[:1]]),
    )


def depends_sheet(tests: Sequence[Test]) -> Sheet:
    """Return, on the average, each factor's correlation with the gain by unit of evidence."""
    found = {(t.subject, t.name): t for t in tests if t.scope == AVERAGE}
    subjects = dict.fromkeys(t.subject for t in tests if t.name == _DEPENDS["inside students"])
    wanted = [(s, over, found.get((s, n))) for s in subjects for over, n in _DEPENDS.items()]
    rows = [
        {
            "Gain against": subject,
            "Over": over,
            "Correlation": _linked(t, signed, _METRICS.get(t.table, "gain")),
            "95% interval": _ends(t, signed),
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


def matched_sheet(tests: Sequence[Test]) -> Sheet:
    """Return comparisons of methods with students as units: tests of all, then every pair."""
    found = sorted(_of(tests, "matched"), key=lambda t: t.scope != AVERAGE)
    rows = [
        {
            "Test": t.name,
            "Of": t.subject,
            "On": t.scope,
            "Estimate": _linked(t, _unit(t), "gain"),
            "95% interval": _ends(t, _unit(t)),
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Students": str(t.clusters),
        }
        for t in found
        if _says(t)
    ]
    note = (
        "Differences in points; Kendall's W for Friedman, partial eta squared for the ANOVA. A "
        "small p of an equivalence test shows that two methods are equal within the margin."
    ) + _left_out(found)
    title = "Methods compared, students as units"
    return Sheet.of("matched", title, rows, note=note, labels=3)


def methods_sheet(tests: Sequence[Test]) -> Sheet:
    """Return the differences between methods item by item, the averages first."""
    rows = [
        {
            "Difference": t.subject,
            "Benchmark": t.scope,
            "Points": _linked(t, points, "accuracy"),
            "95% interval": _ends(t, points),
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Items": str(t.n),
            "Verdict": t.sentence.split(" (")[0],
        }
        for t in sorted(_of(tests, "methods"), key=lambda t: t.scope != AVERAGE)
    ]
    title = "Differences between methods, SFT among them, in points, paired by item"
    note = (
        "Over the students and teachers that both have, taken as they are: for other items and, "
        "where there are several, other seeds. SFT is without a teacher."
    )
    return Sheet.of("methods", title, rows, note=note, labels=2)


def _of(tests: Sequence[Test], table: str) -> list[Test]:
    return [t for t in tests if t.table == table]


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


def _ends(test: Test, text: Callable[[float], str]) -> str:
    if math.isnan(test.low) or math.isnan(test.high):
        return "–"
    return f"{text(test.low)} to {text(test.high)}"


def _linked(test: Test, text: Callable[[float], str], metric: str) -> Cell:
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
