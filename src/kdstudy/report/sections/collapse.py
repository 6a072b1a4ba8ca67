"""Signs of a collapsed model: length, repetition, truncation, answers not found."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from kdstudy.analysis.collapse import (
    HIGH_REPETITION,
    HIGH_TRUNCATION,
    LENGTH_FACTOR,
    LOW_PARSE_RATE,
)
from kdstudy.analysis.results import AVERAGE, names_of
from kdstudy.analysis.stats import Test, points
from kdstudy.measures import MEASURES
from kdstudy.report.blocks import Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.sections import measures
from kdstudy.report.seeds import Seeds, sft_of
from kdstudy.report.sheet import Cell, Sheet, bare, rows_link
from kdstudy.report.views import Numbers, main_rows, shown

_SIGNS = ("tokens", "truncated_rate", "repetition", "parse_rate")


def section(data: ReportData) -> Section:
    """Return who may have collapsed, the signs of every system, and further measures."""
    raised = alarms(data)
    blocks = [
        Text(sentence(data.table, data.tests, raised)),
        collapse_sheet(data.seeds, raised),
        *measures.blocks(data.seeds),
    ]
    return Section("collapse", "Did a model collapse?", blocks, short="Collapse")


class Alarm(NamedTuple):
    """Why a system's numbers may be those of a collapsed model."""

    system: str
    reasons: tuple[str, ...]


def alarms(data: ReportData) -> list[Alarm]:
    """Return every trained run with a sign of collapse on the average, with its reasons.

    What its training raised is its last reason. Each run is judged for itself: a mean would hide
    one collapsed seed.
    """
    table, numbers = data.table, data.seeds.of_runs
    rows = table[(table.benchmark == AVERAGE) & (table.kind != "base")]
    sft = sft_of(table)
    reasons = {
        system: _reasons(numbers, system, sft.get(system, ""))
        for system in rows[rows.metric == "tokens"].system
    }
    for run in data.made.get("training") or ():
        bad = [point for point in run.get("probe") or () if point["alarms"]]
        if bad:
            said = f"while training: {', '.join(bad[-1]['alarms'])} at step {bad[-1]['step']}"
            reasons.setdefault(run["system"], []).append(said)
    return [Alarm(system, tuple(found)) for system, found in reasons.items() if found]


def by_system(raised: Sequence[Alarm], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each system that raises alarms, with the seeds that do, and their reasons.

    Args:
        raised: Alarms of runs.
        names: The system that each run is a draw of, by the run's label (`seeds.names_of`).
    """
    runs: dict[str, list[Alarm]] = {}
    for alarm in raised:
        runs.setdefault(names.get(alarm.system, alarm.system), []).append(alarm)
    return [_of_system(name, own, [*names.values()].count(name)) for name, own in runs.items()]


def _of_system(name: str, own: Sequence[Alarm], seeds: int) -> tuple[str, str]:
    reasons = [", ".join(alarm.reasons) for alarm in own]
    if seeds < 2:
        return name, reasons[0]
    numbers = [alarm.system.rpartition("seed=")[2] for alarm in own]
    which = f"seed{'s' if len(own) > 1 else ''} {', '.join(numbers)} of its {seeds} seeds"
    if len(set(reasons)) == 1:
        return f"{name} ({which})", reasons[0]
    each = (f"seed {n}: {why}" for n, why in zip(numbers, reasons, strict=True))
    return f"{name} ({which})", "; ".join(each)


def sentence(table: pd.DataFrame, tests: Sequence[Test], raised: Sequence[Alarm]) -> str:
    """Say how many runs look collapsed and what the mean gain is with and without them."""
    trained = table[(table.kind != "base") & (table.metric == "tokens")]
    total = trained[trained.benchmark == AVERAGE].system.nunique()
    if not total:
        return "No trained system has been measured yet, so 0 alarms are raised."
    limits = (
        f"parsed under {LOW_PARSE_RATE:.0%}, cut over {HIGH_TRUNCATION:.0%}, repetition over "
        f"{HIGH_REPETITION:.0%}, {LENGTH_FACTOR:g} times longer or shorter than SFT, or an alarm "
        "while training"
    )
    unit = "systems" if len(set(names_of(trained).values())) == total else "runs"
    if not raised:
        text = f"None of {total} trained {unit} raises an alarm ({limits})."
    else:
        systems = by_system(raised, names_of(table))
        some = "; ".join(f"{who} ({why})" for who, why in systems[:3])
        more = f"; and {len(systems) - 3} more systems" if len(systems) > 3 else ""
        verb = "raises" if len(raised) == 1 else "raise"
        text = f"{len(raised)} of {total} trained {unit} {verb} an alarm ({limits}): {some}{more}."
    return text + _with_and_without(table, raised) + _by_accuracy(tests)


def _reasons(numbers: Numbers, system: str, sft: str) -> list[str]:
    parsed, cut, repeated, tokens = (
        numbers.row(system, m) for m in ("parse_rate", "truncated_rate", "repetition", "tokens")
    )
    found = []
    if parsed and parsed.value < LOW_PARSE_RATE:
        found.append(f"an answer can be read on only {shown('parse_rate', parsed.value)} of items")
    if cut and cut.value > HIGH_TRUNCATION:
        found.append(f"{shown('truncated_rate', cut.value)} of texts ran into the length limit")
    if repeated and repeated.value > HIGH_REPETITION:
        found.append(f"{shown('repetition', repeated.value)} of 4-grams repeat")
    before = numbers.row(sft, "tokens") if sft else None
    if before and before.value and tokens:
        factor = tokens.value / before.value
        if not 1 / LENGTH_FACTOR <= factor <= LENGTH_FACTOR:
            found.append(f"texts are {factor:.1f} times as long as under SFT")
    return found


def _with_and_without(table: pd.DataFrame, raised: Sequence[Alarm]) -> str:
    gains = main_rows(table, "gain")
    bad = gains.system.isin([a.system for a in raised])
    if not bad.any():
        return " The runs of the main grid are not among them." if raised and len(gains) else ""
    text = f" The mean gain of {len(gains)} runs is {points(gains.value.mean())} points with them"
    if bad.all():
        return text + ", and no run is left without them."
    return text + f" and {points(gains[~bad].value.mean())} without."


def _by_accuracy(tests: Sequence[Test]) -> str:
    found = next((t for t in tests if t.table == "collapse" and t.scope == AVERAGE), None)
    return f" By accuracy: {found.sentence[0].lower()}{found.sentence[1:]}" if found else ""


def collapse_sheet(seeds: Seeds, raised: Sequence[Alarm]) -> Sheet:
    """Return the signs of collapse of every system, those that raise an alarm first."""
    alarms: dict[str, list[str]] = {}
    for alarm in raised:
        reasons = "; ".join(alarm.reasons)
        alarms[alarm.system] = [reasons]
        if (name := seeds.names.get(alarm.system, alarm.system)) != alarm.system:
            alarms.setdefault(name, []).append(f"{_tail(alarm.system, name)}: {reasons}")
    rows = seeds.means[(seeds.means.metric == "tokens") & (seeds.means.benchmark == AVERAGE)]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        return {
            "System": Cell(r.system, rows_link(system=r.system)),
            "Alarm": "; ".join(alarms.get(r.system, ())) or "none",
            **{MEASURES[m].column: bare(numbers, r, m) for m in _SIGNS},
        }

    note = (
        f"Means over benchmarks. {MEASURES['repetition'].note} "
        "Base models raise no alarm: nobody trained them."
    )
    rows = rows.sort_values("system", key=lambda s: ~s.isin(alarms.keys()), kind="stable")
    title = "Length, repetition and parse rate"
    return Sheet.of("collapse", title, **seeds.lines(rows, line, labels=2), note=note, labels=2)


def _tail(run: str, system: str) -> str:
    """Return what a run's label says beyond its system's, such as `seed 1`."""
    return run.removeprefix(system).strip("/").replace("seed=", "seed ") or run
