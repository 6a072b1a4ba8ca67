"""Labels: which of a benchmark's own, such as option2 or true, a completion gives."""

from typing import Literal

from kdstudy.answers.extract import Rule, label
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Reader
from kdstudy.records import Example


class Label(Reader):
    """The label that a text answers."""

    grades = "benchmarks of choices with labels"

    type: Literal["label"] = "label"
    """Which grader this is."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether answers are labels."""
        return kind == "choice" and bool(labels)

    def rule_name(self, rule: Rule) -> str:
        """Return `Score.rule`: of choices, whatever they are called by."""
        return f"choice-{rule}"

    def answer(
        self, completion: str, example: Example, benchmark: Benchmark, rule: Rule, *,
        cut: bool = False,
    ) -> str:  # fmt: skip
        """Return the label in a completion; see `labels.label`."""
        return label(completion, rule, benchmark.labels, example.question, cut=cut)

    def right(self, answer: str, example: Example, rule: Rule) -> bool:
        """Return whether it is the gold one."""
        return answer == example.answer
