"""Synthetic word problems: true arithmetic, honest answers, disjoint splits, fixed draws."""

import ast
import hashlib
import json
import operator
import re
from collections import Counter
from fractions import Fraction

import pytest

from kdstudy.data import synthetic
from kdstudy.data.synthetic import (
    BENCHMARKS,
    PRETRAIN_STYLES,
    SPLITS,
    STUDY_STYLE,
    benchmark_rows,
    corpus_rows,
    number_text,
    problems,
    split_of,
    take,
)
from kdstudy.data.synthetic_wording import plural, singular, templates, words

NUMBER = r"\d+(?:\.\d+)?"
EQUATION = re.compile(rf"({NUMBER}) ?([-+*/]) ?({NUMBER}) ?= ?({NUMBER})")
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
# Numbers that the wording of a template stands for: half, four boxes, a week, a dozen.
WORDED = {Fraction(value) for value in (2, 4, 7, 12)}


def equations(text):
    return [
        (Fraction(left), op, Fraction(right), Fraction(result))
        for left, op, right, result in EQUATION.findall(text)
    ]


def numbers(text):
    return [Fraction(n) for n in re.findall(NUMBER, re.sub(r"(?<=\d),(?=\d{3})", "", text))]


def evaluate(node):
    """Exact value of a parsed arithmetic expression."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    left, right = evaluate(node.left), evaluate(node.right)
    name = type(node.op).__name__
    symbol = {"Add": "+", "Sub": "-", "Mult": "*", "Div": "/"}[name]
    return OPERATORS[symbol](left, right)


@pytest.fixture(scope="module")
def sample():
    styles = (STUDY_STYLE, *PRETRAIN_STYLES)
    # The small splits reject nine draws of ten, so they get fewer.
    sizes = zip(SPLITS, (2400, 300, 300), strict=True)
    return {split: take(problems(split, 5, style=styles, invented=0.1), n) for split, n in sizes}


@pytest.fixture(scope="module")
def everything(sample):
    return [problem for split in SPLITS for problem in sample[split]]


def test_every_equation_is_true_and_every_step_is_shown(everything):
    for problem in everything:
        steps = equations(problem.rationale)
        assert len(steps) == problem.operations, problem
        for left, op, right, result in steps:
            assert OPERATORS[op](left, right) == result, problem


def test_the_stated_answer_is_the_last_result(everything):
    for problem in everything:
        assert numbers(problem.rationale)[-1] == Fraction(problem.answer), problem
        assert equations(problem.rationale)[-1][3] == Fraction(problem.answer), problem


def test_whole_expressions_agree_with_the_steps():
    for problem in take(problems("pretrain", 2, style="expression"), 800):
        text = re.match(r"We need ([-+*/(). \d]+)\. ", problem.rationale)[1]
        value = evaluate(ast.parse(text, mode="eval").body)
        assert value == Fraction(problem.answer), problem


def test_solutions_use_only_numbers_the_question_gives(everything):
    for problem in everything:
        known = set(numbers(problem.question)) | WORDED
        for left, _, right, result in equations(problem.rationale):
            assert {left, right} <= known, problem
            known.add(result)


def test_extra_problems_hold_a_number_that_is_not_needed():
    keep = BENCHMARKS["synth_svamp"].keep
    for problem in take(problems("pretrain", 3, keep=keep, extra=1.0), 800):
        steps = equations(problem.rationale)
        results = {result for *_, result in steps}
        needed = [v for left, _, right, _ in steps for v in (left, right) if v not in results]
        given = Counter(numbers(problem.question))
        assert sum(given.values()) > len(Counter(needed)) or given - Counter(needed), problem
        assert problem.kind.startswith("extra_") or problem.kind.endswith("+extra")


def test_texts_are_fully_written_out(everything):
    for problem in everything:
        text = problem.question + problem.rationale
        assert not re.search(r"[{}\[\]|_]|\bNone\b", text), problem
        assert problem.question.count("?") == 1
        assert problem.question.strip().endswith("?")


def test_splits_never_share_a_question(sample):
    seen = {}
    for split in SPLITS:
        seen[split] = {" ".join(p.question.lower().split()) for p in sample[split]}
        assert len(seen[split]) == len(sample[split]), "questions repeat within a split"
    assert not seen["pretrain"] & seen["train"]
    assert not seen["pretrain"] & seen["test"]
    assert not seen["train"] & seen["test"]
    assert all(split_of(p.question) == split for split in SPLITS for p in sample[split])


def test_split_ignores_case_and_white_space_and_has_the_right_shares():
    assert split_of("How  many\napples ? ") == split_of("how many APPLES ?")
    shares = Counter(split_of(f"question {i}") for i in range(4000))
    assert 0.77 < shares["pretrain"] / 4000 < 0.83
    assert 0.08 < shares["train"] / 4000 < 0.12
    assert 0.08 < shares["test"] / 4000 < 0.12


def test_equal_seeds_give_equal_problems_and_other_seeds_others():
    assert take(problems("train", 7), 60) == take(problems("train", 7), 60)
    assert take(problems("train", 7), 60) != take(problems("train", 8), 60)
    assert corpus_rows(30, 1) == corpus_rows(60, 1)[:30]


def test_the_draw_is_the_same_everywhere():
    rows = corpus_rows(60, seed=1) + benchmark_rows("synth_svamp", 40, seed=1)
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest == "beb2de7456936465ae1311c42d8a2dbeb7bf0c8643bdd6151f5777a83f8d7688"


def test_templates_are_many_and_all_of_them_are_used(everything):
    kinds = [template.kind for template in templates()]
    assert len(kinds) == len(set(kinds)) >= 60
    steps = Counter(len(template.steps) for template in templates())
    assert min(steps[1], steps[2], steps[3]) >= 10
    assert {problem.kind.removesuffix("+extra") for problem in everything} == set(kinds)
    assert {op for template in templates() for op in template.operators} == set("+-*/")


def test_word_lists_are_broad():
    lists = words()
    assert len(set(lists["she"]) | set(lists["he"])) >= 200
    objects = set().union(*(lists[n] for n in ("things", "food", "clothes", "animals", "plants")))
    assert len(objects) >= 300
    assert (plural("leaf/leaves"), singular("leaf/leaves")) == ("leaves", "leaf")
    assert [plural(n) for n in ("box", "cherry", "key")] == ["boxes", "cherries", "keys"]


@pytest.fixture(scope="module")
def benchmarks():
    return {name: benchmark_rows(name) for name in BENCHMARKS}


@pytest.fixture(scope="module")
def corpus():
    return corpus_rows(500)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_have_their_rows_and_stay_out_of_the_corpus(name, benchmarks, corpus):
    rows = benchmarks[name]
    assert len(rows) == len({row["instruction"] for row in rows}) == 300
    trained = {synthetic.normalise(row["instruction"]) for row in corpus}
    for row in rows:
        assert list(row) == ["instruction", "input", "output", "answer"]
        assert row["input"] == ""
        assert float(row["answer"]) == float(numbers(row["output"])[-1])
        assert synthetic.normalise(row["instruction"]) not in trained
        assert split_of(row["instruction"]) == "test"


def test_benchmarks_ask_what_they_say(benchmarks):
    steps = {name: [equations(row["output"]) for row in rows] for name, rows in benchmarks.items()}
    assert {len(s) for s in steps["synth_addsub"]} == {1}
    assert {s[0][1] for s in steps["synth_addsub"]} == {"+", "-"}
    assert {len(s) for s in steps["synth_multiarith"]} == {2}
    assert {op for s in steps["synth_multiarith"] for _, op, _, _ in s} == set("+-*/")
    assert {len(s) for s in steps["synth_svamp"]} == {1, 2}
    assert {len(s) for s in steps["synth_threestep"]} == {3}


def test_the_corpus_mixes_steps_in_the_one_study_style(corpus):
    assert {len(equations(row["output"])) for row in corpus} == {1, 2, 3}
    for row in corpus:
        assert row["output"].startswith("Work out ")
        assert row["output"].endswith(f" The answer is {row['answer']}.")


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [(12, 1, "12"), (1250, 1000, "1.25"), (3000, 1000, "3"), (-75, 100, "-0.75"), (5, 10, "0.5")],
)
def test_number_text(value, scale, text):
    assert number_text(value, scale) == text


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="unknown split"):
        next(problems("dev", 0))
    with pytest.raises(ValueError, match="fancy"):
        next(problems("train", 0, style="fancy"))
    with pytest.raises(ValueError, match="no template"):
        next(problems("train", 0, keep=lambda template: False))
    with pytest.raises(KeyError):
        benchmark_rows("synth_geometry")
