"""The loss statement in words: what one student kept and lost, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.losses import ELSEWHERE
from kdstudy.analysis.measures import AVERAGE, HELD_OUT
from kdstudy.analysis.probed import CORPUS
from kdstudy.analysis.verdict import points
from kdstudy.measures import LOSSES, copied, robustness
from kdstudy.measures.base import Loss
from kdstudy.measures.hacking import Course
from kdstudy.measures.probe import Probe
from kdstudy.measures.probes import PROBES
from kdstudy.measures.token_losses import TOKEN_LOSSES, TokenLoss
from kdstudy.measures.units import Unit, size, text

LINES: Mapping[str, Loss | TokenLoss | Probe] = {
    line.name: line
    for line in (*LOSSES, *robustness.LOSSES.values(), copied.loss(()), *TOKEN_LOSSES, *PROBES)
}
"""Lines of the statement by name, in its order."""

LOST, KEPT, UNKNOWN, GAINED = "lost", "no loss", "cannot tell", "gained"
_BY_CHANGE = {
    "numbers": "loses {} points more than its teacher by other numbers",
    "names": "loses {} points more than its teacher by other names",
    "irrelevant": "loses {} points more than its teacher by an irrelevant sentence",
    "irrelevant_number": "loses {} points more than its teacher by an irrelevant number",
    "template": "loses {} points more than its teacher in another prompt",
}
"""What is said of a student that a variant of the items costs more than its teacher."""
_MEANS = (AVERAGE, ELSEWHERE, HELD_OUT)


def kept(row: Any) -> bool:
    """Return whether a row's value is a share of the reference's; else it is a difference."""
    line = LINES[row.measure]
    return isinstance(line, Loss) and line.how == "kept"


def verdict(row: Any) -> str:
    """Return what a row's interval says: `lost`, `gained`, `cannot tell`; "" where nothing can be.

    Of overconfidence only what is further from 0 is worse, and only what is nearer is better: a
    student that claims too little has no loss here, but a calibration error.
    """
    if not row.against or math.isnan(row.value):
        return ""
    line, same = LINES[row.measure], 1.0 if kept(row) else 0.0
    low, high = row.low - same, row.high - same
    if math.isnan(low):
        # All items alike: with n of them, up to some 4/n would look the same (the rule of three).
        if not row.alike or abs(row.value - same) <= 4 / row.n:
            return UNKNOWN
        low = high = row.value - same
    if line.worse == "less":
        low, high = -high, -low
    if low <= 0 <= high:
        return UNKNOWN
    if line.unit is Unit.POINTS and line.worse == "more":
        further = abs(row.student) > abs(row.reference)
        return LOST if low > 0 and further else GAINED if high < 0 and not further else KEPT
    if low > 0:
        # Who continues no training row word for word remembers none, whatever its base did.
        return KEPT if row.measure == "memorised" and row.student <= 0 else LOST
    # Who gets fewer items right has fewer to lose to a variant.
    return KEPT if row.measure.startswith("robust_") else GAINED


def value(row: Any) -> str:
    """Return a row's value as people read it: a share of the reference's, points, or nats."""
    return _value(row, row.value)


def ends(row: Any) -> str:
    """Return a row's interval, such as `84 to 94`; "" for none."""
    if math.isnan(row.low):
        return ""
    return f"{_value(row, row.low)} to {_value(row, row.high)}".replace("%", "")


def ends_of_points(low: float, high: float) -> str:
    """Return an interval of a difference of fractions, in points; "" for none."""
    return "" if math.isnan(low) else f"{points(low)} to {points(high)}"


def spread(row: Any) -> str:
    """Return the standard deviation over seeds in the unit of `value`; "" for one seed."""
    if math.isnan(row.sd):
        return ""
    return size(Unit.SHARE if kept(row) else LINES[row.measure].unit, row.sd)


def number(row: Any, of: str) -> str:
    """Return the student's own number, or the reference's, in the measure's unit."""
    return text(LINES[row.measure].unit, getattr(row, of))


def _value(row: Any, x: float) -> str:
    unit = LINES[row.measure].unit
    if kept(row):
        return f"{100 * x:.0f}%"
    if unit is Unit.NATS:
        return (f"{x:+.3f}" if row.against else f"{x:.3f}").replace("-", "−")
    return points(x)


def sentences(rows: pd.DataFrame, courses: Mapping[str, Course]) -> list[str]:
    """Say what one student kept and lost, the sum of it first, then how sure that is.

    Args:
        rows: Of `losses.statement`, one system's with one teacher.
        courses: Of its runs.
    """
    if rows.empty:
        return []
    found = {(r.measure, r.benchmark): r for r in rows.itertuples()}
    means = [r for r in found.values() if r.benchmark in _MEANS]
    name = rows.system.iloc[0]
    clauses = [c for c in _clauses(found) if c]
    told = [f"{name} {_listed(clauses)}."] if clauses else []
    undefined = [r for r in means if r.why]
    told += [f"What {name} kept of {_topic(r)} cannot be said: {r.why}." for r in undefined]
    if not told:
        told = [f"{name}: no loss can be shown."]
    distances = [_of_options(found), _distance(found)]
    return [*told, _unknown(means), _gains(means), *distances, _hacked(courses), _sure(means)]


def _clauses(found: Mapping[tuple[str, str], Any]) -> list[str]:
    """Return what stands in the sentence that sums up."""
    return [
        _shares(found),
        _forgotten(found.get(("forgetting", ELSEWHERE)), "forgets {} points elsewhere"),
        _forgotten(found.get(("over_base", AVERAGE)), "falls {} points below its base"),
        _claims(found),
        _more(
            found.get(("false_equations", AVERAGE)),
            "states a false equation in {student} of its right answers (its teacher in "
            "{reference})",
        ),
        _more(
            found.get(("risk_coverage", AVERAGE)),
            "tells its right answers from its wrong ones less well (excess risk {student}, its "
            "teacher {reference})",
        ),
        *(
            _forgotten(found.get((f"robust_{variant}", AVERAGE)), form)
            for variant, form in _BY_CHANGE.items()
        ),
        _more(
            found.get(("copied", AVERAGE)),
            "repeats training text in {student} of its runs of words (its teacher in {reference})",
        ),
        _more(
            found.get(("likelihood_lost", HELD_OUT)),
            "fits held-out text worse by {value} nats per token ({ends})",
        ),
        _more(
            found.get(("own_text", AVERAGE)),
            "is further from its teacher on its own text than on its teacher's by {value} nats per "
            "token ({ends})",
        ),
        _more(
            found.get(("reasoning", AVERAGE)),
            "follows its own reasoning in {student} of answers (its teacher in {reference})",
        ),
        _more(
            found.get(("memorised", AVERAGE)),
            "continues training rows word for word more often than held-out ones by {value} points "
            "beyond its base ({ends})",
        ),
    ]


def _shares(found: Mapping[tuple[str, str], Any]) -> str:
    """Say which shares of its teacher's accuracy, coverage and ROUGE-L it keeps."""
    told = []
    for measure, scope, what in (
        ("accuracy_kept", AVERAGE, "accuracy"),
        ("accuracy_kept", ELSEWHERE, "accuracy where nobody trained it"),
        ("coverage_kept", AVERAGE, "coverage"),
        ("coverage_kept", ELSEWHERE, "coverage where nobody trained it"),
        ("text_kept", AVERAGE, "ROUGE-L"),
        ("text_kept", ELSEWHERE, "ROUGE-L where nobody trained it"),
    ):
        row = found.get((measure, scope))
        if row is None or row.why:
            continue
        whose = "its" if told else "its teacher's"
        above = " above guessing" if row.floor else ""
        bracket = f" ({ends(row)})" if ends(row) else ""
        told.append(f"{value(row)} of {whose} {what}{above}{bracket}")
    return f"keeps {', '.join(told)}" if told else ""


def _forgotten(row: Any | None, form: str) -> str:
    if row is None or verdict(row) != LOST:
        return ""
    if row.measure.startswith("robust_") and row.student >= 0:
        form = form.replace("loses {} points more", "gains {} points less")
    told = form.format(points(-row.value, sign=False))
    if math.isnan(row.low):
        return told
    return f"{told} ({points(-row.high, sign=False)} to {points(-row.low, sign=False)})"


def _claims(found: Mapping[tuple[str, str], Any]) -> str:
    """Say how much more overconfident it is, of answers or else of tokens; else how badly off."""
    for key, whom in (
        (("overconfidence", AVERAGE), ""),
        (("token_overconfidence", HELD_OUT), " in the next token"),
    ):
        row = found.get(key)
        if row is None or verdict(row) != LOST:
            continue
        own, theirs = number(row, "student"), number(row, "reference")
        times = row.student / row.reference if row.reference >= 0.01 else math.nan
        if times >= 1.5:
            often = "about twice" if times < 2.5 else f"{times:.0f} times"
            return f"is {often} as overconfident{whom} ({own} points, its teacher {theirs})"
        return f"is more overconfident{whom} ({own} points, its teacher {theirs})"
    return _more(
        found.get(("calibration_error", AVERAGE)),
        "is further off in its confidence ({student}, its teacher {reference})",
    )


def _more(row: Any | None, form: str) -> str:
    if row is None or verdict(row) != LOST:
        return ""
    numbers = {of: number(row, of) for of in ("student", "reference")}
    return form.format(**numbers, value=value(row).lstrip("+"), ends=ends(row).replace("+", ""))


def _unknown(means: Sequence[Any]) -> str:
    names = [_topic(r) for r in means if verdict(r) == UNKNOWN]
    return f"Cannot be told from no change with so many items: {_listed(names)}." if names else ""


def _gains(means: Sequence[Any]) -> str:
    names = [f"{_topic(r)} ({_moved(r)})" for r in means if verdict(r) == GAINED]
    return f"Better than what it is compared with: {_listed(names)}." if names else ""


def _moved(row: Any) -> str:
    return f"{value(row)}, {ends(row)}" if ends(row) else value(row)


def _topic(row: Any) -> str:
    title = LINES[row.measure].title
    topic = title if title.startswith(("ROUGE", "KL")) else title[0].lower() + title[1:]
    apart = row.benchmark == ELSEWHERE and row.measure != "forgetting"
    return f"{topic} where nobody trained it" if apart else topic


def _of_options(found: Mapping[tuple[str, str], Any]) -> str:
    row = found.get(("options_lost", AVERAGE))
    if row is None or math.isnan(row.value):
        return ""
    if math.isinf(row.value):
        return f"Of {row.n:,} items it rules out options that its teacher holds possible."
    return (
        f"Its probabilities of the options of {row.n:,} items are {_measured(row)} nats per item "
        "from its teacher's, KL(teacher, student)."
    )


def _distance(found: Mapping[tuple[str, str], Any]) -> str:
    misses, adds = (found.get((m, HELD_OUT)) for m in ("recall_lost", "precision_lost"))
    if misses is None or adds is None or math.isnan(misses.value):
        return ""
    return (
        f"On {misses.n:,} held-out texts it misses {_measured(misses)} nats per token of what its "
        f"teacher would say, KL(teacher, student), and adds {_measured(adds)} that its teacher "
        "would not, KL(student, teacher)."
    )


def _measured(row: Any) -> str:
    return f"{value(row)} ({ends(row)})" if ends(row) else value(row)


def _hacked(courses: Mapping[str, Course]) -> str:
    """Name the runs that came closer to their teacher and further from the truth."""
    hacked = {run: went for run, went in courses.items() if went.hacked}
    if not hacked:
        return ""
    run, went = max(hacked.items(), key=lambda found: found[1].truth)
    runs = f" in {len(hacked)} of {len(courses)} runs" if len(courses) > 1 else ""
    return (
        f"Teacher hacking{runs}: from step {went.step:,} to {went.last:,} of {run} the distance to "
        f"the teacher still falls by {-went.teacher:.0%} while the cross-entropy of the validation "
        f"text rises by {went.truth:.0%}."
    )


def _sure(means: Sequence[Any]) -> str:
    """Say what the intervals are over."""
    items = max((r.n for r in means if r.benchmark != HELD_OUT and r.of != CORPUS), default=0)
    seeds = max((r.seeds for r in means), default=0)
    if not items:
        return ""
    over = f"{items:,} items" + (f" and {seeds} seeds" if seeds > 1 else "")
    alone = "" if seeds > 1 else " of one run: another seed may give another student"
    return f"Brackets are 95% intervals over up to {over}{alone}."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])
