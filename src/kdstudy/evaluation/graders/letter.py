"""Letters: which of the options (A), (B) and so on a completion chooses."""

from typing import Literal

from kdstudy.answers.extract import Rule, choice
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Reader
from kdstudy.records import Example


class Letter(Reader):
    """The letter of the option that a text answers."""

    grades = "benchmarks of choices that are called by letters"

    type: Literal["letter"] = "letter"
    """Which grader this is."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether answers are letters."""
        return kind == "choice" and not labels

    def rule_name(self, rule: Rule) -> str:
        """Return `Score.rule`: of choices, whatever they are called by."""
        return f"choice-{rule}"

    def answer(
        self, completion: str, example: Example, benchmark: Benchmark, rule: Rule, *,
        cut: bool = False,
    ) -> str:  # fmt: skip
        """Return the letter in a completion; see `letter_rule.choice`."""
        return choice(completion, rule, example.question, cut=cut)

    def right(self, answer: str, example: Example, rule: Rule) -> bool:
        """Return whether it is the gold one."""
        return answer == example.answer
