"""Alarms of collapse, and the warnings that stand at the top of a report."""

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
from kdstudy.records import System
from kdstudy.report.seeds import over_seeds, sft_of
from kdstudy.report.views import Numbers, graded, main_rows, measured, printed, shown

FEW_ITEMS = 200
POWER_FACTOR = 2.80
"""z(0.975) + z(0.80): standard errors that an effect needs to be found four times in five."""


class Alarm(NamedTuple):
    """Why a system's numbers may be those of a collapsed model."""

    system: str
    reasons: tuple[str, ...]


def alarms(
    table: pd.DataFrame, numbers: Numbers, training: Sequence[Mapping[str, Any]] = ()
) -> list[Alarm]:
    """Return every trained system with a sign of collapse, with its reasons.

    Args:
        table: All results; the signs are looked for on the average over benchmarks.
        numbers: The same, to look up.
        training: Each system's `training.json`, with its label as `system`: what its training
            raised is its last reason.
    """
    rows = table[(table.benchmark == AVERAGE) & (table.kind != "base")]
    sft = sft_of(table)
    reasons = {
        system: _reasons(numbers, system, sft.get(system, ""))
        for system in rows[rows.metric == "tokens"].system
    }
    for run in training:
        points = [point for point in run.get("probe") or () if point["alarms"]]
        if points:
            said = f"while training: {', '.join(points[-1]['alarms'])} at step {points[-1]['step']}"
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


def collapse(table: pd.DataFrame, tests: Sequence[Test], raised: Sequence[Alarm]) -> str:
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


def warnings(
    table: pd.DataFrame,
    systems: Sequence[System],
    provenance: Mapping[str, Any],
    raised: Sequence[Alarm],
    overlaps: pd.DataFrame | None = None,
    tests: Sequence[Test] = (),
) -> list[str]:
    """Return what a reader must know before believing a number, most serious first."""
    return [
        *_unfinished(table, systems),
        *_collapsed(by_system(raised, names_of(table))),
        *_contaminated(overlaps),
        *_teachers(table),
        *_thin_evidence(table, tests),
        *_dropped(provenance),
        *_mixed(provenance),
    ]


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


def _unfinished(table: pd.DataFrame, systems: Sequence[System]) -> list[str]:
    known = measured(table)
    missing = [s.label for s in systems if s.label not in known]
    if not missing:
        return []
    some = ", ".join(missing[:4]) + (" and others" if len(missing) > 4 else "")
    return [f"{len(systems) - len(missing)} of {len(systems)} runs finished; missing: {some}."]


def _collapsed(systems: Sequence[tuple[str, str]]) -> list[str]:
    found = [
        f"{who} may have collapsed, and its accuracy says little else: {why}."
        for who, why in systems[:5]
    ]
    if len(systems) > 5:
        found.append(f"{len(systems) - 5} more systems raise such an alarm, see collapse.")
    return found


def _contaminated(overlaps: pd.DataFrame | None) -> list[str]:
    if overlaps is None or overlaps.empty:
        return []
    held = overlaps.exact + overlaps.normalised
    if not held.sum():
        return []
    names = ", ".join(f"{held[b]} of {overlaps['items'][b]} on {b}" for b in held.index[held > 0])
    return [
        f"The training corpus holds test items: {names}. The section on contamination sets results "
        "on them and on clean items apart."
    ]


def _teachers(table: pd.DataFrame) -> list[str]:
    table = over_seeds(table)
    numbers = Numbers(table[(table.metric == "accuracy") & (table.benchmark == AVERAGE)])
    main = main_rows(table, "accuracy")
    found = []
    for row in main.drop_duplicates("teacher").itertuples():
        teacher = numbers.row(row.teacher, "accuracy")
        if teacher is None:
            continue
        before = numbers.row(_base_of(table, teacher.model), "accuracy")
        if teacher.kind == "teacher" and before is not None and before.value > teacher.value:
            word = "worse" if before.low > teacher.high else "not better"
            found.append(
                f"The teacher {row.teacher} is {word} after fine-tuning: {printed(teacher)}, "
                f"and {printed(before)} before."
            )
    sft = table[(table.kind == "sft") & (table.metric == "accuracy")]
    for s in sft[sft.benchmark == AVERAGE].itertuples():
        for name in main[main.student == s.student].teacher.unique():
            teacher = numbers.row(name, "accuracy")
            if teacher is not None and teacher.value <= s.value:
                found.append(
                    f"The teacher {name} ({printed(teacher)}) is no better than the SFT student "
                    f"{s.system} ({shown('accuracy', s.value)}{_mean_of(s)}): there is nothing "
                    "to distil."
                )
    return found


def _mean_of(row: Any) -> str:
    return f", mean of {row.seeds} seeds" if row.seeds > 1 else ""


def _base_of(table: pd.DataFrame, model: str) -> str:
    rows = table[(table.kind == "base") & (table.model == model)]
    return str(rows.system.iloc[0]) if len(rows) else ""


def _thin_evidence(table: pd.DataFrame, tests: Sequence[Test]) -> list[str]:
    found = []
    trained = table[table.kind == "distilled"]
    if len(trained) and trained[trained.ablation == ""].seed.nunique() == 1:
        found.append(
            "One training seed: no interval here shows how much another seed would change."
        )
    sizes = table[table.metric.isin(["accuracy", "rouge_l"]) & (table.benchmark != AVERAGE)]
    small = sizes[sizes.n < FEW_ITEMS].benchmark.unique()
    if len(small):
        names = ", ".join(sorted(small))
        found.append(f"Few items: {names} hold fewer than {FEW_ITEMS}; read their intervals.")
    return [*found, *_smallest_gain(table, tests)]


def _smallest_gain(table: pd.DataFrame, tests: Sequence[Test]) -> list[str]:
    """Say what gain of one system would be missed, from the intervals that the report gives.

    An interval reaches its quantile of t times the error; power of 80% asks for 0.84 errors more.
    """
    gains = main_rows(over_seeds(table, tests), "gain")
    if gains.empty or not graded(table):
        return []
    errors = {
        t.subject: abs(t.estimate / t.statistic)
        for t in tests
        if (t.table, t.scope) == ("student", AVERAGE) and t.statistic
    }
    half = (gains.high - gains.low) / 2
    error = gains.system.map(errors).astype(float).fillna(half / 1.96)
    smallest = points(float((half + (POWER_FACTOR - 1.96) * error).median()), sign=False)
    drawn = " and seeds" if gains.system.isin(errors).any() and (gains.seeds > 1).any() else ""
    return [
        f"A gain under about {smallest} points on the mean of benchmarks would be missed more "
        f"than one time in five with these items{drawn}."
    ]


def _dropped(provenance: Mapping[str, Any]) -> list[str]:
    corpus = provenance.get("corpus") or {}
    found = []
    lost = {k: n for k, n in (corpus.get("dropped") or {}).items() if n}
    if lost:
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in lost.items())
        read = f" of {corpus['read']:,}" if corpus.get("read") else ""
        found.append(f"{sum(lost.values()):,}{read} training rows were dropped: {reasons}.")
    if corpus.get("shortened"):
        found.append(
            f"{corpus['shortened']:,} conversations were kept up to the assistant's last message."
        )
    if corpus.get("truncated"):
        found.append(f"{corpus['truncated']:,} training rows were cut at the maximum length.")
    return found


def _mixed(provenance: Mapping[str, Any]) -> list[str]:
    versions = (provenance.get("versions") or {}).items()
    mixed = [f"{name} {several}" for name, several in versions if " and " in several]
    if not mixed:
        return []
    return [
        f"Stages were built with different versions ({', '.join(mixed)}): systems are compared "
        "that other code has made."
    ]
