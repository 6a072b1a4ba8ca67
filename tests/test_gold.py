"""Right answers of corpus rows are read as the graders of benchmarks read them."""

import itertools

import pytest

from kdstudy.answers.gold import gold, kind_of
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.graders import Reading, usual
from kdstudy.records import Example, Generation

LABELS = ("true", "false", "not given")
ANSWERS = ("7", "0.5", "1200", "B", "A", "true", "not given")
TEXTS = [
    "", "The answer is 7.", "7", "It is 3, so the answer is 7", "#### 7.0", "about 7.0004",
    "1,200 apples", "1/2", "The answer is 0.5", "(B)", "The answer is B.", "A and B", "B is wrong",
    "Answer: A", "true", "The answer is not given.", "It is false. The answer is true.",
    "I do not know.", "The answer is 1200", "What is 3 + 4? 7", "The answer is 7. The answer is 8",
]  # fmt: skip


@pytest.mark.parametrize("rule", ["corrected", "reference"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_text_is_right_where_its_grader_says_so(rule, answer):
    example = Example(id="e", instruction="What is 3 + 4? (A) true (B) 7", answer=answer)
    asked = {"labels": LABELS, "rule": rule, "needed": "", "otherwise": ""}
    own = gold(example, "row 0", **asked)
    labels = LABELS if own.kind == "label" else ()
    kind = "number" if own.kind == "number" else "choice"
    benchmark = Benchmark(
        name="b", version="", kind=kind, labels=labels, chance=0.0, examples=(example,)
    )
    outcomes = []
    for text, stop in itertools.product(TEXTS, ("eos", "length")):
        made = Generation(
            benchmark="b", example_id="e", sample=0, completion=text, stop=stop, tokens=9
        )
        score = usual(kind, labels).score(made, example, benchmark, Reading(rule=rule))
        assert own.right(text, cut=stop == "length") == (score.outcome == "correct"), (text, stop)
        outcomes.append(score.outcome)
    assert "correct" in outcomes and set(outcomes) != {"correct"}


def test_an_answer_says_itself_what_it_is():
    kinds = {a: kind_of(a, LABELS) for a in ("7", "-1.5", "C", "true", "yes", "", "c", "1,200")}
    assert kinds == {
        "7": "number", "-1.5": "number", "C": "letter", "true": "label", "yes": None, "": None,
        "c": None, "1,200": None,
    }  # fmt: skip
    assert kind_of("A", ("A", "B")) == "label"


@pytest.mark.parametrize(("answer", "said"), [("", "no answer"), ("maybe", "the answer 'maybe'")])
def test_an_answer_that_nothing_reads_is_refused(answer, said):
    example = Example(id="e", instruction="?", answer=answer)
    with pytest.raises(InputError, match=f"row 3 has {said}, and it is needed") as error:
        gold(example, "row 3", labels=(), rule="corrected", needed="it is needed", otherwise="x: 0")
    assert error.value.remedy.endswith("or write x: 0")
