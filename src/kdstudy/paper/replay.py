"""Tables 1-5 of the paper again, cell by cell, from the numbers that were released."""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdstudy.analysis.verdict import format_p, signed
from kdstudy.paper import published
from kdstudy.paper.published import Aggregation

ALPHA = 0.05
METHODS = ("SeqKD", "RevKD", "GKD")
FACTOR = {"2": "teacher_score", "3": "size", "4": "agreement"}
"""Table of a rank correlation -> the column that gains are ranked against."""

MATCH = "matches"
TWICE = "matches, p rounded twice"
DIFFERS = "differs"
FLIPS = "differs, and the conclusion at 5% flips"
LOST = "cannot be recomputed"

_STAND_INS = {
    "KD student with SFT student": "student_KD~student_SFT (inferred)",
    "SFT student with teacher": "student_SFT~teacher",
}


def replay(aggregation: Aggregation = "max") -> dict[str, Any]:
    """Recompute the 132 cells of Tables 1-5 and hold them against the print.

    Args:
        aggregation: See `published.cells`; `max` is how the paper made its tables.

    Returns:
        `aggregation`; `cells`, each with table, panel, row and task as printed, `printed` and
        `recomputed` (statistic, p, and significant at 5%: bold in print), `verdict` (one of
        the constants above) and, where there is something to say, `note`; `summary`. A number
        that cannot be had is None.

    Raises:
        InputError: Unknown aggregation.
    """
    rows = published.cells(aggregation)
    found = [_cell(rows, printed) for printed in published.read("expected_tables").itertuples()]
    return {"aggregation": aggregation, "cells": found, "summary": _summary(aggregation, found)}


def recompute(rows: pd.DataFrame, row: str, factor: str = "") -> tuple[float, float]:
    """Return statistic and p of one printed row, over the runs of one task.

    Args:
        rows: `published.cells` of one benchmark and task.
        row: As in print: `t-test all methods`, `t-test GKD`, `ANOVA all methods`,
            `Spearman rank`.
        factor: Column that a rank correlation is with.
    """
    kind, _, whose = row.partition(" ")
    if kind == "t-test":
        gains = rows.gain if whose == "all methods" else rows.gain[rows.method == whose]
        result = stats.ttest_1samp(gains, 0, alternative="greater")
    elif kind == "ANOVA":
        result = stats.f_oneway(*(rows.gain[rows.method == m] for m in METHODS))
    else:
        result = stats.spearmanr(rows.gain, rows[factor])
    return float(result.statistic), float(result.pvalue)


def _cell(rows: pd.DataFrame, printed: Any) -> dict[str, Any]:
    table, benchmark = str(printed.table), published.BENCHMARKS[printed.panel]
    rows = rows[(rows.benchmark == benchmark) & (rows.task == printed.task)]
    statistic, p = math.nan, math.nan
    if table != "5":
        statistic, p = recompute(rows, printed.row, FACTOR.get(table, ""))
    verdict, note = _verdict(printed, statistic, p)
    if verdict == LOST:
        note = _why_lost(rows, printed.task)
    cell = {
        "table": table,
        "panel": printed.panel,
        "row": printed.row,
        "task": printed.task,
        "printed": {
            "statistic": float(printed.statistic),
            "p": float(printed.p_value),
            "significant": bool(printed.bold),
        },
        "recomputed": {
            "statistic": _number(statistic),
            "p": _number(p),
            "significant": None if math.isnan(p) else p < ALPHA,
        },
        "verdict": verdict,
    }
    return cell | ({"note": note} if note else {})


def _verdict(printed: Any, statistic: float, p: float) -> tuple[str, str]:
    if math.isnan(statistic):
        return LOST, ""
    wrong_flag = bool(printed.bold) != (p < ALPHA)
    flag = f"Printed {'bold' if printed.bold else 'plain'}, yet p = {format_p(p)}"
    if round(statistic, 2) == printed.statistic:
        note = f"{flag}: the flag is wrong." if wrong_flag else ""
        if round(p, 1) == printed.p_value:
            return MATCH, note
        if _rounded_twice(p) == printed.p_value:
            steps = f"{p:.4f} to {np.round(p, 2):g} to {_rounded_twice(p):.1f}"
            return TWICE, f"The printed p was rounded twice, {steps}. {note}".strip()
    if wrong_flag:
        return FLIPS, f"{flag}."
    return DIFFERS, ""


def _rounded_twice(p: float) -> float:
    """Round as NumPy and pandas do, halves to even: to two decimals, then to one."""
    return float(np.round(np.round(p, 2), 1))


def _why_lost(rows: pd.DataFrame, task: str) -> str:
    fidelity = published.read("fidelity")
    found = []
    for name, comparison in _STAND_INS.items():
        part = fidelity[(fidelity.metric == "BLEU") & (fidelity.comparison == comparison)]
        value = part[part.task == task].set_index(["teacher", "student"]).value
        where = pd.MultiIndex.from_frame(rows[["teacher", "student"]])
        rho, p = recompute(rows.assign(bleu=value.reindex(where).to_numpy()), "Spearman", "bleu")
        found.append(f"{name} gives {signed(rho)} (p = {format_p(p)})")
    return (
        "BLEU of the distilled student with its teacher was never released. What was, gives other "
        f"numbers: {'; '.join(found)}."
    )


def _summary(aggregation: Aggregation, cells: list[dict[str, Any]]) -> dict[str, Any]:
    total = len(cells)
    statistics = [c for c in cells if _same_statistic(c)]
    both = [c for c in cells if c["verdict"] == MATCH]
    flags = [c for c in statistics if c["printed"]["significant"] != c["recomputed"]["significant"]]
    summary = {
        "cells": total,
        "statistics_match": len(statistics),
        "statistic_and_p_match": len(both),
        "p_rounded_twice": [name(c) for c in cells if c["verdict"] == TWICE],
        "wrong_bold_flag": [name(c) for c in flags],
        "cannot_be_recomputed": [name(c) for c in cells if c["verdict"] == LOST],
        "differs": [name(c) for c in cells if c["verdict"] in (DIFFERS, FLIPS)],
        "conclusion_flips": [name(c) for c in cells if c["verdict"] == FLIPS],
    }
    return summary | {"sentence": _sentence(aggregation, summary)}


def name(cell: dict[str, Any]) -> str:
    """Return where a cell stands: `Table 3b, Spearman rank, Winogrande`."""
    return f"Table {cell['table']}{cell['panel']}, {cell['row']}, {cell['task']}"


def _same_statistic(cell: dict[str, Any]) -> bool:
    found = cell["recomputed"]["statistic"]
    return found is not None and round(found, 2) == cell["printed"]["statistic"]


def _sentence(aggregation: Aggregation, summary: dict[str, Any]) -> str:
    source = {
        "max": "With the best temperature of every task and average, taken on the test set,",
        "tau1": "With the runs at temperature 1 alone,",
        "printed": "With the accuracies of Tables 7 and 8 as printed,",
    }[aggregation]
    rest = []
    if count := len(summary["p_rounded_twice"]):
        rest.append(f"{count} p-values were rounded twice")
    if count := len(summary["wrong_bold_flag"]):
        rest.append(f"{count} bold flag{' is' if count == 1 else 's are'} wrong")
    if count := len(summary["differs"]):
        flips = len(summary["conclusion_flips"])
        rest.append(f"{count} cells differ, and {flips} conclusions at 5% flip")
    if count := len(summary["cannot_be_recomputed"]):
        rest.append(f"{count} cells (Table 5) need numbers that were never released")
    return (
        f"{source} {summary['statistics_match']} of {summary['cells']} statistics and "
        f"{summary['statistic_and_p_match']} of {summary['cells']} pairs of statistic and p come "
        f"out as printed; {'; '.join(rest)}."
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
