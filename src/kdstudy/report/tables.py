"""Every table of a report, and those about systems: what they reach, keep and cost."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, format_p, points
from kdstudy.report.plot import order_of
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, items_link, number, rows_link
from kdstudy.report.tables_of_data import data_sheets
from kdstudy.report.tables_of_tests import sheets_of_tests
from kdstudy.report.tables_of_texts import text_sheets
from kdstudy.report.views import Numbers, graded, scope_order, short, shown, spread, texts

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
        kept: From `items.against_teacher`.
        made: How the study was made.
        seconds: Seconds to generate 1,000 items, by system.
        examples: From `items.telling_items`.
        overlaps: From `items.overlap_counts`.
        runs: Distilled runs that the item browser can show.
    """
    seconds, made = seconds or {}, made or {}
    seeds = Seeds(table, tests)
    sheets = [
        systems_sheet(seeds, tests, seconds, runs),
        kept_sheet(kept, seeds.names, runs),
        cost_sheet(seeds, seconds, made),
        accuracy_sheet(seeds),
        flow_sheet(seeds, runs),
        *sheets_of_tests(tests),
        *text_sheets(seeds, examples),
        ablations_sheet(seeds),
        *data_sheets(table, seeds, made, overlaps),
    ]
    benchmarks = [*graded(table), *texts(table)]
    if len(benchmarks) == 1:
        sheets = [s.of_one_benchmark(benchmarks[0]) for s in sheets]
    return {s.name: s for s in sheets if len(s.frame)}


def systems_sheet(
    seeds: Seeds, tests: Sequence[Test], seconds: Mapping[str, float], runs: Collection[str]
) -> Sheet:
    """Return the short table of systems, means over benchmarks, best first within each kind."""
    average = [t for t in tests if t.scope == AVERAGE]
    adjusted = {
        t.subject: t for table in ("paired", "student") for t in average if t.table == table
    }
    compared, seconds = _teachers(seeds), _mean_over_seeds(seconds, seeds.names)

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        teacher = r.teacher or compared.get(r.system, "")
        gain = number(numbers.row(r.system, "gain"), seeds=r.seeds)
        test = adjusted.get(r.system)
        if test and r.seeds > 1 and not math.isnan(test.low):
            gain = gain._replace(ends=f"{points(test.low)} to {points(test.high)}")
        pair = numbers.row(r.system, "agreement", AVERAGE, teacher)
        return {
            "System": Cell(r.system, _texts_of(r.system, runs)),
            "Accuracy": number(r),
            "Gain over SFT": gain,
            "Holm p": format_p(test.p_adjusted) if test else "–",
            "Agrees": number(pair, bare=True, seeds=r.seeds),
            "Possible": _possible(numbers, r.system, teacher),
            "Steps": _bare(numbers, r, "fidelity_steps", teacher),
            "BLEU": _bare(numbers, r, "bleu_corpus", teacher),
            "Parsed": _bare(numbers, r, "parse_rate"),
            "Parameters": _parameters(r.parameters),
            "s/1,000": f"{seconds[r.system]:.1f}" if r.system in seconds else "–",
        }

    note = (
        "Means over benchmarks, 95% intervals over items in brackets; gains in points. Holm p: of "
        "the gain, over items and the seeds there are, corrected over the main grid. Agrees, "
        "steps (shared steps of reasoning) and BLEU: with the teacher; possible: the agreement "
        "that the two accuracies force and allow. Parsed: answers found. s/1,000: seconds to "
        "generate 1,000 items, without importing packages and loading the model."
    )
    lines = seeds.lines(_ranked(seeds.means), line)
    return Sheet.of("systems", "Systems", **lines, note=note)


def kept_sheet(kept: pd.DataFrame | None, names: Mapping[str, str], runs: Collection[str]) -> Sheet:
    """Return what each distilled system kept of its teacher's right answers, and what it added."""
    rows = pd.DataFrame(columns=["system", "kept"]) if kept is None else kept
    parts = dict(iter(rows.groupby(rows.system.map(names), sort=False)))
    parts = dict(sorted(parts.items(), key=lambda part: -part[1].kept.mean()))
    several = any(len(part) > 1 for part in parts.values())
    lines = [_kept(name, part, runs, several) for name, part in parts.items()]
    below = [
        [_kept(run, own, runs, several) for run, own in part.groupby("system")]
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


def cost_sheet(seeds: Seeds, seconds: Mapping[str, float], made: Mapping[str, Any]) -> Sheet:
    """Return size and time of each system, and memory where a stage has recorded it."""
    sizes = dict(zip(seeds.means.system, seeds.means.parameters, strict=True))
    trained = {r["system"]: r["seconds"] for r in made.get("training") or () if "seconds" in r}
    peaks = {r["system"]: r.get("peak_memory_gib") for r in made.get("training") or ()}
    peaks = {system: peak for system, peak in peaks.items() if peak is not None}
    seconds, trained, peaks = (
        _mean_over_seeds(found, seeds.names) for found in (seconds, trained, peaks)
    )

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        large = sizes.get(r.teacher)
        share = "–" if pd.isna(large) or pd.isna(r.parameters) else f"{r.parameters / large:.0%}"
        row = {
            "System": Cell(r.system, rows_link(system=r.system)),
            "Parameters": _parameters(r.parameters),
            "Of its teacher's": share,
            "Tokens per text": _bare(numbers, r, "tokens"),
            "Seconds per 1,000 items": _known("{:.1f}", seconds, r.system),
            "Training seconds": _known("{:,.0f}", trained, r.system),
        }
        peak = {"Peak training memory (GiB)": _known("{:.2f}", peaks, r.system)}
        return row | (peak if peaks else {})

    note = (
        "Seconds per 1,000 items: generation alone, without importing packages and loading the "
        "model. Training seconds: the whole stage, loading and validation included, and those of "
        "the SFT run that a run starts from. Memory: the "
        "most that training took, of the GPU if it used one, else of its process. Means over seeds "
        "where a system has several."
    )
    title = "Cost: size, length of texts, time and memory"
    return Sheet.of("cost", title, **seeds.lines(_ranked(seeds.means), line), note=note)


def accuracy_sheet(seeds: Seeds) -> Sheet:
    """Return accuracy by teacher, student and method, in percent."""
    rows = seeds.means[(seeds.means.metric == "accuracy") & (seeds.means.ablation == "")]
    names = scope_order(rows.benchmark)
    # Of each system the row with most runs behind it.
    whole = rows.sort_values("seeds", ascending=False, kind="stable").drop_duplicates("system")
    whole = whole.assign(
        rank=whole.kind.map(["base", "teacher", "sft", "distilled"].index),
        place=whole.method.map(order_of),
    ).sort_values(["rank", "teacher", "parameters", "model", "place", "system"])

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        method = {"base": "base", "distilled": r.method}.get(r.kind, "SFT")
        method += "" if numbers is seeds.numbers else f" · seed {r.seed}"
        found = {b: numbers.row(r.system, "accuracy", b) for b in names}
        labels = {"Teacher": short(r.teacher) or "–", "Student": r.model, "Method": method}
        return labels | {b: _percent(row, r.seeds) for b, row in found.items()}

    lines = seeds.lines(whole, line, labels=3)
    title = "Accuracy in percent, by teacher, student and method"
    return Sheet.of("table7", title, **lines, labels=3)


def flow_sheet(seeds: Seeds, runs: Collection[str]) -> Sheet:
    """Return, per distilled system, which share of items distillation made right and wrong."""
    kinds = {"newly_right": "gained", "newly_wrong": "lost"}

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        cells: dict[str, Any] = {"System": Cell(r.system, rows_link(system=r.system))}
        for metric, name in _FLOW.items():
            bare = metric in ("kept_right", "still_wrong")
            cell = number(numbers.row(r.system, metric), bare=bare, seeds=r.seeds)
            if metric in kinds and r.system in runs and cell.href:
                cell = cell._replace(href=items_link(run=r.system, kind=kinds[metric]))
            cells[name] = cell
        return cells

    found = _ranked(seeds.means[seeds.means.kind == "distilled"])
    known = found.system.map(lambda s: seeds.numbers.row(s, "kept_right") is not None).astype(bool)
    title = "Items by what distillation did to them: right or wrong under SFT, and after"
    note = "Shares of items, means over benchmarks, against the student's own SFT run."
    return Sheet.of("flow", title, **seeds.lines(found[known], line), note=note)


def ablations_sheet(seeds: Seeds) -> Sheet:
    """Return every ablation: accuracy, parse rate and repetition on the average."""
    rows = seeds.means[(seeds.means.ablation != "") & (seeds.means.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values(["ablation", "student", "method", "system"])

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        return {
            "Ablation": r.setting or r.ablation.replace("_", " "),
            "System": Cell(r.system, rows_link(system=r.system)),
            "τ": f"{r.temperature:g}",
            "σ": f"{r.noise:g}",
            "Accuracy": number(r),
            "Gain over SFT": number(numbers.row(r.system, "gain"), seeds=r.seeds),
            "Parsed": _bare(numbers, r, "parse_rate"),
            "Repetition": _bare(numbers, r, "repetition"),
        }

    title = "Ablation runs, means over benchmarks"
    return Sheet.of("ablations", title, **seeds.lines(rows, line, labels=2), labels=2)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the average accuracies of the main grid's systems, best first within each kind."""
    rows = table[(table.benchmark == AVERAGE) & (table.ablation == "")]
    rows = rows[rows.metric == "accuracy"]
    rows = rows.assign(rank=rows.kind.map(_KINDS))
    return rows.sort_values(["rank", "value", "system"], ascending=[True, False, True])


def _bare(numbers: Numbers, r: Any, metric: str, reference: str = "") -> Cell:
    row = numbers.row(r.system, metric, AVERAGE, reference)
    return number(row, bare=True, seeds=r.seeds)


def _texts_of(system: str, runs: Collection[str]) -> str:
    """Return where a system's name leads: to the texts of a run, to the rows of several."""
    return items_link(run=system) if system in runs else rows_link(system=system)


def _kept(name: str, part: pd.DataFrame, runs: Collection[str], several: bool) -> dict[str, Any]:
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


def _known(form: str, values: Mapping[str, float], system: str) -> str:
    return form.format(values[system]) if system in values else "–"


def _mean_over_seeds(values: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Return the values by run, and their means by system."""
    found: dict[str, list[float]] = {}
    for run, value in values.items():
        found.setdefault(names.get(run, run), []).append(value)
    return {**values, **{system: sum(own) / len(own) for system, own in found.items()}}


def _percent(row: Any | None, seeds: int) -> Cell:
    """Return an accuracy without its sign: the whole table is in percent."""
    cell = number(row, bare=True, seeds=seeds)
    return cell._replace(text=cell.text.rstrip("%"))


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


def _parameters(count: object) -> str:
    if pd.isna(count):
        return "–"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if int(count) >= size:
            return f"{int(count) / size:.3g}{unit}"
    return str(count)
