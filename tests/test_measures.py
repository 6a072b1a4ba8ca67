"""Rows of the results table against sums done by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.measures import HELD_OUT, token_rows
from kdstudy.analysis.results import AVERAGE, collect
from kdstudy.evaluation.fidelity import pair
from kdstudy.records import Score, System

SYSTEMS = [
    System(label="t", kind="teacher", model="big", method="sft"),
    System(label="s/sft", kind="sft", model="small", method="sft"),
    System(label="s/kd", kind="distilled", model="small", teachers=("t",), method="word_kd"),
]
GOLD = "12"
# Answers to items a, b, c, d; the corpus holds a as it is, b but for case, c with other numbers.
ANSWERS = {
    "t": ["12", "12", "5", "12"],
    "s/sft": ["12", "5", "5", "8"],
    "s/kd": ["12", "12", "6", "12"],
}
OVERLAPS = {"math": dict(zip("abcd", ("exact", "normalised", "masked", "none"), strict=True))}
QUALITY = {"t": [0.9, 0.5], "s/sft": [0.2, 0.4], "s/kd": [0.5, 0.3]}


def answer(item, extracted):
    right = extracted == GOLD
    return Score(
        benchmark="math",
        example_id=item,
        sample=0,
        completion=f"6 + 6 = {extracted}. The answer is {extracted}.",
        extracted=extracted,
        rule="number-corrected",
        outcome="correct" if right else "wrong",
        quality=float(right),
        tokens=9,
    )


def text(item, draw, quality):
    return Score(
        benchmark="follow",
        example_id=item,
        sample=draw,
        completion="some words here",
        extracted="",
        rule="text-rouge_l",
        outcome="rated",
        quality=quality,
        tokens=3,
    )


@pytest.fixture(scope="module")
def table():
    scores = {
        label: [answer(i, a) for i, a in zip("abcd", answers, strict=True)]
        + [
            text(i, draw, q + draw / 10)
            for i, q in zip("xy", QUALITY[label], strict=True)
            for draw in (0, 1)
        ]
        for label, answers in ANSWERS.items()
    }
    pairs = {
        (a, b): pair(scores[a], scores[b])
        for a, b in (("s/sft", "t"), ("s/kd", "t"), ("s/kd", "s/sft"))
    }
    return collect(
        SYSTEMS, scores, pairs, {"big": 9, "small": 1}, "x",
        overlaps=OVERLAPS, bootstrap=Bootstrap(resamples=50),
    )  # fmt: skip


def value(table, metric, benchmark="math", system="s/kd", reference=None):
    rows = table[(table.metric == metric) & (table.benchmark == benchmark)]
    rows = rows[rows.system == system]
    if reference is not None:
        rows = rows[rows.reference == reference]
    (row,) = rows.itertuples()
    return row.value, row.n


def test_items_that_the_corpus_holds_are_counted_apart(table):
    assert value(table, "accuracy") == (0.75, 4)
    assert value(table, "accuracy_contaminated") == (1.0, 2)  # a and b
    assert value(table, "accuracy_renumbered") == (0.0, 1)  # c
    assert value(table, "accuracy_clean") == (1.0, 1)  # d
    assert value(table, "gain_contaminated") == (0.5, 2)
    assert value(table, "gain_clean") == (1.0, 1)


def test_free_texts_have_quality_and_no_accuracy(table):
    assert value(table, "rouge_l", "follow")[0] == pytest.approx((0.55 + 0.35) / 2)
    assert value(table, "rouge_l_gain", "follow")[0] == pytest.approx((0.3 - 0.1) / 2)
    metrics = set(table[table.benchmark == "follow"].metric)
    assert not metrics & {"accuracy", "gain", "agreement", "kappa", "agreement_change"}
    # Means are over answers, ROUGE-L's over texts.
    assert value(table, "accuracy", AVERAGE) == (0.75, 4)
    assert value(table, "rouge_l", AVERAGE)[0] == pytest.approx(0.45)


def test_agreement_moves_and_steps_are_read_where_the_answers_agree(table):
    # SFT gives the teacher's answer on a and c, the distilled student on a, b and d.
    assert value(table, "agreement", reference="t")[0] == 0.75
    assert value(table, "agreement_change", reference="t") == (0.25, 4)
    assert value(table, "steps_same_answer", reference="t") == (1.0, 3)
    assert value(table, "fidelity_steps", reference="t") == (0.75, 4)


def test_tokens_are_sums_over_sums_and_rows_are_what_is_drawn():
    frame = pd.DataFrame(
        {
            "tokens": [10, 30],
            "agree": [10, 15],
            "kl_teacher_student": [1.0, 9.0],
            "kl_student_teacher": [2.0, 2.0],
            "ce_teacher": [4.0, 4.0],
            "ce_student": [8.0, 12.0],
            "teacher_confidence": [(0.0, 9.0), (6.0, 20.0)],
            "teacher_hits": [(0, 9), (6, 20)],
            "student_confidence": [(2.0, 4.0), (6.0, 16.0)],
            "student_hits": [(1, 4), (3, 20)],
        }
    )
    rows = {r["metric"]: r for r in token_rows(frame, Bootstrap(resamples=400))}
    assert {r["benchmark"] for r in rows.values()} == {HELD_OUT}
    expected = {
        "token_top1": 25 / 40,
        "token_kl_teacher_student": 10 / 40,
        "token_kl_student_teacher": 4 / 40,
        "token_cross_entropy": 20 / 40,
        "token_cross_entropy_teacher": 8 / 40,
        "token_ece": (abs(8 - 4) + abs(20 - 24)) / 40,
        "token_ece_teacher": 0.0,
    }
    assert {m: r["value"] for m, r in rows.items()} == pytest.approx(expected)
    # Two rows: half of the draws hold both, a quarter the first twice, a quarter the second twice.
    assert (rows["token_top1"]["low"], rows["token_top1"]["high"]) == (0.5, 1.0)
    assert rows["token_top1"]["n"] == 2


def test_one_row_of_tokens_has_no_interval():
    sums = dict.fromkeys(
        ("kl_teacher_student", "kl_student_teacher", "ce_teacher", "ce_student"), 1.0
    )
    bins = {f"{m}_{p}": [(1.0,)] for m in ("teacher", "student") for p in ("confidence", "hits")}
    frame = pd.DataFrame({"tokens": [4], "agree": [2], **{k: [v] for k, v in sums.items()}, **bins})
    row = next(r for r in token_rows(frame, Bootstrap(resamples=20)) if r["metric"] == "token_top1")
    assert row["value"] == 0.5 and math.isnan(row["low"]) and np.isnan(row["high"])
