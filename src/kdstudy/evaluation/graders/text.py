"""Free texts: rated by ROUGE-L with their references, never right or wrong."""

from typing import Literal

from kdstudy.config.schema import RougeTokenizer
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Grader, Reading
from kdstudy.records import Example, Generation, Score


class Text(Grader):
    """ROUGE-L with the closest reference, the same under both rules.

    A text is `truncated` when cut, else `unparsed` when empty, else `rated`.
    """

    grades = "benchmarks of free texts"

    type: Literal["text"] = "text"
    """Which grader this is."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether answers are free texts."""
        return kind == "text"

    def score(
        self, made: Generation, example: Example, benchmark: Benchmark, reading: Reading
    ) -> Score:
        """Return the score of a text, which is its own answer: it is not stored twice."""
        words, text = reading.rouge_tokenizer, (reading.said(made.completion) or "").strip()
        # Texts rated by other words are not compared with each other.
        measure = "rouge_l" if words == "rouge-score" else f"rouge_l-{words}"
        ended = "rated" if text else "unparsed"
        return Score(
            benchmark=benchmark.name,
            example_id=example.id,
            sample=made.sample,
            completion=made.completion,
            extracted="",
            rule=f"text-{measure}",
            outcome="truncated" if made.stop == "length" else ended,
            quality=self.quality(text, example, words) if text else 0.0,
            tokens=made.tokens,
            thought=made.thought,
        )

    def quality(self, text: str, example: Example, words: RougeTokenizer) -> float:
        """Return ROUGE-L F1 with the closest reference, as a fraction."""
        # Its stemmer takes a second to import, which a plan should not cost.
        from kdstudy.evaluation.rouge import rouge_l

        return rouge_l(text, example.references, words)
