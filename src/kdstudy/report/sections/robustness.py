"""What variants of benchmarks do to each system's accuracy; a part of the loss statement."""

from collections.abc import Mapping
from typing import Any

from kdstudy.measures.robustness import LOSSES
from kdstudy.measures.units import Unit, size, text
from kdstudy.report.blocks import Block, Text
from kdstudy.report.data import ReportData
from kdstudy.report.loss_words import ends_of_points
from kdstudy.report.sheet import Cell, Sheet

_KINDS = {"base": 0, "teacher": 1, "sft": 2, "distilled": 3}


def blocks(data: ReportData) -> list[Block]:
    """Return the table and what was left out; nothing where no variant was asked for."""
    if data.robustness.empty:
        return []
    return [sheet(data), Text(taken(data), style="note")]


def sheet(data: ReportData) -> Sheet:
    """Return a row per variant, benchmark and system: bases first, then teachers and students."""
    order = list(LOSSES)
    rows = sorted(
        data.robustness.itertuples(),
        key=lambda r: (order.index(r.variant), r.benchmark, _KINDS[r.kind], r.system),
    )
    return Sheet.of(
        "robustness",
        "Items changed in ways that must not matter, system by system",
        [_line(r) for r in rows],
        labels=3,
        note="Accuracy on the items that have the variant, as they are and changed; the difference "
        "in points with its 95% interval, item by item.",
    )


def _line(r: Any) -> dict[str, Any]:
    sd = size(Unit.POINTS, r.sd) if r.seeds > 1 else ""
    return {
        "Changed": LOSSES[r.variant].title,
        "On": r.benchmark,
        "System": r.system,
        "As they are": text(Unit.SHARE, r.before),
        "Changed so": text(Unit.SHARE, r.after),
        "Difference": Cell(text(Unit.POINTS, r.change), sd=sd, ends=ends_of_points(r.low, r.high)),
        "n": f"{r.n:,}",
    }


def taken(data: ReportData) -> str:
    """Say how many items each variant has, and why the others are left out."""
    facts: Mapping[str, Mapping[str, Any]] = data.made.get("variants") or {}
    order = {variant: i for i, variant in enumerate(LOSSES)}
    told = sorted(facts.values(), key=lambda f: (f["original"], order[f["variant"]]))
    return "Items that have a variant: " + "; ".join(map(_counted, told)) + "."


def _counted(facts: Mapping[str, Any]) -> str:
    title = LOSSES[facts["variant"]].title.removeprefix("Accuracy, ")
    why = ", ".join(f"{count:,} {reason}" for reason, count in facts["left_out"].items())
    counted = f"{title} on {facts['original']} {facts['n']:,} of {facts['of']:,}"
    return f"{counted} (left out: {why})" if why else counted
