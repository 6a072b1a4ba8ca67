"""Items where answer and reasoning part company, as in the paper's Table 9."""

import pandas as pd

from kdstudy.evaluation.fidelity import HIGH_BLEU, LOW_BLEU
from kdstudy.report.data import ReportData
from kdstudy.report.sheet import Cell, Sheet, items_link

CUT = 420
"""Characters of a text in the static table; the browser and items.parquet have all."""

_ITEM = ["benchmark", "example_id", "sample"]


def sheet(data: ReportData) -> Sheet:
    """Return three items of the run shown first; texts are cut."""
    run, teacher = data.first
    found = telling_items(data.items, data.pairs, run, teacher) if run else []
    rows = [
        {
            "Item": Cell(f"{e['what']} ({e['benchmark']})", items_link(run=run, kind=e["kind"])),
            "Question": e["question"],
            "Gold": e["gold"],
            "Student's text": e["student"],
            "Teacher's text": e["teacher"],
            "BLEU": e["bleu"],
            "Steps": e["steps"],
        }
        for e in found
    ]
    title = f"Items where answer and reasoning part company, {run} against {teacher}"
    return Sheet.of("table9", title, rows, labels=5, paper="Table 9", style="texts-table")


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
