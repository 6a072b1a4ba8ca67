"""Numbers: the one that a completion states as its answer, compared with the gold one."""

from typing import Literal

from kdstudy.answers.extract import Rule, number, same_gold
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Reader
from kdstudy.records import Example


class Number(Reader):
    """The number that a text answers; `reference` allows a difference of 0.001."""

    grades = "benchmarks whose answers are numbers"

    type: Literal["number"] = "number"
    """Which grader this is."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether answers are numbers."""
        return kind == "number"

    def answer(
        self, completion: str, example: Example, benchmark: Benchmark, rule: Rule, *,
        cut: bool = False,
    ) -> str:  # fmt: skip
        """Return the number in a completion; see `extract.number`."""
        return number(completion, rule, example.question, cut=cut)

    def right(self, answer: str, example: Example, rule: Rule) -> bool:
        """Return whether it is the gold one: `numerals.equal`, or within 0.001 (`reference`)."""
        return same_gold(answer, example.answer, rule)
