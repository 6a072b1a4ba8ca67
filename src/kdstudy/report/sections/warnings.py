"""What a reader must know before believing a number: a box in the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.results import AVERAGE, names_of
from kdstudy.analysis.stats import Test, points
from kdstudy.report.blocks import Listed
from kdstudy.report.data import ReportData
from kdstudy.report.sections.collapse import Alarm, alarms, by_system
from kdstudy.report.sections.contamination import overlap_counts
from kdstudy.report.seeds import Seeds
from kdstudy.report.views import graded, main_rows, measured, printed, shown

FEW_ITEMS = 200
POWER_FACTOR = 2.80
"""z(0.975) + z(0.80): standard errors that an effect needs to be found four times in five."""


def block(data: ReportData) -> Listed:
    """Return the box."""
    raised, overlaps = alarms(data), overlap_counts(data.items)
    return Listed(warnings(data, raised, overlaps), heading="Before you rely on this")


def warnings(
    data: ReportData, raised: Sequence[Alarm] = (), overlaps: pd.DataFrame | None = None
) -> list[str]:
    """Return what a reader must know before believing a number, most serious first."""
    return [
        *_unfinished(data),
        *_collapsed(by_system(raised, names_of(data.table))),
        *_contaminated(overlaps),
        *_teachers(data.seeds),
        *_thin_evidence(data),
        *_smallest_gain(data.seeds, data.tests),
        *_dropped(data.made),
        *_chosen_text(data.made, names_of(data.table)),
        *_mixed(data.made),
    ]


def _unfinished(data: ReportData) -> list[str]:
    known, planned = measured(data.table), len(data.systems)
    missing = [s.label for s in data.systems if s.label not in known]
    if not missing:
        return []
    some = ", ".join(missing[:4]) + (" and others" if len(missing) > 4 else "")
    return [f"{planned - len(missing)} of {planned} runs finished; missing: {some}."]


def _collapsed(systems: Sequence[tuple[str, str]]) -> list[str]:
    found = [
        f"{who} may have collapsed, and its accuracy says little else: {why}."
        for who, why in systems[:5]
    ]
    if len(systems) > 5:
        found.append(f"{len(systems) - 5} more systems raise such an alarm, see collapse.")
    return found


def _contaminated(overlaps: pd.DataFrame | None) -> list[str]:
    if overlaps is None or not (held := overlaps.exact + overlaps.normalised).sum():
        return []
    names = ", ".join(f"{held[b]} of {overlaps['items'][b]} on {b}" for b in held.index[held > 0])
    return [
        f"The training corpus holds test items: {names}. The section on contamination sets results "
        "on them and on clean items apart."
    ]


def _teachers(seeds: Seeds) -> list[str]:
    table, numbers = seeds.means, seeds.numbers
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


def _thin_evidence(data: ReportData) -> list[str]:
    found = []
    trained = data.table[data.table.kind == "distilled"]
    if len(trained) and trained[trained.ablation == ""].seed.nunique() == 1:
        found.append(
            "One training seed: no interval here shows how much another seed would change."
        )
    small = data.graded_rows[data.graded_rows.n < FEW_ITEMS].benchmark.unique()
    if len(small):
        names = ", ".join(sorted(small))
        found.append(f"Few items: {names} hold fewer than {FEW_ITEMS}; read their intervals.")
    return found


def _smallest_gain(seeds: Seeds, tests: Sequence[Test]) -> list[str]:
    """Say what gain of one system would be missed, from the intervals that the report gives.

    An interval reaches its quantile of t times the error; power of 80% asks for 0.84 errors more.
    """
    gains = main_rows(seeds.means, "gain")
    if gains.empty or not graded(seeds.runs):
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


def _chosen_text(provenance: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Say what runs learn that choose among a teacher's drafts."""
    found = {}
    for run in provenance.get("training") or ():
        if counts := run.get("teacher_text"):
            found[names.get(run["system"], run["system"])] = counts["all"], counts["train"]
    return [
        f"{name} learns the teacher's text of {n['teacher']:,} of {n['rows']:,} rows, the corpus's "
        f"of {n['corpus']:,} and leaves out {n['left_out']:,}: {n['with_draft']:,} rows have a "
        f"draft that is kept.{_failed(train)}"
        for name, (n, train) in found.items()
    ]


def _failed(n: Mapping[str, int]) -> str:
    """Say what became of the training rows that a student failed, where it was asked."""
    if "failed" not in n:
        return ""
    lost = n["failed"] - n["failed_with_draft"]
    return (
        f" As it started the student failed {n['failed']:,} of {n['rows']:,} training rows; "
        f"{n['teacher']:,} of these are rewritten, of {lost:,} no draft is kept."
    )


def _mixed(provenance: Mapping[str, Any]) -> list[str]:
    versions = (provenance.get("versions") or {}).items()
    mixed = [f"{name} {several}" for name, several in versions if " and " in several]
    if not mixed:
        return []
    return [
        f"Stages were built with different versions ({', '.join(mixed)}): systems are compared "
        "that other code has made."
    ]
