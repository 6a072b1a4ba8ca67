"""Scoring: four outcomes, complete item sets, rates."""

import dataclasses
import math
import subprocess
import sys
import time

import pytest

from kdstudy.answers.extract import RULES, Rule
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks import Benchmark
from kdstudy.evaluation.score import score, summary
from kdstudy.records import OUTCOMES, Example, Generation

TOY = Benchmark(
    name="toy",
    version="1",
    kind="number",
    chance=0.0,
    examples=tuple(
        Example(id=f"id{i}", instruction=f"What is {i} + {i} in all?", answer=f"{2 * i}.0")
        for i in range(4)
    ),
)


def generation(i: int, completion: str, stop: str = "eos", sample: int = 0) -> Generation:
    return Generation(
        benchmark="toy",
        example_id=f"id{i}",
        sample=sample,
        completion=completion,
        stop=stop,
        tokens=len(completion),
    )


FOUR = [
    generation(0, "The answer is 0."),
    generation(1, "The answer is 3."),
    generation(2, "I do not know"),
    generation(3, "3 + 3 = 6 and then", stop="length"),
]


def test_every_generation_has_one_outcome() -> None:
    scores = score(FOUR, TOY, "corrected")
    assert [s.outcome for s in scores] == list(OUTCOMES)
    assert [s.extracted for s in scores] == ["0", "3", "", ""]
    assert {s.rule for s in scores} == {"number-corrected"}
    assert [s.completion for s in scores] == [g.completion for g in FOUR]
    assert [s.tokens for s in scores] == [g.tokens for g in FOUR]


def test_reference_grades_a_truncated_text_like_any_other() -> None:
    scores = score(FOUR, TOY, "reference")
    assert [s.outcome for s in scores] == ["correct", "wrong", "unparsed", "correct"]


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("3 + 3 = 6 and so", "truncated"),
        ("The answer is 6", "truncated"),
        ("The answer is 6.", "truncated"),
        ("The answer is 6. The answer", "correct"),
        ("The answer is 7. The answer", "wrong"),
        ("", "truncated"),
    ],
)
def test_corrected_needs_a_closed_statement_before_the_cut(completion: str, outcome: str) -> None:
    rows = [*FOUR[:3], generation(3, completion, stop="length")]
    assert score(rows, TOY, "corrected")[3].outcome == outcome


@pytest.mark.parametrize("rule", RULES)
def test_a_free_text_is_rated_alike_under_both_rules(rule: Rule) -> None:
    example = Example(id="id0", instruction="Greet.", references=("good morning to you",))
    free = Benchmark(name="toy", version="1", kind="text", chance=0.0, examples=(example,))

    def graded(completion: str, stop: str) -> tuple[str, float, str]:
        (found,) = score([generation(0, completion, stop)], free, rule)
        return found.outcome, found.quality, found.extracted

    assert graded("good morning to you", "eos") == ("rated", 1.0, "")
    assert graded("good morning", "eos") == ("rated", pytest.approx(2 / 3), "")
    assert graded("good morning", "length") == ("truncated", pytest.approx(2 / 3), "")
    assert graded(" ", "eos") == ("unparsed", 0.0, "")
    assert graded("", "length") == ("truncated", 0.0, "")
    report = summary(score([generation(0, "good morning")], free, rule))
    assert report == {
        "n": 1,
        "rouge_l": pytest.approx(2 / 3),
        "truncated_rate": 0.0,
        "outcomes": {"rated": 1, "unparsed": 0, "truncated": 0},
    }


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        ("the correct answer is option2. It", "correct"),
        ("the correct answer is option1. It", "wrong"),
        ("the correct answer is option2", "truncated"),
        ("option2. It", "truncated"),
    ],
)
def test_a_cut_label_needs_a_closed_statement_too(completion: str, outcome: str) -> None:
    example = Example(id="id0", instruction="Who?", answer="option2")
    labelled = Benchmark(
        name="toy",
        version="1",
        kind="choice",
        labels=("option1", "option2"),
        chance=0.5,
        examples=(example,),
    )
    (found,) = score([generation(0, completion, "length")], labelled, "corrected")
    assert found.outcome == outcome
    (whole,) = score([generation(0, completion)], labelled, "corrected")
    assert whole.outcome == ("wrong" if "option1" in completion else "correct")


def test_a_hundred_thousand_completions_take_less_than_a_minute() -> None:
    rationale = "He had {i} apples and gave {j} of them away, so {i} - {j} of them were left over. "
    text = "".join(rationale.format(i=i, j=i + 1) for i in range(7)) + "The answer is 12."
    rows = [generation(i, text, sample=k) for i in range(4) for k in range(500)]
    start = time.process_time()
    for rule in RULES:
        score(rows, TOY, rule)
    assert (time.process_time() - start) * 100_000 / len(rows) < 60


def test_order_is_the_benchmarks_whatever_the_input_order() -> None:
    rows = [dataclasses.replace(g, sample=k) for g in FOUR for k in (1, 0)]
    scores = score(iter(reversed(rows)), TOY, "corrected")
    assert [(s.example_id, s.sample) for s in scores] == [
        (e.id, k) for e in TOY.examples for k in (0, 1)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "toy: 4 of 4 generations are missing; the first is id0"),
        (FOUR[:2], "2 of 4 generations are missing; the first is id2"),
        ([*FOUR, generation(0, "1", sample=1)], "3 of 8 generations are missing"),
        ([*FOUR, FOUR[1], FOUR[2]], "2 items are repeated; the first is id1"),
        ([*FOUR, generation(9, "1")], "1 generations are not of its items; the first is id9"),
        ([dataclasses.replace(FOUR[0], benchmark="gsm8k")], "1 generations are not of its items"),
    ],
)
def test_incomplete_or_foreign_generations_are_refused(rows: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(rows, TOY, "corrected")


def test_summary_counts() -> None:
    report = summary(score(FOUR, TOY, "corrected"))
    assert report == {
        "n": 4,
        "accuracy": 0.25,
        "accuracy_completed": pytest.approx(1 / 3),
        "parse_rate": 0.5,
        "truncated_rate": 0.25,
        "outcomes": {"correct": 1, "wrong": 1, "unparsed": 1, "truncated": 1},
    }


def test_summary_of_nothing_is_nan() -> None:
    report = summary([])
    assert report["n"] == 0
    assert math.isnan(report["accuracy"])
    assert math.isnan(report["truncated_rate"])
    truncated = [s for s in score(FOUR, TOY, "corrected") if s.outcome == "truncated"]
    assert summary(truncated)["accuracy"] == 0
    assert math.isnan(summary(truncated)["accuracy_completed"])


def test_scoring_imports_no_torch() -> None:
    code = (
        "import sys; import kdstudy.evaluation.score, kdstudy.evaluation.fidelity, "
        "kdstudy.evaluation.benchmarks; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
