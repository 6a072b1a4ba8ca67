"""Views of the study's table that figures, tables and sentences share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.results import AVERAGE, with_teacher
from kdstudy.measures import UNITS
from kdstudy.measures.units import size, text
from kdstudy.records import renamed
from kdstudy.report.plot import order_of

Table = pd.DataFrame
_KINDS = {"distilled": 0, "sft": 1, "teacher": 2, "base": 3}
OVER_SFT = {
    *("gain", "gain_clean", "gain_renumbered", "gain_contaminated", "rouge_l_gain"),
    *("kept_right", "newly_right", "newly_wrong", "still_wrong"),
}
"""Metrics of a distilled run whose reference is the SFT run of its student and seed."""


class Numbers:
    """A table's rows by what they are of, for sentences and sheets that look many of them up."""

    def __init__(self, table: Table):
        self._rows = {
            (r.system, r.metric, r.benchmark, "" if r.metric in OVER_SFT else r.reference): r
            for r in table.itertuples(index=False)
        }

    def row(
        self, system: str, metric: str, benchmark: str = AVERAGE, reference: str = ""
    ) -> Any | None:
        """Return a row with a known value, or None; `OVER_SFT` needs no reference."""
        found = self._rows.get((system, metric, benchmark, reference))
        return None if found is None or math.isnan(found.value) else found


def graded(table: Table) -> list[str]:
    """Return the benchmarks that have right answers, by name."""
    return _named(table, "accuracy")


def texts(table: Table) -> list[str]:
    """Return the benchmarks that ask for free texts, by name."""
    return _named(table, "rouge_l")


def measured(table: Table) -> set[str]:
    """Return the systems whose answers or texts were graded; others may have token rows only."""
    return set(table[table.metric.isin(["accuracy", "rouge_l"])].system)


def _named(table: Table, metric: str) -> list[str]:
    return sorted(set(table[table.metric == metric].benchmark) - {AVERAGE})


def main_rows(table: Table, metric: str, benchmark: str = AVERAGE) -> Table:
    """Return the main grid's distilled rows of a metric on one benchmark, as they are."""
    rows = table[(table.kind == "distilled") & (table.ablation == "")]
    return rows[(rows.metric == metric) & (rows.benchmark == benchmark)]


def best_students(table: Table) -> Table:
    """Return the accuracy rows of the main grid's distilled systems, the best first.

    Of a table with a row per run they are runs, and so seeds: give `seeds.over_seeds` of it.
    """
    rows = main_rows(table, "accuracy")
    return rows.sort_values(["value", "system"], ascending=[False, True])


def best_first(table: Table) -> Table:
    """Return the average accuracies of the main grid's systems, best first within each kind."""
    rows = table[(table.benchmark == AVERAGE) & (table.ablation == "")]
    rows = rows[rows.metric == "accuracy"]
    rows = rows.assign(rank=rows.kind.map(_KINDS))
    return rows.sort_values(["rank", "value", "system"], ascending=[True, False, True])


def units(rows: Table) -> str:
    """Return what rows are called: systems, where seeds are averaged in some, else runs."""
    return "systems" if "seeds" in rows and (rows.seeds > 1).any() else "runs"


def main_grid(table: Table, metric: str | Sequence[str]) -> Table:
    """Return the main grid's distilled rows of a metric, labelled for a figure."""
    wanted = [metric] if isinstance(metric, str) else list(metric)
    rows = table[(table.kind == "distilled") & (table.ablation == "")]
    return labelled(rows[rows.metric.isin(wanted)])


def with_sft(table: Table, metric: str) -> Table:
    """Return distilled rows of the main grid and, once per teacher, the student's SFT row."""
    rows = table[(table.kind == "distilled") & (table.ablation == "") & (table.metric == metric)]
    sft = table[(table.kind == "sft") & (table.metric == metric) & (table.reference == "")]
    pairs = rows[["student", "teacher"]].drop_duplicates()
    pairs = pairs if len(pairs) else sft[["student", "teacher"]].drop_duplicates()
    before = sft.drop(columns="teacher").merge(pairs, on="student", how="left")
    before["teacher"] = before.teacher.fillna("")
    return labelled(pd.concat([before, rows], ignore_index=True))


def relations(table: Table, metric: str) -> Table:
    """Return pair rows of the main grid: SFT and distilled with the teacher, distilled with SFT.

    `hollow` marks the last kind, self-agreement or self-fidelity.
    """
    rows = table[(table.metric == metric) & (table.ablation == "")]
    after = rows[rows.kind == "distilled"].copy()
    before = rows[rows.kind == "sft"].assign(teacher=lambda r: r.reference)
    found = labelled(pd.concat([before, after]))
    found["hollow"] = (found.kind == "distilled") & ~with_teacher(found)
    return found.reset_index(drop=True)


def ablation_rows(table: Table, ablation: str) -> Table:
    """Return an ablation's rows and the main-grid runs that are its untouched point."""
    runs = table[(table.kind == "distilled") & (table.ablation == ablation)]
    key = ["student", "method"] if ablation == "base_teacher" else ["student", "method", "teacher"]
    origin = table[(table.kind == "distilled") & (table.ablation == "")]
    wanted = set(runs[key].itertuples(index=False, name=None))
    same = [k in wanted for k in origin[key].itertuples(index=False, name=None)]
    return labelled(pd.concat([origin[same], runs])) if len(runs) else runs.copy()


NAMED = ("temperature", "noise", "base_teacher")
"""The paper's ablations; any other is named by the field that it varies."""


def varied(table: Table) -> list[str]:
    """Return the fields that ablations vary beside the paper's, in the table's order."""
    found = dict.fromkeys(table.ablation[table.kind == "distilled"])
    return [field for field in found if field and field not in NAMED]


def figure_name(ablation: str) -> str:
    """Return what an ablation's figure and its files are called."""
    return ablation if ablation in NAMED else f"vary-{ablation.replace('.', '-')}"


def settings(rows: Table, field: str) -> pd.Series:
    """Return what a varied field is in each row, as text; missing where the row does not say."""
    said = [dict(part.split("=", 1) for part in text.split("; ") if part) for text in rows.setting]
    return pd.Series([parts.get(field) for parts in said], index=rows.index, dtype="object")


def labelled(rows: Table) -> Table:
    """Add the columns a figure needs: group, column, line, of_teacher and text (the tooltip)."""
    rows = rows.copy()
    rows["of_teacher"] = rows.teacher
    several = rows[rows.kind == "distilled"].teacher.nunique() > 1
    arrow = rows.student + " ← " + rows.teacher.map(short)
    rows["group"] = arrow.where(rows.teacher != "", rows.student) if several else rows.student
    rows["column"] = rows.benchmark
    rows["line"] = rows.method
    rows["text"] = tooltips(rows)
    return rows


def lookup(table: Table, metric: str, pair: bool = False) -> dict[tuple, float]:
    """Return values by (system, benchmark), or by (system, reference, benchmark)."""
    rows = table[table.metric == metric]
    key = ["system", "reference", "benchmark"] if pair else ["system", "benchmark"]
    return dict(zip(rows[key].itertuples(index=False, name=None), rows.value, strict=True))


def tooltips(rows: Table) -> list[str]:
    """Return one line per row with its value, its spread over seeds and its interval."""
    return [
        f"{r.system} on {r.benchmark}: {shown(r.metric, r.value)}{_over_seeds(r)}"
        + ("" if math.isnan(r.low) else f" ({ends_of(r.metric, r.low, r.high, percent=True)})")
        for r in rows.itertuples()
    ]


def shown(metric: str, value: float) -> str:
    """Return a value as people read it, in its metric's unit (`measures.units`)."""
    return text(UNITS[metric], value)


def spread(metric: str, sd: float) -> str:
    """Return a standard deviation in the unit and to the digit of `shown`; a dash for none."""
    return size(UNITS[metric], sd)


def ends_of(metric: str, low: float, high: float, percent: bool = False) -> str:
    """Return an interval, such as `54.9 to 61.0`, or `54.9% to 61.0%`."""
    text = f"{shown(metric, low)} to {shown(metric, high)}"
    return text if percent else text.replace("%", "")


def interval(metric: str, value: float, low: float, high: float) -> str:
    """Return a value with its interval, such as `58.0% (54.9 to 61.0)`."""
    text = shown(metric, value)
    return text if math.isnan(low) else f"{text} ({ends_of(metric, low, high)})"


def printed(row: Any) -> str:
    """Return a value with its interval or, over several seeds, with its standard deviation."""
    if getattr(row, "seeds", 1) > 1:
        sd = f"standard deviation {spread(row.metric, row.sd)} over {row.seeds} seeds"
        return f"{shown(row.metric, row.value)} ({sd})"
    return interval(row.metric, row.value, row.low, row.high)


def _over_seeds(row: Any) -> str:
    if getattr(row, "seeds", 1) < 2:
        return ""
    return f" ± {spread(row.metric, row.sd)}, mean of {row.seeds} seeds"


def short(label: str) -> str:
    """Return a teacher's label without the ending that every fine-tuned teacher has."""
    return renamed(label, lambda one: one.removesuffix("/sft").removesuffix("/teacher"))


def lines_in_order(rows: Table) -> list[str]:
    """Return the row labels of a figure, SFT first."""
    pairs = sorted(set(zip(rows.method, rows.line, strict=True)), key=lambda x: (order_of(x[0]), x))
    return [line for _, line in pairs]


def groups_in_order(rows: Table) -> list[str]:
    """Return students (and their teachers) from small to large."""
    sized = rows.assign(parameters=rows.parameters.astype("Float64").fillna(0.0))
    return list(dict.fromkeys(sized.sort_values(["parameters", "group"]).group))


def scope_order(names: Sequence[str]) -> list[str]:
    """Return benchmarks by name, the average last."""
    return sorted(set(names), key=lambda x: (x == AVERAGE, x))


def items_note(table: Table, metric: str = "accuracy") -> str:
    """Return how many items stand behind the numbers, such as `300 items per benchmark`."""
    rows = table[(table.metric == metric) & (table.benchmark != AVERAGE)]
    sizes = sorted(set(rows.n.dropna().astype(int)))
    if not sizes:
        return "no items"
    span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return f"{span} items per benchmark"


def dots_note(table: Table, metric: str = "accuracy") -> str:
    """Return what dots and lines of a figure are: items, intervals and, if any, seeds.

    Args:
        table: From `seeds.over_seeds`.
        metric: Whose items are counted.
    """
    note = f"{items_note(table, metric)}, 95% intervals"
    most = int(table.seeds.max()) if len(table) else 0
    if most < 2:
        return note
    return f"{note} over items; dots: means over up to {most} seeds, ticks: single seeds"


def describe(rows: Table) -> str:
    """Return a figure's numbers in words, the averages where there are any."""
    part = rows[rows.benchmark == AVERAGE] if (rows.benchmark == AVERAGE).any() else rows
    return "; ".join(part.text.head(40))


def mean_chance(chance: Mapping[str, float], benchmarks: Sequence[str]) -> float:
    """Return the chance level of the average; NaN unless every benchmark has one."""
    if not benchmarks or any(b not in chance for b in benchmarks):
        return math.nan
    return float(np.mean([chance[b] for b in benchmarks]))
