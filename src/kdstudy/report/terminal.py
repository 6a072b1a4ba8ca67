"""The few numbers that matter, as a table for a terminal: a study's `summary.txt`."""

from typing import Any

from kdstudy.analysis.results import AVERAGE
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, number
from kdstudy.report.views import short

_KINDS = ["teacher", "base", "sft", "distilled"]
_MEASURES = {"accuracy": "accuracy", "rouge_l": "ROUGE-L"}
_GAINS = {"accuracy": "gain", "rouge_l": "rouge_l_gain"}


def summary(seeds: Seeds) -> str:
    """Return the main grid's systems: teachers, base models, SFT, distilled.

    Each with its mean over benchmarks and the 95% interval over items, its points over SFT, and how
    often it gives a teacher's answer, where that was measured; where a system has several seeds,
    with sample standard deviations. "" where nothing was measured on every benchmark.
    """
    rows = seeds.means[(seeds.means.benchmark == AVERAGE) & (seeds.means.ablation == "")]
    metric = next((m for m in _MEASURES if (rows.metric == m).any()), "")
    if not metric:
        return ""
    own = rows[rows.metric == metric].sort_values(["parameters", "model", "teacher", "system"])
    own = own.sort_values("kind", key=lambda kind: kind.map(_KINDS.index), kind="stable")
    references = set(rows[rows.metric == "agreement"].reference)
    teachers = [s for s in own[own.kind.isin(["teacher", "base"])].system if s in references]
    lines = [_line(r, metric, seeds, teachers) for r in own.itertuples()]
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    return _aligned({n: cells for n, cells in columns.items() if set(cells) - {"–"}})


def _line(r: Any, metric: str, seeds: Seeds, teachers: list[str]) -> dict[str, str]:
    spread = " ± sd" if seeds.several else ""
    value = number(r)
    line = {
        "system": r.system,
        "seeds": str(r.seeds) if seeds.several else "–",
        f"{_MEASURES[metric]}{spread}": _printed(value, seeds.several),
        "95% interval": value.ends or "–",
    }
    columns = {f"over SFT{spread}": seeds.numbers.row(r.system, _GAINS[metric])}
    for teacher in teachers:
        name = "teacher" if len(teachers) == 1 else short(teacher)
        columns[f"agrees with {name}"] = seeds.numbers.row(r.system, "agreement", AVERAGE, teacher)
    cells = {name: number(row, seeds=r.seeds) for name, row in columns.items()}
    return line | {name: _printed(cell, seeds.several) for name, cell in cells.items()}


def _printed(cell: Cell, several: bool) -> str:
    return f"{cell.text} ± {cell.sd or '–'}" if several and cell.text != "–" else cell.text


def _aligned(columns: dict[str, list[str]]) -> str:
    """Return columns of text, the first one to the left, the others to the right."""
    padded = []
    for i, (name, cells) in enumerate(columns.items()):
        width = max(map(len, (name, *cells)))
        padded.append([x.ljust(width) if i == 0 else x.rjust(width) for x in (name, *cells)])
    return "".join("  ".join(line).rstrip() + "\n" for line in zip(*padded, strict=True))
