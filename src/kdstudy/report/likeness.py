"""The report's sentences on how alike student and teacher are: in answers, texts and tokens."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.measures import HELD_OUT
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, points
from kdstudy.report.findings import best
from kdstudy.report.seeds import over_seeds, sft_of
from kdstudy.report.views import Numbers, main_rows, printed, shown


def fidelity(table: pd.DataFrame, tests: Sequence[Test]) -> list[str]:
    """Say how alike the best student and its teacher are, the finding first.

    Agreement and what of it the accuracies force; self-agreement; agreement where both are wrong;
    texts, also given the same answer; tokens on held-out text. What was not measured is left out.
    The best student is the one with the best mean over its seeds.
    """
    table = over_seeds(table)
    top, numbers = best(table), Numbers(table)
    after = None if top is None else numbers.row(top.system, "agreement", AVERAGE, top.teacher)
    if after is None:
        return ["0 students have been compared with their teacher on every benchmark yet."]
    sft = sft_of(table).get(top.system, "")
    before = numbers.row(sft, "agreement", AVERAGE, top.teacher)
    low, high = (
        numbers.row(top.system, f"agreement_{b}_bound", AVERAGE, top.teacher)
        for b in ("lower", "upper")
    )
    text = f"{top.system} gives its teacher's answer on {printed(after)} of items"
    if before is not None:
        text += f", its SFT run did on {printed(before)}"
    if low is not None and high is not None:
        text += f"; its accuracy alone forces {100 * low.value:.0f}% and allows "
        text += f"{100 * high.value:.0f}%"
    forced = [t.sentence for t in tests if t.table == "bounds" and t.scope == AVERAGE]
    found = [
        text + ".",
        *forced,
        _unlike(tests),
        _change(table),
        _itself(numbers, top, sft),
        _both_wrong(numbers, top),
        _texts(numbers, top, sft),
        _tokens(numbers, top),
    ]
    return [sentence for sentence in found if sentence]


def _unlike(tests: Sequence[Test]) -> str:
    """Name two systems that score alike and are furthest apart in fidelity, where any are."""
    found = [t for t in tests if t.table == "unlike"]
    apart = [t for t in found if t.p_adjusted < 0.05]
    if not apart:
        return ""
    alike, told = len({t.subject for t in found}), len({t.subject for t in apart})
    many = f"{alike} pair" + (" of systems is" if alike == 1 else "s of systems are")
    return (
        "Accuracy does not tell fidelity: "
        f"{max(apart, key=lambda t: abs(t.statistic)).sentence} "
        f"{many} alike in accuracy, of which {told} differ{'s' * (told == 1)} in fidelity."
    )


def _change(table: pd.DataFrame) -> str:
    rows = main_rows(table, "agreement_change").dropna(subset="value")
    if rows.empty:
        return ""
    up, down = int((rows.low > 0).sum()), int((rows.high < 0).sum())
    unit = "systems, their seeds averaged," if (rows.seeds > 1).any() else "runs,"
    return (
        f"From SFT to distilled, agreement with the teacher changes by "
        f"{points(rows.value.mean())} points on average: it rises in {up} of {len(rows)} {unit} "
        f"falls in {down}, and cannot be told in {len(rows) - up - down}."
    )


def _itself(numbers: Numbers, top: Any, sft: str) -> str:
    own = numbers.row(top.system, "agreement", AVERAGE, sft)
    return f"With its own SFT run it agrees on {printed(own)} of items." if sft and own else ""


def _both_wrong(numbers: Numbers, top: Any) -> str:
    row = numbers.row(top.system, "agreement_both_wrong", AVERAGE, top.teacher)
    if row is None:
        return ""
    return (
        f"Where both are wrong, where nothing forces them to agree, they give the same wrong "
        f"answer on {printed(row)} of items."
    )


def _texts(numbers: Numbers, top: Any, sft: str) -> str:
    def row(metric: str, system: str = top.system) -> Any | None:
        return numbers.row(system, metric, AVERAGE, top.teacher)

    bleu, old = row("bleu_corpus"), row("bleu_corpus", sft)
    if bleu is None:
        return ""
    text = f"Corpus BLEU with the teacher's text is {printed(bleu)}"
    text += f" (SFT: {printed(old)})" if old is not None else ""
    steps = row("fidelity_steps")
    text += f", and {printed(steps)} of steps are shared" if steps is not None else ""
    same_bleu, same_steps = row("bleu_same_answer"), row("steps_same_answer")
    if same_bleu is not None:
        text += f"; given the same answer, mean sentence BLEU is {printed(same_bleu)}"
        text += f" and {printed(same_steps)} of steps are shared" if same_steps is not None else ""
    return text + "."


def _tokens(numbers: Numbers, top: Any) -> str:
    def row(metric: str) -> Any | None:
        return numbers.row(top.system, f"token_{metric}", HELD_OUT, top.teacher)

    first, there, back = row("top1"), row("kl_teacher_student"), row("kl_student_teacher")
    if first is None or there is None or back is None:
        return ""
    text = (
        f"Token by token on {first.n:,} held-out texts, the two rank the same token first at "
        f"{printed(first)} of places; KL(teacher, student) is {printed(there)} nats and "
        f"KL(student, teacher) {printed(back)}"
    )
    own, theirs = row("ece"), row("ece_teacher")
    if own is not None and theirs is not None and not math.isnan(own.low):
        text += (
            f". The student's probabilities are off by {printed(own)} on average (expected "
            f"calibration error), the teacher's by {shown(theirs.metric, theirs.value)}"
        )
    return text + "."
