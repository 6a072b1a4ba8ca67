"""Texts of a task of lm-evaluation-harness, graded by its own filters and metrics."""

from typing import Literal

from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Grader, Reading
from kdstudy.records import Example, Generation, Score

_INVALID = "[invalid]"


class Harness(Grader):
    """What a task's filter finds, by what its metric makes of it: 1 is right, 0 is wrong.

    A text that the budget cut is graded like any other, as there, and whatever the study's rule is.
    """

    grades = "tasks of lm-evaluation-harness"

    type: Literal["harness"] = "harness"
    """Which grader this is."""
    filter: str | None = None
    """Which of the task's filters; null for its first."""
    metric: str | None = None
    """Which of its metrics, 0 or 1 of an item; null for its first."""

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether it may be such a task; others are refused when they are graded."""
        return kind == "choice" and not labels

    def require(self, benchmark: Benchmark) -> None:
        """Refuse what is no task whose texts are graded, and names that it does not have."""
        for example in benchmark.examples[:1]:
            self._made_of(benchmark, example, "")

    def score(
        self, made: Generation, example: Example, benchmark: Benchmark, reading: Reading
    ) -> Score:
        """Return the score of a text.

        Raises:
            InputError: The metric of an item is neither 0 nor 1.
        """
        text = reading.said(made.completion)
        found, value, rule = self._made_of(benchmark, example, text or "")
        missing = text is None or found in ("", _INVALID)
        right = value == 1.0 and text is not None
        return Score(
            benchmark=benchmark.name,
            example_id=example.id,
            sample=made.sample,
            completion=made.completion,
            extracted="" if missing else found,
            rule=rule,
            outcome="correct" if right else "unparsed" if missing else "wrong",
            quality=float(right),
            tokens=made.tokens,
            thought=made.thought,
        )

    def _made_of(self, benchmark: Benchmark, example: Example, text: str) -> tuple[str, float, str]:
        """Return what the filter finds, the metric's value, and `Score.rule`."""
        if benchmark.graded is None:
            raise InputError(
                f"{benchmark.name}: scoring: harness is for tasks whose texts it grades",
                remedy="leave scoring out",
            )
        found, metrics, name = benchmark.graded(example.id, text, self.filter)
        metric = self.metric or next(iter(metrics))
        if metric not in metrics:
            raise InputError(
                f"{benchmark.name}: scoring: harness: the task has no metric {metric!r}",
                remedy=f"it has {', '.join(metrics)}",
            )
        value = metrics[metric]
        if not isinstance(value, int | float) or value not in (0, 1):
            raise InputError(
                f"{benchmark.name} {example.id}: its metric {metric} is {value!r:.40}",
                why="an item is right (1) or wrong (0)",
                remedy="choose another: scoring: {type: harness, metric: ...} of "
                f"{', '.join(metrics)}",
            )
        return found, float(value), f"harness-{metric},{name}"
