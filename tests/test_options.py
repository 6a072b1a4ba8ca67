"""Words of choice by likelihood, by hand; tests/test_harness.py holds them to the harness."""

import pytest

from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.options import asked


def only(row, *, name="mine", labels=(), scoring="likelihood"):
    benchmark = from_rows(name, [row], "choice", labels=labels)
    grader = chosen(scoring, name, "choice", tuple(labels))
    return grader.options(benchmark.examples[0], benchmark)


def test_options_of_a_file_of_ones_own_are_put_as_arcs() -> None:
    found = only({"question": "Which is a metal?", "options": ["wood", "iron"], "answer": "iron"})
    assert [o.label for o in found] == ["A", "B"]
    assert {o.context for o in found} == {"Question: Which is a metal?\nAnswer:"}
    assert [o.continuation for o in found] == [" wood", " iron"]
    assert [o.text for o in found] == ["wood", "iron"]


def test_a_context_stands_before_its_question() -> None:
    row = {"question": "Is it hot?", "context": "The sun shines.", "answer": "yes"}
    found = only(row, labels=("yes", "no"))
    assert {o.context for o in found} == {"The sun shines.\nQuestion: Is it hot?\nAnswer:"}
    assert [(o.label, o.continuation) for o in found] == [("yes", " yes"), ("no", " no")]
    row = {"question": "Which?", "context": "Two.", "choices": ["1 {x}", "2"], "answer": "B"}
    found = only(row)
    assert {o.context for o in found} == {"Two.\nQuestion: Which?\nAnswer:"}
    assert [o.continuation for o in found] == [" 1 {x}", " 2"]


def test_an_item_that_offers_some_labels_has_these_alone() -> None:
    labels = tuple(f"answer{n}" for n in range(1, 6))
    question = "Why?\n\nAnswer1: a: b Answer2: the answer2\n\nAnswer format: answer1/answer2"
    found = only({"question": question, "answer": "answer2"}, labels=labels)
    assert [(o.label, o.text) for o in found] == [("answer1", "a: b"), ("answer2", "the answer2")]
    row = {"question": "Is it?\n\nAnswer format: true/false", "answer": "true"}
    assert [o.label for o in only(row, labels=("true", "false", "maybe"))] == ["true", "false"]


def test_aqua_and_boolq_by_hand() -> None:
    row = {"question": "2 + 2? Answer Choices: (A) 3 (B) 4", "answer": "B"}
    found = only(row, name="aqua")
    context = f"Q: {row['question']}\nA: Among A through E, the answer is"
    assert [(o.context, o.continuation) for o in found] == [
        (context, " (A) 3"),
        (context, " (B) 4"),
    ]
    lead = "Please answer the following question with true or false, question: "
    row = {"question": f"{lead}is it?\n\nAnswer format: true/false", "answer": "true"}
    found = only(row, name="boolq", labels=("true", "false"))
    assert [(o.label, o.context, o.continuation) for o in found] == [
        ("true", "Question: is it?\nAnswer:", " yes"),
        ("false", "Question: is it?\nAnswer:", " no"),
    ]


def test_a_set_of_ones_own_can_fill_blanks_as_winogrande_does() -> None:
    row = {"question": "Ann met Eve so _ sang.", "options": ["Ann", "Eve"], "answer": "A"}
    found = only(row, scoring={"type": "likelihood", "wording": "winogrande"})
    assert [(o.context, o.continuation) for o in found] == [
        ("Ann met Eve so Ann", " sang."),
        ("Ann met Eve so Eve", " sang."),
    ]
    with pytest.raises(InputError, match=r"has no blank \(_\) with text behind it"):
        only(
            {**row, "question": "Who sang?"},
            scoring={"type": "likelihood", "wording": "winogrande"},
        )
    with pytest.raises(InputError, match="there is no wording 'wino'"):
        chosen({"type": "likelihood", "wording": "wino"}, "mine", "choice", ())


def test_hellaswags_last_part_is_put_in_sentence_case() -> None:
    lead = "Please choose the correct ending to complete the given sentence: "
    ends = "Ending1: goes. Ending2: [step] sits.\n\nAnswer format: ending1/ending2"
    labels = ("ending1", "ending2")

    def context(text):
        row = {"question": f"{lead}{text}\n\n{ends}", "answer": "ending1"}
        found = only(row, name="hellaswag", labels=labels)
        assert [o.text for o in found] == ["goes.", " sits."]
        return found[0].context

    assert context("Sport: A man runs. he") == "Sport: A man runs. He"
    assert context("Cars [title] Stop. [step] Look first.") == "Cars. Stop. Look first."


def test_options_that_the_question_does_not_list_are_refused() -> None:
    row = {"question": "Which option?", "answer": "option1"}
    with pytest.raises(InputError, match=r"the options that its question lists are \(none\)"):
        only(row, labels=("option1", "option2"))


def test_wordings_are_those_of_the_set_whatever_its_file_puts_before() -> None:
    benchmark = from_rows(
        "arc_e",
        [{"question": "Why? Answer1: x Answer2: y Answer format: answer1/answer2",
          "answer": "answer1"}],
        "choice", labels=("answer1", "answer2"),
    )  # fmt: skip
    assert asked(benchmark, benchmark.examples[0])[0].context == "Question: Why?\nAnswer:"
