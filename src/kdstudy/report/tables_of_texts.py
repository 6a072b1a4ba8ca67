"""Tables about answers and texts side by side: agreement, fidelity, tokens, ROUGE-L, Table 9."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.measures import HELD_OUT
from kdstudy.analysis.results import AVERAGE
from kdstudy.measures import MEASURES, PairMeasure
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import Cell, Sheet, items_link, number, rows_link
from kdstudy.report.views import Numbers, scope_order, shown

_TOKENS = {
    "token_top1": "Same top token",
    "token_kl_teacher_student": "KL(teacher, student)",
    "token_kl_student_teacher": "KL(student, teacher)",
    "token_cross_entropy": "Cross-entropy",
    "token_cross_entropy_teacher": "The teacher's",
    "token_ece": "Calibration error",
    "token_ece_teacher": "The teacher's error",
}
_LIKENESS = {
    "fidelity_steps": "Shared steps",
    "steps_same_answer": "Steps, same answer",
    "fidelity_rouge_l": "ROUGE-L",
    "bleu_sentence": "Sentence BLEU",
    "bleu_same_answer": "BLEU, same answer",
    "agreement_change": "Change of agreement over SFT",
    **{m.name: m.column for m in MEASURES.values() if isinstance(m, PairMeasure)},
}


def text_sheets(seeds: Seeds, examples: Sequence[Mapping[str, str]]) -> list[Sheet]:
    """Return every table about answers and texts; those without rows are empty."""
    return [
        pairs_sheet(seeds),
        likeness_sheet(seeds),
        tokens_sheet(seeds),
        instruct_sheet(seeds),
        examples_sheet(examples),
    ]


def pairs_sheet(seeds: Seeds) -> Sheet:
    """Return agreement of every compared pair with what the accuracies force, averages first."""

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        where = (r.benchmark, r.reference)
        ends = [numbers.row(r.system, f"agreement_{b}_bound", *where) for b in ("lower", "upper")]
        possible = " to ".join(shown("agreement", e.value) if e else "–" for e in ends)
        link = rows_link(system=r.system, benchmark=r.benchmark, reference=r.reference)
        return {
            "System": r.system,
            "Against": r.reference,
            "Benchmark": r.benchmark,
            "Agreement": number(r),
            "Possible": Cell(possible, link),
            "Kappa": number(numbers.row(r.system, "kappa", *where), seeds=r.seeds),
            "Where both wrong": number(
                numbers.row(r.system, "agreement_both_wrong", *where), seeds=r.seeds
            ),
        }

    note = (
        "Possible: what the two accuracies force and allow. Kappa: agreement beyond accident; – "
        "where both give one and the same answer to every item. The teacher is the reference, or "
        "the student's own SFT run (self-agreement)."
    )
    found = seeds.lines(_averages_first(seeds.means, "agreement"), line, labels=3)
    return Sheet.of("pairs", "Agreement of every compared pair", **found, note=note, labels=3)


def likeness_sheet(seeds: Seeds) -> Sheet:
    """Return how alike the texts of every compared pair are, averages first."""

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        cells = {
            name: number(
                numbers.row(r.system, metric, r.benchmark, r.reference),
                bare=metric in ("fidelity_rouge_l", "bleu_sentence"),
                seeds=r.seeds,
            )
            for metric, name in _LIKENESS.items()
        }
        labels = {"System": r.system, "Against": r.reference, "Benchmark": r.benchmark}
        return labels | {"Corpus BLEU": number(r)} | cells

    note = (
        "Shared steps: equations and statements that both texts make, in order. ROUGE-L and BLEU "
        "run from 0 to 100. Same answer: over the items on which the two agree."
    )
    title = "Fidelity of the text of every compared pair"
    found = seeds.lines(_averages_first(seeds.means, "bleu_corpus"), line, labels=3)
    return Sheet.of("likeness", title, **found, note=note, labels=3)


def tokens_sheet(seeds: Seeds) -> Sheet:
    """Return token-level fidelity on held-out text, one row per pair."""
    pairs = seeds.means[seeds.means.benchmark == HELD_OUT]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        cells = {
            name: number(
                numbers.row(r.system, metric, HELD_OUT, r.reference),
                bare="entropy" in metric or "ece" in metric,
                seeds=r.seeds,
            )
            for metric, name in _TOKENS.items()
        }
        return {"System": r.system, "Teacher": r.reference, **cells, "Texts": f"{r.n:,}"}

    note = (
        "On the corpus's validation rows; divergences and cross-entropies in nats per token, "
        "intervals over texts. Calibration error: expected calibration error of the next token."
    )
    title = "Token by token on held-out text"
    found = seeds.lines(pairs[pairs.metric == "token_top1"], line, labels=2)
    return Sheet.of("tokens", title, **found, note=note, labels=2)


def instruct_sheet(seeds: Seeds) -> Sheet:
    """Return ROUGE-L with the references, per benchmark of free texts."""
    rows = seeds.means[seeds.means.metric == "rouge_l"]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        gain = numbers.row(r.system, "rouge_l_gain", r.benchmark)
        cut = numbers.row(r.system, "truncated_rate", r.benchmark)
        return {
            "System": r.system,
            "Benchmark": r.benchmark,
            "ROUGE-L": number(r),
            "Points over SFT": number(gain, seeds=r.seeds),
            "Cut": number(cut, bare=True),
            "Items": str(r.n),
        }

    title = "Instruction following: ROUGE-L (0-100) with the closest reference"
    found = seeds.lines(rows[rows.benchmark != AVERAGE], line, labels=2)
    return Sheet.of("instruct", title, **found, labels=2)


def examples_sheet(examples: Sequence[Mapping[str, str]]) -> Sheet:
    """Return three items where answer and reasoning part company; texts are cut."""
    rows = [
        {
            "Item": Cell(
                f"{e['what']} ({e['benchmark']})", items_link(run=e["run"], kind=e["kind"])
            ),
            "Question": e["question"],
            "Gold": e["gold"],
            "Student's text": e["student"],
            "Teacher's text": e["teacher"],
            "BLEU": e["bleu"],
            "Steps": e["steps"],
        }
        for e in examples
    ]
    title = "Items where answer and reasoning part company"
    if examples:
        title += f", {examples[0]['run']} against {examples[0]['reference']}"
    return Sheet.of("table9", title, rows, labels=5)


def _averages_first(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = table[table.metric == metric]
    order = {b: i for i, b in enumerate(reversed(scope_order(rows.benchmark)))}
    return rows.sort_values("benchmark", key=lambda b: b.map(order), kind="stable")
