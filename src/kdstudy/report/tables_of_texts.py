"""Tables about answers and texts side by side: agreement, fidelity, tokens, ROUGE-L, Table 9."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdstudy.analyze.measures import HELD_OUT
from kdstudy.analyze.results import AVERAGE
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
}


def text_sheets(
    table: pd.DataFrame, numbers: Numbers, examples: Sequence[Mapping[str, str]]
) -> list[Sheet]:
    """Return every table about answers and texts; those without rows are empty."""
    return [
        pairs_sheet(table, numbers),
        likeness_sheet(table, numbers),
        tokens_sheet(table, numbers),
        instruct_sheet(table, numbers),
        examples_sheet(examples),
    ]


def pairs_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return agreement of every compared pair with what the accuracies force, averages first."""
    rows = []
    for r in _averages_first(table[table.metric == "agreement"]).itertuples():
        where = (r.benchmark, r.reference)
        ends = [numbers.row(r.system, f"agreement_{b}_bound", *where) for b in ("lower", "upper")]
        possible = " to ".join(shown("agreement", e.value) if e else "–" for e in ends)
        link = rows_link(system=r.system, benchmark=r.benchmark, reference=r.reference)
        rows.append(
            {
                "System": r.system,
                "Against": r.reference,
                "Benchmark": r.benchmark,
                "Agreement": number(r),
                "Possible": Cell(possible, link),
                "Kappa": number(numbers.row(r.system, "kappa", *where)),
                "Where both wrong": number(numbers.row(r.system, "agreement_both_wrong", *where)),
            }
        )
    note = (
        "Possible: what the two accuracies force and allow. Kappa: agreement beyond accident. The "
        "teacher is the reference, or the student's own SFT run (self-agreement)."
    )
    return Sheet.of("pairs", "Agreement of every compared pair", rows, note=note, labels=3)


def likeness_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return how alike the texts of every compared pair are, averages first."""
    rows = [
        {
            "System": r.system,
            "Against": r.reference,
            "Benchmark": r.benchmark,
            "Corpus BLEU": number(r),
            **{
                name: number(
                    numbers.row(r.system, metric, r.benchmark, r.reference),
                    bare=metric in ("fidelity_rouge_l", "bleu_sentence"),
                )
                for metric, name in _LIKENESS.items()
            },
        }
        for r in _averages_first(table[table.metric == "bleu_corpus"]).itertuples()
    ]
    note = (
        "Shared steps: equations and statements that both texts make, in order. ROUGE-L and BLEU "
        "run from 0 to 100. Same answer: over the items on which the two agree."
    )
    title = "Fidelity of the text of every compared pair"
    return Sheet.of("likeness", title, rows, note=note, labels=3)


def tokens_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return token-level fidelity on held-out text, one row per pair."""
    pairs = table[(table.benchmark == HELD_OUT) & (table.metric == "token_top1")]
    rows = [
        {
            "System": r.system,
            "Teacher": r.reference,
            **{
                name: number(
                    numbers.row(r.system, metric, HELD_OUT, r.reference),
                    bare="entropy" in metric or "ece" in metric,
                )
                for metric, name in _TOKENS.items()
            },
            "Texts": f"{r.n:,}",
        }
        for r in pairs.itertuples()
    ]
    note = (
        "On the corpus's validation rows; divergences and cross-entropies in nats per token, "
        "intervals over texts. Calibration error: expected calibration error of the next token."
    )
    title = "Token by token on held-out text"
    return Sheet.of("tokens", title, rows, note=note, labels=2)


def instruct_sheet(table: pd.DataFrame, numbers: Numbers) -> Sheet:
    """Return ROUGE-L with the references, per benchmark of free texts."""
    rows = []
    for r in table[(table.metric == "rouge_l") & (table.benchmark != AVERAGE)].itertuples():
        gain = numbers.row(r.system, "rouge_l_gain", r.benchmark)
        row = {"System": r.system, "Benchmark": r.benchmark, "ROUGE-L": number(r)}
        cut = numbers.row(r.system, "truncated_rate", r.benchmark)
        more = {"Points over SFT": number(gain), "Cut": number(cut, bare=True), "Items": str(r.n)}
        rows.append(row | more)
    title = "Instruction following: ROUGE-L (0-100) with the closest reference"
    return Sheet.of("instruct", title, rows, labels=2)


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


def _averages_first(rows: pd.DataFrame) -> pd.DataFrame:
    order = {b: i for i, b in enumerate(reversed(scope_order(rows.benchmark)))}
    return rows.sort_values("benchmark", key=lambda b: b.map(order), kind="stable")
