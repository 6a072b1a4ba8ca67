"""The registry of graders: which grades what, what is refused, and a grader from a package."""

from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from kdstudy import plugins
from kdstudy.errors import InputError
from kdstudy.evaluation import graders
from kdstudy.evaluation.benchmarks import Benchmark, from_rows
from kdstudy.evaluation.graders import GRADERS, Reader, chosen, usual
from kdstudy.evaluation.score import score
from kdstudy.records import Generation

NUMBERS = from_rows("mine", [{"question": "2 / 3?", "answer": "0.6666666666666666"}], "number")
LETTERS = from_rows(
    "mine", [{"question": "Which? Answer Choices: (A) 3 (B) 4", "answer": "B"}], "choice"
)
LABELS = from_rows(
    "mine", [{"question": "Is 2 even?", "answer": "yes"}], "choice", labels=("yes", "no")
)
TEXTS = from_rows(
    "mine", [{"question": "Which animal?", "references": ["the grey cat", "a brown dog"]}], "text"
)


def graded(benchmark: Benchmark, completion: str, rule="corrected", **settings):
    (example,) = benchmark.examples
    row = Generation(
        benchmark="mine",
        example_id=example.id,
        sample=0,
        completion=completion,
        stop="eos",
        tokens=1,
    )
    (found,) = score([row], benchmark, rule, **settings)
    return found


@pytest.mark.parametrize(
    ("benchmark", "type_", "rule"),
    [
        (NUMBERS, "number", "number-corrected"),
        (LETTERS, "letter", "choice-corrected"),
        (LABELS, "label", "choice-corrected"),
        (TEXTS, "text", "text-rouge_l"),
    ],
)
def test_every_kind_of_answer_has_its_usual_grader(benchmark, type_, rule) -> None:
    grader = usual(benchmark.kind, benchmark.labels)
    assert grader.type == type_
    assert graded(benchmark, "A guess").rule == rule
    fits = [name for name, cls in GRADERS.items() if cls.fits(benchmark.kind, benchmark.labels)]
    published = {"number": {"strict", "flexible"}, "letter": {"harness"}}.get(type_, set())
    assert {n for n in fits if GRADERS[n].needs == "text"} == {type_} | published


def test_grading_follows_the_rule() -> None:
    text = "The answer is 0.67. It is 3."
    found = [graded(NUMBERS, text, rule) for rule in ("corrected", "reference")]
    assert [(s.extracted, s.outcome) for s in found] == [("0.67", "correct"), ("3", "wrong")]
    found = [graded(LETTERS, "A guess: it is 4", rule) for rule in ("corrected", "reference")]
    assert [(s.extracted, s.outcome) for s in found] == [("B", "correct"), ("A", "wrong")]
    assert graded(LABELS, "Yes, it is.").outcome == "correct"
    assert graded(LABELS, "").outcome == "unparsed"


def test_texts_are_graded_by_their_closest_reference() -> None:
    # Two of two words are in order in the second reference of three: F1 of 1 and 2/3.
    found = graded(TEXTS, " a dog ")
    assert (found.outcome, found.extracted) == ("rated", "")
    assert found.quality == pytest.approx(0.8)


class Exact(Reader):
    """A text that is the answer and nothing else."""

    grades = "benchmarks of numbers"
    type: Literal["exact"] = "exact"
    fold: bool = False

    @classmethod
    def fits(cls, kind, labels):
        return kind == "number"

    def answer(self, completion, example, benchmark, rule, *, cut=False):
        return "" if cut else completion.casefold() if self.fold else completion

    def right(self, answer, example, rule):
        return answer == example.answer


@pytest.fixture
def exact(monkeypatch):
    points = [EntryPoint("exact", f"{__name__}:Exact", "kdstudy.graders")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Exact)
    found, origins = graders._found()
    monkeypatch.setattr(graders, "GRADERS", found)
    return origins


def test_a_package_adds_a_grader_with_fields_of_its_own(exact) -> None:
    assert exact == {"exact": f"{__name__}:Exact"}
    grader = chosen({"type": "exact", "fold": True}, "mine", "number", ())
    found = [graded(NUMBERS, t, grader=grader) for t in ("0.6666666666666666", "2/3", "")]
    assert [s.outcome for s in found] == ["correct", "wrong", "unparsed"]
    assert {s.rule for s in found} == {"exact-corrected"}


@pytest.mark.parametrize(
    ("scoring", "wanted"),
    [
        ("letters", "mine: scoring: there is no grader 'letters'"),
        ({"type": "number", "tolerance": 1}, "mine: scoring: number: .*unknown key 'tolerance'"),
        ("letter", "scoring: letter is for benchmarks of choices .*, and its answers are numbers"),
        ({}, "there is no grader None"),
    ],
)
def test_what_cannot_grade_is_refused_in_words(scoring, wanted) -> None:
    with pytest.raises(InputError, match=wanted):
        chosen(scoring, "mine", "number", ())


def test_a_grader_for_letters_is_none_for_labels() -> None:
    with pytest.raises(InputError, match="its answers are choices with labels"):
        chosen("letter", "mine", "choice", ("yes", "no"))


def test_a_study_that_says_nothing_has_the_usual() -> None:
    assert chosen(None, "mine", "choice", ("yes", "no")).type == "label"
