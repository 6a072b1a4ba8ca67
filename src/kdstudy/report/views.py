"""Views of the study's table that figures, tables and sentences share."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdstudy.analyze.results import AVERAGE
from kdstudy.report.plot import order_of

Table = pd.DataFrame


def main_grid(table: Table, metric: str | Sequence[str]) -> Table:
    """Return the main grid's distilled rows of a metric, labelled for a figure."""
    wanted = [metric] if isinstance(metric, str) else list(metric)
    rows = table[(table.kind == "distilled") & (table.ablation == "")]
    return labelled(rows[rows.metric.isin(wanted)])


def with_sft(table: Table, metric: str) -> Table:
    """Return distilled rows of the main grid and, per teacher, the student's SFT row."""
    rows = table[(table.kind == "distilled") & (table.ablation == "") & (table.metric == metric)]
    sft = table[(table.kind == "sft") & (table.metric == metric) & (table.reference == "")]
    pairs = rows[["student", "teacher"]].drop_duplicates()
    pairs = pairs if len(pairs) else sft[["student", "teacher"]].drop_duplicates()
    before = sft.drop(columns="teacher").merge(pairs, on="student")
    return labelled(pd.concat([before, rows], ignore_index=True))


def relations(table: Table, metric: str) -> Table:
    """Return pair rows of the main grid: SFT and distilled with the teacher, distilled with SFT.

    `hollow` marks the last kind, self-agreement or self-fidelity.
    """
    rows = table[(table.metric == metric) & (table.ablation == "")]
    after = rows[rows.kind == "distilled"].copy()
    before = rows[rows.kind == "sft"].assign(teacher=lambda r: r.reference)
    found = labelled(pd.concat([before, after]))
    found["hollow"] = (found.kind == "distilled") & (found.reference != found.teacher)
    return found.reset_index(drop=True)


def ablation_rows(table: Table, ablation: str) -> Table:
    """Return an ablation's rows and the main-grid runs that are its untouched point."""
    runs = table[(table.kind == "distilled") & (table.ablation == ablation)]
    key = ["student", "method"] if ablation == "base_teacher" else ["student", "method", "teacher"]
    origin = table[(table.kind == "distilled") & (table.ablation == "")]
    wanted = set(runs[key].itertuples(index=False, name=None))
    same = [k in wanted for k in origin[key].itertuples(index=False, name=None)]
    return labelled(pd.concat([origin[same], runs])) if len(runs) else runs.copy()


def labelled(rows: Table) -> Table:
    """Add the columns a figure needs: group, column, line, of_teacher and text (the tooltip)."""
    rows = rows.copy()
    rows["of_teacher"] = rows.teacher
    several = rows[rows.kind == "distilled"].teacher.nunique() > 1
    arrow = rows.student + " ← " + rows.teacher.map(short)
    rows["group"] = arrow if several else rows.student
    rows["column"] = rows.benchmark
    seeds = rows.groupby(["student", "teacher", "method", "kind"]).seed.transform("nunique")
    rows["line"] = rows.method.where(seeds < 2, rows.method + " · seed " + rows.seed.astype(str))
    rows["text"] = tooltips(rows)
    return rows


def lookup(table: Table, metric: str, pair: bool = False) -> dict[tuple, float]:
    """Return values by (system, benchmark), or by (system, reference, benchmark)."""
    rows = table[table.metric == metric]
    key = ["system", "reference", "benchmark"] if pair else ["system", "benchmark"]
    return dict(zip(rows[key].itertuples(index=False, name=None), rows.value, strict=True))


def tooltips(rows: Table) -> list[str]:
    """Return one line per row with its value and interval."""
    return [
        f"{r.system} on {r.benchmark}: {shown(r.metric, r.value)}"
        + ("" if math.isnan(r.low) else f" ({shown(r.metric, r.low)} to {shown(r.metric, r.high)})")
        for r in rows.itertuples()
    ]


def shown(metric: str, value: float) -> str:
    """Return a value as people read it: percent for a rate, points for a gain, BLEU as it is."""
    if value is None or math.isnan(value):
        return "–"
    if metric.startswith("bleu") or metric == "tokens":
        return f"{value:.1f}"
    if metric == "kappa":
        return f"{value:.2f}".replace("-", "−")
    sign = "+" if metric == "gain" else ""
    return f"{100 * value:{sign}.1f}{'' if metric == 'gain' else '%'}".replace("-", "−")


def short(label: str) -> str:
    """Return a system's label without the `/sft` that every fine-tuned teacher has."""
    return label.removesuffix("/sft")


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


def items_note(table: Table) -> str:
    """Return how many items stand behind the numbers, such as `300 items per benchmark`."""
    rows = table[(table.metric == "accuracy") & (table.benchmark != AVERAGE)]
    sizes = sorted(set(rows.n.dropna().astype(int)))
    if not sizes:
        return "no items"
    span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    return f"{span} items per benchmark"


def describe(rows: Table) -> str:
    """Return a figure's numbers in words, the averages where there are any."""
    part = rows[rows.benchmark == AVERAGE] if (rows.benchmark == AVERAGE).any() else rows
    return "; ".join(part.text.head(40))


def mean_chance(chance: Mapping[str, float], benchmarks: Sequence[str]) -> float:
    """Return the chance level of the average; NaN unless every benchmark has one."""
    names = [b for b in benchmarks if b != AVERAGE]
    if not names or any(b not in chance for b in names):
        return math.nan
    return float(np.mean([chance[b] for b in names]))
