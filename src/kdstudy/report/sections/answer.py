"""The answer: which student to ship, what it gained, and what it lost against its teacher."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.methods import NAME
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, points
from kdstudy.records import System
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.sections import cost, warnings
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, bare, items_link, number, rows_link
from kdstudy.report.tables_of_tests import of_one_student, one
from kdstudy.report.views import (
    Numbers,
    best_first,
    best_students,
    graded,
    printed,
    shown,
    spread,
)


def section(data: ReportData) -> Section:
    """Return the answer, what to know before relying on it, the systems and their cost."""
    seeds, tests, runs = data.seeds, data.tests, data.runs
    seconds = cost.with_means(cost.seconds_of(data), seeds.names)
    kept = against_teacher(data.items, data.systems, graded(data.table))
    blocks = [
        Text(sentence(seeds, tests, kept, seconds)),
        warnings.block(data),
        systems_sheet(seeds, tests, seconds, runs),
        kept_sheet(kept, seeds.names, runs),
        cost.cost_sheet(seeds, seconds, data.made),
        cost.scale(seeds),
        cost.pace(seeds, seconds),
    ]
    return Section("answer", "The answer", blocks, short="Answer")


def sentence(
    seeds: Seeds,
    tests: Sequence[Test],
    kept: pd.DataFrame | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Say what was gained, which student is ahead, what it lost against the teacher, and costs.

    Of one student the gain comes first, from the tests of `methods.student_tests`. Systems are
    means over their seeds: a seed is drawn, not chosen.

    Args:
        seeds: The study.
        tests: From `stats.study_tests`.
        kept: From `against_teacher`.
        seconds: Seconds to generate 1,000 items, by system (`cost.seconds_of`).
    """
    ranked, numbers = best_students(seeds.means), seeds.numbers
    if ranked.empty:
        return "No distilled student has been measured yet, so there is nothing to recommend."
    top = ranked.iloc[0]
    alone = of_one_student(tests) if ranked.student.nunique() == 1 else ""
    text = f"{alone} {_opening(seeds.means, ranked)} {_level(top)}".lstrip()
    text += ("" if alone else _gain(numbers, tests, top)) + _gap(numbers, top) + "."
    text += _kept_of_teacher(numbers, top, kept, seeds.names)
    text += _cost(top, seconds or {})
    return text + _runner_up(ranked)


def _opening(means: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """Open the answer; plain fine-tuning that beats every distilled student comes first."""
    rows = means[(means.kind == "sft") & (means.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values("value", ascending=False)
    behind = len(rows) and rows.iloc[0].value > ranked.iloc[0].value
    if ranked.student.nunique() > 1:
        if not behind:
            return "The best student is"
        sft = f"The best student is {_level(rows.iloc[0], ', fine-tuned without a teacher')}."
        return f"{sft} The best distilled one is"
    sft = f"SFT alone is ahead: {_level(rows.iloc[0])}. " if behind else ""
    if len(ranked) == 1:
        return f"{sft}Distilled, it is"
    return f"{sft}Of {len(ranked)} distilled systems of this student the most accurate is"


def _level(row: pd.Series, more: str = "") -> str:
    """Return a system with its mean accuracy (`printed` tells the spread over seeds)."""
    return f"{row.system}{more}: {printed(row)} mean accuracy"


def _gain(numbers: Numbers, tests: Sequence[Test], top: Any) -> str:
    gain = one(tests, "student", NAME, top.system) or numbers.row(top.system, "gain")
    if gain is None:
        return ""
    value, p = (gain.estimate, gain.p_adjusted) if isinstance(gain, Test) else (gain.value, None)
    text = (
        f", {points(value)} points over its own SFT run "
        f"(95% interval {points(gain.low)} to {points(gain.high)}"
        f"{'' if p is None else f', Holm p = {format_p(p)}'})"
    )
    if gain.low <= 0 <= gain.high:
        several = getattr(numbers.row(top.system, "gain"), "seeds", 1) > 1
        units = "items and seeds" if several else "items"
        text += f", which this many {units} cannot tell from no change"
    return text


def _gap(numbers: Numbers, top: Any) -> str:
    teacher = numbers.row(top.teacher, "accuracy")
    if teacher is None:
        return ""
    gap = teacher.value - top.value
    side = "below" if gap >= 0 else "above"
    size = ""
    if not pd.isna(teacher.parameters) and not pd.isna(top.parameters):
        share = 100 * int(top.parameters) / int(teacher.parameters)
        size = f", with {share:.0f}% of its parameters"
    return f"; it stays {points(abs(gap), sign=False)} points {side} its teacher{size}"


def _kept_of_teacher(
    numbers: Numbers, top: Any, kept: pd.DataFrame | None, names: Mapping[str, str]
) -> str:
    rows = pd.DataFrame(columns=["system", "teacher"]) if kept is None else kept
    # Of teachers together none is `its teacher`; the table has a line for each.
    pairs = zip(rows.system, rows.teacher, strict=True)
    own = rows[[names.get(s) == top.system and t == top.teacher for s, t in pairs]]
    parts = []
    if len(own) and (own.kept + own.lost).sum():
        right = own.kept + own.lost
        size = f"{right.min():,}" if right.nunique() == 1 else f"{right.min():,} to {right.max():,}"
        digits = ",.1f" if len(own) > 1 else ",.0f"
        lost, gained = (format(x.mean(), digits) for x in (own.lost, own.gained))
        mean = f", mean of {len(own)} seeds" if len(own) > 1 else ""
        parts.append(
            f"keeps {100 * own.kept.sum() / right.sum():.1f}% of the {size} items its teacher gets "
            f"right ({lost} lost, {gained} others gained{mean})"
        )
    steps = numbers.row(top.system, "fidelity_steps", AVERAGE, top.teacher)
    if steps is not None:
        parts.append(f"shares {printed(steps)} of its teacher's steps of reasoning")
    return f" It {' and '.join(parts)}." if parts else ""


def _cost(top: Any, seconds: Mapping[str, float]) -> str:
    if top.system not in seconds:
        return ""
    teacher = f", its teacher {seconds[top.teacher]:.1f} s" if top.teacher in seconds else ""
    return f" 1,000 items take it {seconds[top.system]:.1f} s{teacher}."


def _runner_up(ranked: pd.DataFrame) -> str:
    if len(ranked) < 2:
        return ""
    top, second = ranked.iloc[0], ranked.iloc[1]
    close = ", too close to call" if second.value > top.low else ""
    return (
        f" Next is {second.system} at {shown('accuracy', second.value)}{close}. Who is ahead of "
        f"{len(ranked)} was seen on these test items, so its lead is partly luck."
    )


def systems_sheet(
    seeds: Seeds, tests: Sequence[Test], seconds: Mapping[str, float], runs: Collection[str]
) -> Sheet:
    """Return the short table of systems, means over benchmarks, best first within each kind."""
    average = [t for t in tests if t.scope == AVERAGE]
    adjusted = {
        t.subject: t for table in ("paired", "student") for t in average if t.table == table
    }
    compared = _teachers(seeds)

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        teacher = r.teacher or compared.get(r.system, "")
        gain = number(numbers.row(r.system, "gain"), seeds=r.seeds)
        test = adjusted.get(r.system)
        if test and r.seeds > 1 and not math.isnan(test.low):
            gain = gain._replace(ends=f"{points(test.low)} to {points(test.high)}")
        return {
            "System": Cell(r.system, _texts_of(r.system, runs)),
            "Accuracy": number(r),
            "Gain over SFT": gain,
            "Holm p": format_p(test.p_adjusted) if test else "–",
            "Agrees": bare(numbers, r, "agreement", reference=teacher),
            "Possible": _possible(numbers, r.system, teacher),
            "Steps": bare(numbers, r, "fidelity_steps", reference=teacher),
            "BLEU": bare(numbers, r, "bleu_corpus", reference=teacher),
            "Parsed": bare(numbers, r, "parse_rate"),
            "Parameters": cost.parameters(r.parameters),
            "s/1,000": cost.known("{:.1f}", seconds, r.system),
        }

    note = (
        "Means over benchmarks, 95% intervals over items in brackets; gains in points. Holm p: of "
        "the gain, over items and the seeds there are, corrected over the main grid. Agrees, "
        "steps (shared steps of reasoning) and BLEU: with the teacher; possible: the agreement "
        "that the two accuracies force and allow. Parsed: answers found. s/1,000: seconds to "
        "generate 1,000 items, without importing packages and loading the model."
    )
    lines = seeds.lines(best_first(seeds.means), line)
    return Sheet.of("systems", "Systems", **lines, note=note, open=True)


def kept_sheet(kept: pd.DataFrame, names: Mapping[str, str], runs: Collection[str]) -> Sheet:
    """Return what each distilled system kept of its teacher's right answers, and what it added."""
    parts = dict(iter(kept.groupby([kept.system.map(names), "teacher"], sort=False)))
    parts = dict(sorted(parts.items(), key=lambda part: -part[1].kept.mean()))
    several = any(len(part) > 1 for part in parts.values())
    lines = [_shares(name, part, runs, several) for (name, _), part in parts.items()]
    below = [
        [_shares(run, own, runs, several) for run, own in part.groupby("system")]
        if len(part) > 1
        else []
        for part in parts.values()
    ]
    note = (
        "Shares of all items of all benchmarks. Kept: teacher and student right; lost: only the "
        "teacher; gained: only the student."
    )
    title = "Items that students kept, lost and gained against their teachers"
    return Sheet.of("kept", title, lines, runs=below, note=note, labels=2)


def _texts_of(system: str, runs: Collection[str]) -> str:
    """Return where a system's name leads: to the texts of a run, to the rows of several."""
    return items_link(run=system) if system in runs else rows_link(system=system)


def _shares(name: str, part: pd.DataFrame, runs: Collection[str], several: bool) -> dict[str, Any]:
    """Return the shares of a run, or their means over the runs of a system."""
    shares = {
        "Kept": part.kept / part["items"],
        "Lost": part.lost / part["items"],
        "Gained": part.gained / part["items"],
        "Kept of the teacher's": part.kept / (part.kept + part.lost).replace(0, math.nan),
    }
    head = {"System": Cell(name, _texts_of(name, runs)), "Teacher": part.teacher.iloc[0]}
    head |= {"Seeds": str(len(part)) if name != part.system.iloc[0] else ""} if several else {}
    head |= {"Items": f"{part['items'].iloc[0]:,}"}
    return head | {
        what: Cell(
            shown("agreement", share.mean()),
            sd="" if math.isnan(share.std()) else spread("agreement", share.std()),
        )
        for what, share in shares.items()
    }


def _teachers(seeds: Seeds) -> dict[str, str]:
    """Return the teacher that each SFT run was compared with, where there was one."""
    found = {}
    for table in (seeds.runs, seeds.means):
        rows = table[(table.kind == "sft") & (table.metric == "agreement")]
        by_system = rows.groupby("system").reference.unique()
        found |= {str(s): str(refs[0]) for s, refs in by_system.items() if len(refs) == 1}
    return found


def _possible(numbers: Numbers, system: str, reference: str) -> Cell:
    ends = [
        numbers.row(system, f"agreement_{b}_bound", AVERAGE, reference) for b in ("lower", "upper")
    ]
    if not reference or None in ends:
        return Cell("–")
    low, high = ends
    link = rows_link(system=system, benchmark=AVERAGE, reference=reference)
    return Cell(f"{100 * low.value:.0f} to {100 * high.value:.0f}%", link)


_ITEM = ["benchmark", "example_id", "sample"]


def against_teacher(
    items: pd.DataFrame, systems: Sequence[System], benchmarks: Collection[str]
) -> pd.DataFrame:
    """Return what each distilled run of the main grid keeps of its teacher's right answers.

    Args:
        items: Columns system, benchmark, example_id, sample, outcome.
        systems: The study's systems.
        benchmarks: Those that have right answers.

    Returns:
        Per run: system, teacher, items (with draws counted apart), and of those kept (both right),
        lost (only the teacher) and gained (only the student); most kept first.
    """
    rows = items[items.benchmark.isin(list(benchmarks))]
    rows = rows.assign(right=rows.outcome == "correct")
    wide = rows.pivot(index=_ITEM, columns="system", values="right")
    found = []
    main = [s for s in systems if s.kind == "distilled" and not s.ablation]
    for label, teacher in ((s.label, teacher) for s in main for teacher in s.teachers):
        if not {label, teacher} <= set(wide.columns):
            continue
        both = wide[[label, teacher]].dropna().astype(bool)
        own, theirs = both[label], both[teacher]
        counts = (len(both), (own & theirs).sum(), (theirs & ~own).sum(), (own & ~theirs).sum())
        found.append((label, teacher, *map(int, counts)))
    columns = ["system", "teacher", "items", "kept", "lost", "gained"]
    frame = pd.DataFrame(found, columns=columns)
    return frame.sort_values(["kept", "system"], ascending=[False, True], ignore_index=True)
