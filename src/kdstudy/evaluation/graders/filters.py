"""What graders of lm-evaluation-harness's GSM8K have in common: its patterns, its exact match."""

import dataclasses
import re
from typing import ClassVar

from kdstudy.answers import numerals
from kdstudy.answers.extract import Rule
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Reader, Reading
from kdstudy.evaluation.graders.number import Number
from kdstudy.records import Example, Generation, Score

_PATTERNS = {
    "strict": (re.compile(r"#### (\-?[0-9\.\,]+)"), 0),
    "flexible": (re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"), -1),
}
FILTERS = ("number", *_PATTERNS)
"""What `Score.by_filter` says: kdstudy's own reading of numbers, then the published filters."""


class Published(Reader):
    """A number by one of the filters of lm-evaluation-harness (0.4.13, task `gsm8k`).

    As there, a text that the budget cut is read like any other, and whatever the study's rule is.
    """

    grades = "benchmarks whose answers are numbers"
    filter: ClassVar[str]
    """Which of the patterns."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether answers are numbers."""
        return kind == "number"

    def rule_name(self, rule: Rule) -> str:
        """Return `Score.rule`."""
        return f"number-{self.filter}"

    def answer(
        self, completion: str, example: Example, benchmark: Benchmark, rule: Rule, *,
        cut: bool = False,
    ) -> str:  # fmt: skip
        """Return what the filter finds, as it is compared; "" where that is nothing."""
        return filtered(completion, self.filter)

    def right(self, answer: str, example: Example, rule: Rule) -> bool:
        """Return whether it is the gold number, written as GSM8K writes it."""
        return answer == _bare(_written(example.answer))

    def score(
        self, made: Generation, example: Example, benchmark: Benchmark, reading: Reading
    ) -> Score:
        """Return the score by this filter, beside what the others and kdstudy's reading make."""
        own = Number().score(made, example, benchmark, reading)
        text = reading.said(made.completion) or ""
        found = [self.right(filtered(text, name), example, reading.rule) for name in _PATTERNS]
        right = (own.outcome == "correct", *found)
        score = Reader.score(self, made, example, benchmark, reading)
        return dataclasses.replace(score, by_filter=tuple(map(int, right)))


def filtered(text: str, name: str) -> str:
    """Return what a filter takes from a text, without what exact match leaves out.

    Args:
        text: A completion.
        name: `strict`: the first number behind `#### `; `flexible`: the last number.
    """
    pattern, which = _PATTERNS[name]
    found = pattern.findall(text)
    if not found:
        return ""
    groups = found[which]
    match = groups if isinstance(groups, str) else next(filter(None, groups))
    return _bare(match.strip())


def _bare(number: str) -> str:
    """Return a number without thousands separators, dollar signs and a point at its end."""
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", "")).lower()


def _written(gold: str) -> str:
    """Return a gold number as text: 18 where a file has 18.0, which is text of another set."""
    value = numerals.value(gold)
    whole = value is not None and value == int(value)
    return str(int(value)) if whole else gold
