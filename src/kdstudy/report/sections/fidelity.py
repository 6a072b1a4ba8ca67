"""Fidelity: how alike student and teacher are in answers, texts and tokens."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from kdstudy.analysis.measures import HELD_OUT
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.stats import Test, points
from kdstudy.measures import MEASURES, PairMeasure
from kdstudy.records import parted
from kdstudy.report import dots
from kdstudy.report.blocks import Listed, Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure, colours, percent_axis, shapes
from kdstudy.report.sections import examples
from kdstudy.report.seeds import Seeds, sft_of
from kdstudy.report.sheet import Cell, Sheet, number, rows_link
from kdstudy.report.views import (
    Numbers,
    best_students,
    dots_note,
    items_note,
    lookup,
    main_rows,
    printed,
    relations,
    scope_order,
    shown,
)

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
_BARE = {"fidelity_rouge_l", "bleu_sentence"}
_BOUNDS = (
    "Two systems that are both right must agree, and where only one is right they cannot. So the "
    "two accuracies alone force some agreement and rule out some; the grey bars show what is "
    "left. Only the place of a dot inside its grey bar says anything about imitation."
)


def section(data: ReportData) -> Section:
    """Return agreement and what of it is forced, then texts, then tokens."""
    seeds = data.seeds
    note = dots_note(seeds.means)
    finding, *more = sentences(seeds, data.tests)
    agreement = dots.of_pairs(
        seeds,
        "agreement",
        name="agreement",
        title="Agreement with the teacher (filled) and with the student's own SFT run (hollow); "
        f"grey: all that the two accuracies allow ({note})",
        axis="same final answer",
        bounds=True,
        paper="Figures 3, 8 and 10",
    )
    bleu = dots.of_pairs(
        seeds,
        "bleu_corpus",
        name="fidelity",
        title="Fidelity of the text to the teacher's (filled) and to the student's own SFT run "
        f"(hollow), corpus BLEU ({note})",
        axis="corpus BLEU (0-100)",
        paper="Figures 4, 9 and 11",
    )
    steps = dots.of_pairs(
        seeds,
        "fidelity_steps",
        name="steps",
        title="Steps of reasoning shared with the teacher (filled) and with the student's own SFT "
        f"run (hollow), in order ({note})",
        axis="shared steps",
    )
    blocks = [
        Text(finding),
        Listed(more),
        Text(_BOUNDS if agreement else "", style=""),
        *(agreement, agreement_accuracy(seeds), bleu, steps),
        *(pairs_sheet(seeds), likeness_sheet(seeds), tokens_sheet(seeds), examples.sheet(data)),
    ]
    return Section("fidelity", "Fidelity", blocks)


def sentences(seeds: Seeds, tests: Sequence[Test]) -> list[str]:
    """Say how alike the best student and its teacher are, the finding first.

    Agreement and what of it the accuracies force; self-agreement; agreement where both are wrong;
    texts, also given the same answer; tokens on held-out text. What was not measured is left out.
    The best student is the one with the best mean over its seeds.
    """
    table, numbers = seeds.means, seeds.numbers
    top, whose = next(best_students(table).itertuples(), None), "its teacher's answer"
    if top and len(parted(top.teacher)) > 1:
        top = top._replace(teacher=parted(top.teacher)[0])
        whose = f"the answer of {top.teacher}, the first of its teachers,"
    after = top and numbers.row(top.system, "agreement", AVERAGE, top.teacher)
    if after is None:
        return ["0 students have been compared with their teacher on every benchmark yet."]
    sft = sft_of(table).get(top.system, "")
    before = numbers.row(sft, "agreement", AVERAGE, top.teacher)
    low, high = (
        numbers.row(top.system, f"agreement_{b}_bound", AVERAGE, top.teacher)
        for b in ("lower", "upper")
    )
    text = f"{top.system} gives {whose} on {printed(after)} of items"
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


def agreement_accuracy(seeds: Seeds) -> Figure | None:
    """Draw agreement with the teacher against accuracy, inside the mechanical bounds."""
    rows = relations(seeds.means, "agreement")
    rows = rows[~rows.hollow.astype(bool)]
    if rows.empty:
        return None
    students = list(dict.fromkeys(rows.sort_values("parameters").student))
    rows = seeds.dots(rows)
    found = lookup(seeds.runs, "accuracy") | lookup(seeds.means, "accuracy")
    rows["accuracy"] = [
        found.get(k, math.nan) for k in zip(rows.system, rows.benchmark, strict=True)
    ]
    areas = _bound_areas(rows, found)
    both = pd.concat([rows, areas.assign(part="area")])
    chart = (
        _bounded_scatter(rows, students)
        .properties(width=190, height=190)
        .facet(
            alt.Facet(
                "benchmark:N", sort=scope_order(rows.benchmark), header=alt.Header(title=None)
            ),
            columns=4,
            spacing=22,
        )
    )
    seeds_note = "; large: means over seeds, small: single seeds" if seeds.several else ""
    title = (
        "Agreement with the teacher against accuracy; grey: the region that the two accuracies "
        f"allow ({items_note(seeds.means)}{seeds_note})"
    )
    drawn = dots.figure("agreement-accuracy", title, rows, chart)
    return dataclasses.replace(drawn, data={"rows": both})


def _bounded_scatter(rows: pd.DataFrame, students: list[str]) -> alt.LayerChart:
    limits = alt.Scale(domain=[0, 1])
    legend = alt.Legend(title=None, orient="right")
    base = alt.Chart(ROWS)
    area = base.transform_filter("datum.part == 'area'").mark_area(opacity=0.12, color=INK)
    x = alt.X("accuracy:Q", scale=limits, axis=percent_axis("accuracy of the student"))
    layers = [area.encode(x=x, y="lower:Q", y2="upper:Q", detail="of_teacher:N")]
    for part, look in (("seed", {"size": 14, "opacity": 0.7}), ("mean", {"size": 62})):
        if not (rows.part == part).any():
            continue
        own = base.transform_filter(f"datum.part == '{part}'")
        layers.append(
            own.mark_point(**{"filled": True, "opacity": 0.95} | look).encode(
                x=x,
                y=alt.Y("value:Q", scale=limits, axis=percent_axis("agreement with the teacher")),
                color=alt.Color("method:N", scale=colours(rows.method), legend=legend),
                shape=alt.Shape("student:N", scale=shapes(students), legend=legend),
                description="text:N",
            )
        )
    return alt.layer(*layers)


def _bound_areas(rows: pd.DataFrame, accuracies: Mapping[tuple, float]) -> pd.DataFrame:
    """Return the region of possible agreement for every teacher and benchmark."""
    grid = np.linspace(0, 1, 41)
    parts = []
    for teacher, benchmark in sorted(set(zip(rows.of_teacher, rows.benchmark, strict=True))):
        level = accuracies.get((teacher, benchmark), math.nan)
        part = pd.DataFrame({"accuracy": np.unique([*grid, level])})
        part["lower"] = (part.accuracy + level - 1).clip(lower=0)
        part["upper"] = 1 - (part.accuracy - level).abs()
        parts.append(part.assign(of_teacher=teacher, benchmark=benchmark))
    return pd.concat(parts)


def pairs_sheet(seeds: Seeds) -> Sheet:
    """Return agreement of every compared pair with what the accuracies force, averages first."""

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        where = (r.benchmark, r.reference)
        ends = [numbers.row(r.system, f"agreement_{b}_bound", *where) for b in ("lower", "upper")]
        both_wrong = numbers.row(r.system, "agreement_both_wrong", *where)
        possible = " to ".join(shown("agreement", e.value) if e else "–" for e in ends)
        link = rows_link(system=r.system, benchmark=r.benchmark, reference=r.reference)
        return {
            "System": r.system,
            "Against": r.reference,
            "Benchmark": r.benchmark,
            "Agreement": number(r),
            "Possible": Cell(possible, link),
            "Kappa": number(numbers.row(r.system, "kappa", *where), seeds=r.seeds),
            "Where both wrong": number(both_wrong, seeds=r.seeds),
        } | {
            m.column: number(numbers.row(r.system, m.name, *where), seeds=r.seeds) for m in further
        }

    further = _of_pairs(seeds.means, options=True)
    note = (
        "Possible: what the two accuracies force and allow. Kappa: agreement beyond accident; – "
        "where both give one and the same answer to every item. The teacher is the reference, or "
        "the student's own SFT run (self-agreement)."
    )
    note = " ".join([note, *(m.note for m in further)])
    found = seeds.lines(_averages_first(seeds.means, "agreement"), line, labels=3)
    title, page = "Agreement of every compared pair", rows_link(metric="agreement")
    return Sheet.of("pairs", title, **found, note=note, labels=3, more=page)


def _of_pairs(table: pd.DataFrame, *, options: bool) -> list[PairMeasure]:
    """Return measures of two systems: those of the options of choices by likelihood, or others.

    The former only where the table has them: most studies have no such choices.
    """
    found = [m for m in MEASURES.values() if isinstance(m, PairMeasure)]
    if options:
        return [m for m in found if m.of == "options" and (table.metric == m.name).any()]
    return [m for m in found if m.of != "options"]


def likeness_sheet(seeds: Seeds) -> Sheet:
    """Return how alike the texts of every compared pair are, averages first."""

    added = {m.name: m.column for m in _of_pairs(seeds.means, options=False)}

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        found = {
            name: (numbers.row(r.system, metric, r.benchmark, r.reference), metric in _BARE)
            for metric, name in (_LIKENESS | added).items()
        }
        cells = {name: number(row, bare, r.seeds) for name, (row, bare) in found.items()}
        labels = {"System": r.system, "Against": r.reference, "Benchmark": r.benchmark}
        return labels | {"Corpus BLEU": number(r)} | cells

    note = (
        "Shared steps: equations and statements that both texts make, in order. ROUGE-L and BLEU "
        "run from 0 to 100. Same answer: over the items on which the two agree."
    )
    title = "Fidelity of the text of every compared pair"
    found = seeds.lines(_averages_first(seeds.means, "bleu_corpus"), line, labels=3)
    page = rows_link(metric="bleu_corpus")
    return Sheet.of("likeness", title, **found, note=note, labels=3, more=page)


def tokens_sheet(seeds: Seeds) -> Sheet:
    """Return token-level fidelity on held-out text, one row per pair."""
    pairs = seeds.means[seeds.means.benchmark == HELD_OUT]

    def line(r: Any, numbers: Numbers) -> dict[str, Any]:
        rows = {m: numbers.row(r.system, m, HELD_OUT, r.reference) for m in _TOKENS}
        cells = {
            name: number(rows[m], bare="entropy" in m or "ece" in m, seeds=r.seeds)
            for m, name in _TOKENS.items()
        }
        return {"System": r.system, "Teacher": r.reference, **cells, "Texts": f"{r.n:,}"}

    note = (
        "On the corpus's validation rows; divergences and cross-entropies in nats per token, "
        "intervals over texts. Calibration error: expected calibration error of the next token."
    )
    title = "Token by token on held-out text"
    found = seeds.lines(pairs[pairs.metric == "token_top1"], line, labels=2)
    return Sheet.of("tokens", title, **found, note=note, labels=2)


def _averages_first(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = table[table.metric == metric]
    order = {b: i for i, b in enumerate(reversed(scope_order(rows.benchmark)))}
    return rows.sort_values("benchmark", key=lambda b: b.map(order), kind="stable")
