"""What a grader is: how what a system made of an item becomes that item's score."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from kdstudy.answers.extract import Rule
from kdstudy.config.schema import RougeTokenizer
from kdstudy.evaluation.asking import said
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.options import Option
from kdstudy.fields import Strict
from kdstudy.records import Example, Generation, Score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a study says of how answers are read, whatever grades them.

    Attributes:
        rule: `reference` or `corrected`.
        rouge_tokenizer: What ROUGE-L of free texts takes for words.
        thinking: The mark that ends a thought, before which nothing is an answer; "": none does.
    """

    rule: Rule = "corrected"
    rouge_tokenizer: RougeTokenizer = "rouge-score"
    thinking: str = ""

    def said(self, completion: str) -> str | None:
        """Return a text without its thought; None where the thought is not closed."""
        return said(completion, self.thinking)


class Grader(Strict):
    """How answers to a benchmark's items become scores; its fields are what `scoring:` may say.

    A grader of one's own is a subclass of `Reader` with a `type`, in a package that names it under
    the entry point group `kdstudy.graders`.
    """

    needs: ClassVar[Literal["text", "options"]] = "text"
    """What it grades: a text that the model wrote, or the likelihoods of an item's options."""
    grades: ClassVar[str]
    """The benchmarks that it can grade, in words."""

    type: str

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether it can grade a benchmark of that kind with those labels."""
        raise NotImplementedError

    def options(self, example: Example, benchmark: Benchmark) -> list[Option]:
        """Return an item's options as they are scored; of a grader that needs options.

        Raises:
            InputError: They cannot be told from the question.
        """
        raise NotImplementedError

    def require(self, benchmark: Benchmark) -> None:
        """Refuse a benchmark with items that it cannot grade, with an InputError."""
        if self.needs == "options":
            for example in benchmark.examples:
                self.options(example, benchmark)

    def score(self, made: Any, example: Example, benchmark: Benchmark, reading: Reading) -> Score:
        """Return the score of what a system made of an item.

        Args:
            made: The item's `Generation`; of a grader that needs options `OptionLikelihoods`.
            example: The item.
            benchmark: Its benchmark.
            reading: What the study says of reading answers.
        """
        raise NotImplementedError


class Reader(Grader):
    """A grader that finds the answer in a text and compares it with the gold one.

    A completion that the token budget ended (`stop == "length"`) is read like any other under
    `reference`. Under `corrected` it is `truncated` unless `answer` finds one all the same.
    """

    def answer(
        self,
        completion: str,
        example: Example,
        benchmark: Benchmark,
        rule: Rule,
        *,
        cut: bool = False,
    ) -> str:
        """Return the answer in a completion, "" where there is none.

        Args:
            completion: The text.
            example: The item.
            benchmark: Its benchmark.
            rule: `reference` or `corrected`.
            cut: The text was cut: only an answer that is stated and closed counts.
        """
        raise NotImplementedError

    def right(self, answer: str, example: Example, rule: Rule) -> bool:
        """Return whether an answer that was found is right."""
        raise NotImplementedError

    def rule_name(self, rule: Rule) -> str:
        """Return `Score.rule`; scores of two rules are not compared with each other."""
        return f"{self.type}-{rule}"

    def score(
        self, made: Generation, example: Example, benchmark: Benchmark, reading: Reading
    ) -> Score:
        """Return the score of a completion."""
        cut = made.stop == "length" and reading.rule == "corrected"
        text = reading.said(made.completion)
        found = "" if text is None else self.answer(text, example, benchmark, reading.rule, cut=cut)
        right = bool(found) and self.right(found, example, reading.rule)
        missing = "truncated" if cut else "unparsed"
        return Score(
            benchmark=benchmark.name,
            example_id=example.id,
            sample=made.sample,
            completion=made.completion,
            extracted=found,
            rule=self.rule_name(reading.rule),
            outcome=missing if not found else "correct" if right else "wrong",
            quality=float(right),
            tokens=made.tokens,
            thought=made.thought,
        )
