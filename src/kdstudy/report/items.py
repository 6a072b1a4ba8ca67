"""What the item rows say beyond the table: kept and lost items, overlaps, telling examples."""

from collections.abc import Collection, Sequence

import pandas as pd

from kdstudy.evaluation.fidelity import HIGH_BLEU, LOW_BLEU
from kdstudy.records import OVERLAPS, System

CUT = 420
"""Characters of a text in the static table; the browser and items.parquet have all."""

_ITEM = ["benchmark", "example_id", "sample"]


def against_teacher(
    items: pd.DataFrame, systems: Sequence[System], benchmarks: Collection[str]
) -> pd.DataFrame:
    """Return what each distilled run of the main grid keeps of its teacher's right answers.

    Args:
        items: Columns system, benchmark, example_id, sample, outcome.
        systems: The study's systems.
        benchmarks: Those that have right answers.

    Returns:
        Per run: system, teacher, items (with draws counted apart), and of those kept (both right),
        lost (only the teacher) and gained (only the student); most kept first.
    """
    rows = items[items.benchmark.isin(list(benchmarks))]
    rows = rows.assign(right=rows.outcome == "correct")
    wide = rows.pivot(index=_ITEM, columns="system", values="right")
    found = []
    main = [s for s in systems if s.kind == "distilled" and not s.ablation]
    for label, teacher in ((s.label, teacher) for s in main for teacher in s.teachers):
        if not {label, teacher} <= set(wide.columns):
            continue
        both = wide[[label, teacher]].dropna().astype(bool)
        own, theirs = both[label], both[teacher]
        counts = (len(both), (own & theirs).sum(), (theirs & ~own).sum(), (own & ~theirs).sum())
        found.append((label, teacher, *map(int, counts)))
    columns = ["system", "teacher", "items", "kept", "lost", "gained"]
    frame = pd.DataFrame(found, columns=columns)
    return frame.sort_values(["kept", "system"], ascending=[False, True], ignore_index=True)


def overlap_counts(items: pd.DataFrame) -> pd.DataFrame:
    """Return, per benchmark that was looked at, how many items the corpus holds and how.

    Columns: items, then one per kind of `records.OVERLAPS`.
    """
    once = items[items.overlap != ""].drop_duplicates(["benchmark", "example_id"])
    counts = pd.crosstab(once.benchmark, once.overlap).reindex(columns=OVERLAPS, fill_value=0)
    return counts.assign(items=counts.sum(axis=1))


def telling_items(
    items: pd.DataFrame, pairs: pd.DataFrame, run: str, teacher: str
) -> list[dict[str, str]]:
    """Return up to three items of one run as in the paper's Table 9.

    Two that are wrong though the text follows the teacher's (highest BLEU first), and one with the
    teacher's answer by another path (lowest BLEU). Fewer where the run has none.
    """
    both = pairs[(pairs.system == run) & (pairs.reference == teacher)]
    both = both.merge(items[items.system == run], on=[*_ITEM, "system"])
    theirs = items[items.system == teacher][[*_ITEM, "completion"]]
    both = both.merge(theirs, on=_ITEM, suffixes=("", "_teacher"))
    wrong = both[(both.outcome == "wrong") & (both.bleu >= HIGH_BLEU)]
    same = both[both.agree.astype(bool) & (both.bleu < LOW_BLEU)]
    order = ["bleu", *_ITEM]
    chosen = [("wrong, yet faithful", "wrong-faithful", r) for r in _rows(wrong, order, 2, False)]
    chosen += [("same answer, another path", "same-low", r) for r in _rows(same, order, 1, True)]
    return [
        {
            "run": run,
            "reference": teacher,
            "kind": kind,
            "what": what,
            "benchmark": r.benchmark,
            "question": _cut(r.question),
            "gold": _cut(r.gold),
            "student": _cut(r.completion),
            "teacher": _cut(r.completion_teacher),
            "bleu": f"{r.bleu:.1f}",
            "steps": "–" if pd.isna(r.steps) else f"{r.steps:.0%}",
        }
        for what, kind, r in chosen
    ]


def _rows(frame: pd.DataFrame, order: list[str], most: int, low_first: bool) -> list:
    ascending = [low_first, *[True] * len(_ITEM)]
    return list(frame.sort_values(order, ascending=ascending).head(most).itertuples())


def _cut(text: str) -> str:
    """Return a text on one line without what a table's file cannot hold, cut at `CUT`."""
    line = " ".join(str(text).replace("\x00", "\ufffd").split())
    return line if len(line) <= CUT else line[:CUT] + " …"
