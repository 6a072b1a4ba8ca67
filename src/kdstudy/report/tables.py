"""Every table of a report, and those about systems: what they reach, keep and cost."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.stats import Test, format_p
from kdstudy.report.sheet import Cell, Sheet, items_link, link_of, number, rows_link
from kdstudy.report.tables_of_data import data_sheets
from kdstudy.report.tables_of_tests import sheets_of_tests
from kdstudy.report.tables_of_texts import text_sheets
from kdstudy.report.views import (
    Numbers,
    groups_in_order,
    interval,
    scope_order,
    short,
    with_sft,
)

__all__ = ["all_sheets", "interval"]

_KINDS = {"distilled": 0, "sft": 1, "teacher": 2, "base": 3}
_FLOW = {
    "kept_right": "Stayed right",
    "newly_right": "Became right",
    "newly_wrong": "Became wrong",
    "still_wrong": "Stayed wrong",
}


def all_sheets(
    table: pd.DataFrame,
    tests: Sequence[Test],
    *,
    kept: pd.DataFrame | None = None,
    made: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
    examples: Sequence[Mapping[str, str]] = (),
    overlaps: pd.DataFrame | None = None,
    runs: Collection[str] = (),
) -> dict[str, Sheet]:
    """Return every table that the study has data for, by name.

    Args:
        table: From `results.collect`.
        tests: From `stats.study_tests`.
        kept: From `rows.against_teacher`.
        made: How the study was made.
        seconds: Seconds to generate 1,000 items, by system.
        examples: From `rows.telling_items`.
        overlaps: From `rows.overlap_counts`.
        runs: Distilled runs that the item browser can show.
    """
    seconds, made = seconds or {}, made or {}
    numbers = Numbers(table)
    sheets = [
        systems_sheet(table, numbers, tests, seconds, runs),
        kept_sheet(kept, runs),
        cost_sheet(table, numbers, seconds, made),
        accuracy_sheet(table),
        flow_sheet(table, numbers, runs),
        *sheets_of_tests(tests),
        *text_sheets(table, numbers, examples),
        ablations_sheet(table, numbers),
        *data_sheets(table, numbers, made, overlaps),
    ]
    return {s.name: s for s in sheets if len(s.frame)}


def systems_sheet(
    table: pd.DataFrame,
    numbers: Numbers,
    tests: Sequence[Test],
    seconds: Mapping[str, float],
    runs: Collection[str],
) -> Sheet:
    """Return the short table of systems, means over benchmarks, best first within each kind."""
    adjusted = {t.subject: t for t in tests if t.table == "paired" and t.scope == AVERAGE}
    compared = _teachers(table)
    rows = []
    for r in _ranked(table).itertuples():
        test, teacher = adjusted.get(r.system), r.teacher or compared.get(r.system, "")
        browse = items_link(run=r.system) if r.system in runs else rows_link(system=r.system)
        rows.append(
            {
                "System": Cell(r.system, browse),
                "Parameters": _parameters(r.parameters),
                "Accuracy": number(r),
                "Gain over SFT": number(numbers.row(r.system, "gain")),
                "Holm p": format_p(test.p_adjusted) if test else "–",
                "Agrees": number(numbers.row(r.system, "agreement", AVERAGE, teacher), bare=True),
                "Possible": _possible(numbers, r.system, teacher),
                "Steps": _bare(numbers, r.system, "fidelity_steps", teacher),
                "BLEU": _bare(numbers, r.system, "bleu_corpus", teacher),
                "Parsed": _bare(numbers, r.system, "parse_rate"),
                "s/1,000": f"{seconds[r.system]:.1f}" if r.system in seconds else "–",
            }
        )
    note = (
        "Means over benchmarks, 95% intervals in brackets; gains in points. Holm p: exact McNemar "
        "on all items, corrected over the main grid. Agrees, steps (shared steps of reasoning) and "
        "BLEU: with the teacher; possible: the agreement that the two accuracies force and allow. "
        "Parsed: answers found. s/1,000: seconds to generate 1,000 items."
    )
    return Sheet.of("systems", "Systems", rows, note=note)


def kept_sheet(kept: pd.DataFrame | None, runs: Collection[str]) -> Sheet:
    """Return what each distilled run kept of its teacher's right answers, and what it added."""
    rows = [
        {
            "System": Cell(r.system, items_link(run=r.system) if r.system in runs else ""),
            "Teacher": r.teacher,
            "Items": f"{r.items:,}",
            "Kept": f"{100 * r.kept / r.items:.1f}%",
            "Lost": f"{100 * r.lost / r.items:.1f}%",
            "Gained": f"{100 * r.gained / r.items:.1f}%",
            "Kept of the teacher's": f"{100 * r.kept / (r.kept + r.lost):.1f}%"
            if r.kept + r.lost
            else "–",
        }
        for r in (kept.itertuples() if kept is not None else ())
    ]
    note = (
        "Shares of all items of all benchmarks. Kept: teacher and student right; lost: only the "
        "teacher; gained: only the student."
    )
    title = "Items that students kept, lost and gained against their teachers"
    return Sheet.of("kept", title, rows, note=note, labels=2)


def cost_sheet(
    table: pd.DataFrame, numbers: Numbers, seconds: Mapping[str, float], made: Mapping[str, Any]
) -> Sheet:
    """Return size and time of each system, and memory where a stage has recorded it."""
    sizes = dict(zip(table.system, table.parameters, strict=True))
    training = {r["system"]: r for r in made.get("training") or ()}
    rows = []
    for r in _ranked(table).itertuples():
        trained = training.get(r.system, {})
        large = sizes.get(r.teacher)
        share = "–" if pd.isna(large) or pd.isna(r.parameters) else f"{r.parameters / large:.0%}"
        row = {
            "System": Cell(r.system, rows_link(system=r.system)),
            "Parameters": _parameters(r.parameters),
            "Of its teacher's": share,
            "Tokens per text": _bare(numbers, r.system, "tokens"),
            "Seconds per 1,000 items": f"{seconds[r.system]:.1f}" if r.system in seconds else "–",
            "Training seconds": f"{trained['seconds']:,.0f}" if "seconds" in trained else "–",
        }
        if any(t.get("peak_memory_gib") is not None for t in training.values()):
            peak = trained.get("peak_memory_gib")
            row["Peak training memory (GiB)"] = "–" if peak is None else f"{peak:.2f}"
        rows.append(row)
    note = "Memory: the most that training took, of the GPU if it used one, else of its process."
    return Sheet.of("cost", "Cost: size, length of texts, time and memory", rows, note=note)


def accuracy_sheet(table: pd.DataFrame) -> Sheet:
    """Return accuracy by teacher, student and method, in percent."""
    rows = with_sft(table, "accuracy")
    names = scope_order(rows.benchmark)
    others = table[table.kind.isin(["teacher", "base"]) & (table.metric == "accuracy")]
    sft = rows[rows.kind == "sft"].drop_duplicates(["student", "seed", "benchmark"])
    lines = [("–", r, "base", part) for r, part in _by(others, "base", "model")]
    lines += [("–", r, "SFT", part) for r, part in _by(others, "teacher", "model")]
    lines += [("–", r, "SFT", part) for r, part in _by(sft, "sft", "student")]
    distilled = rows[rows.kind == "distilled"]
    for teacher in sorted(distilled.teacher.unique()):
        of_teacher = distilled[distilled.teacher == teacher]
        for group in groups_in_order(of_teacher):
            part = of_teacher[of_teacher.group == group]
            for line in dict.fromkeys(part.line):
                run = part[part.line == line]
                lines.append((short(teacher), part.student.iloc[0], line, run))
    printed = []
    for teacher, student, method, run in lines:
        cells = {r.benchmark: Cell(f"{100 * r.value:.1f}", link_of(r)) for r in run.itertuples()}
        labels = {"Teacher": teacher, "Student": student, "Method": method}
        printed.append(labels | {b: cells.get(b, "–") for b in names})
    title = "Accuracy in percent, by teacher, student and method"
    return Sheet.of("table7", title, printed, labels=3)


def flow_sheet(table: pd.DataFrame, numbers: Numbers, runs: Collection[str]) -> Sheet:
    """Return, per distilled run, which share of items distillation made right and wrong."""
    kinds = {"newly_right": "gained", "newly_wrong": "lost"}
    rows = []
    for r in _ranked(table[table.kind == "distilled"]).itertuples():
        cells = {}
        for metric, name in _FLOW.items():
            cell = number(
                numbers.row(r.system, metric), bare=metric in ("kept_right", "still_wrong")
            )
            if metric in kinds and r.system in runs and cell.href:
                cell = cell._replace(href=items_link(run=r.system, kind=kinds[metric]))
            cells[name] = cell
        if any(cell.href for cell in cells.values()):
            rows.append({"System": Cell(r.system, rows_link(system=r.system))} | cells)
    title = "Items by what distillation did to them: right or wrong under SFT, and after"
    note = "Shares of items, means over benchmarks, against the student's own SFT run."
    return Sheet.of("flow", title, rows, note=note)


def ablations_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return every ablation run: accuracy, parse rate and repetition on the average."""
    runs = table[(table.ablation != "") & (table.metric == "accuracy")]
    runs = runs[runs.benchmark == AVERAGE].sort_values(["ablation", "student", "method", "system"])
    rows = [
        {
            "Ablation": r.ablation.replace("_", " "),
            "System": Cell(r.system, rows_link(system=r.system)),
            "τ": f"{r.temperature:g}",
            "σ": f"{r.noise:g}",
            "Accuracy": number(r),
            "Gain over SFT": number(numbers.row(r.system, "gain")),
            "Parsed": _bare(numbers, r.system, "parse_rate"),
            "Repetition": _bare(numbers, r.system, "repetition"),
        }
        for r in runs.itertuples()
    ]
    return Sheet.of("ablations", "Ablation runs, means over benchmarks", rows, labels=2)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the average accuracies of the main grid's systems, best first within each kind."""
    rows = table[(table.benchmark == AVERAGE) & (table.ablation == "")]
    rows = rows[rows.metric == "accuracy"]
    rows = rows.assign(rank=rows.kind.map(_KINDS))
    return rows.sort_values(["rank", "value", "system"], ascending=[True, False, True])


def _bare(numbers: Numbers, system: str, metric: str, reference: str = "") -> Cell:
    return number(numbers.row(system, metric, AVERAGE, reference), bare=True)


def _teachers(table: pd.DataFrame) -> dict[str, str]:
    """Return the teacher that each SFT run was compared with, where there was one."""
    rows = table[(table.kind == "sft") & (table.metric == "agreement")]
    by_system = rows.groupby("system").reference.unique()
    return {str(s): str(found[0]) for s, found in by_system.items() if len(found) == 1}


def _possible(numbers: Numbers, system: str, reference: str) -> Cell:
    ends = [
        numbers.row(system, f"agreement_{b}_bound", AVERAGE, reference) for b in ("lower", "upper")
    ]
    if not reference or None in ends:
        return Cell("–")
    low, high = ends
    link = rows_link(system=system, benchmark=AVERAGE, reference=reference)
    return Cell(f"{100 * low.value:.0f} to {100 * high.value:.0f}%", link)


def _parameters(count: object) -> str:
    if pd.isna(count):
        return "–"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if int(count) >= size:
            return f"{int(count) / size:.3g}{unit}"
    return str(count)


def _by(rows: pd.DataFrame, kind: str, name: str) -> list[tuple[str, pd.DataFrame]]:
    part = rows[rows.kind == kind]
    return [(n, g) for (_, n), g in part.groupby(["parameters", name], dropna=False)]
