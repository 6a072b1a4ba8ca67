"""Choice by likelihood: which option a model finds likeliest, as lm-evaluation-harness scores."""

import math
from typing import ClassVar, Literal

from pydantic import field_validator

from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Grader, Reading
from kdstudy.evaluation.options import WORDINGS, Option, asked
from kdstudy.records import Example, OptionLikelihoods, Score


class Likelihood(Grader):
    """The option of the highest log-probability is the answer (`acc`).

    `acc_norm` and `acc_bytes` are measures of the same numbers.
    """

    needs: ClassVar[Literal["text", "options"]] = "options"
    grades = "benchmarks of choices"

    type: Literal["likelihood"] = "likelihood"
    """Which grader this is."""
    wording: str | None = None
    """Put questions and options as that benchmark's are (docs/scoring.md): `winogrande` fills the
    `_` of a question. Null: the set's own; of a set that kdstudy does not know ARC's."""

    @field_validator("wording")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in WORDINGS:
            raise ValueError(f"there is no wording '{value}'; known: {', '.join(WORDINGS)}")
        return value

    @classmethod
    def fits(cls, kind: Kind, labels: tuple[str, ...]) -> bool:
        """Return whether there are options."""
        return kind == "choice"

    def options(self, example: Example, benchmark: Benchmark) -> list[Option]:
        """Return an item's options as they are scored.

        Raises:
            InputError: They cannot be told from the question.
        """
        return asked(benchmark, example, WORDINGS.get(self.wording or ""))

    def score(
        self, made: OptionLikelihoods, example: Example, benchmark: Benchmark, reading: Reading
    ) -> Score:
        """Return the score of a choice; of equal log-probabilities the first is chosen.

        Raises:
            InputError: Log-probabilities are more or fewer than options, or they order nothing.
        """
        options = self.options(example, benchmark)
        labels = [option.label for option in options]
        if len(labels) != len(made.logprobs):
            raise InputError(
                f"{benchmark.name} {example.id}: has {len(labels)} options "
                f"({', '.join(labels)}), and {len(made.logprobs)} log-probabilities are given",
                remedy="give one for each option, in the item's order",
            )
        if any(map(math.isnan, made.logprobs)) or max(made.logprobs) in (math.inf, -math.inf):
            raise InputError(
                f"{benchmark.name} {example.id}: log-probabilities {made.logprobs} choose nothing",
                why="the model's logits are not finite, or the file's numbers are none",
                remedy="score in float32; a model that is broken there gave no number of its run",
            )
        best = made.logprobs.index(max(made.logprobs))
        right = labels[best] == example.answer
        return Score(
            benchmark=benchmark.name,
            example_id=example.id,
            sample=made.sample,
            completion=options[best].text,
            extracted=labels[best],
            rule="choice-likelihood",
            outcome="correct" if right else "wrong",
            quality=float(right),
            tokens=0,
            option_logprobs=made.logprobs,
            option_characters=tuple(len(option.text) for option in options),
            option_bytes=tuple(len(option.text.encode()) for option in options),
            target=labels.index(example.answer),
        )
