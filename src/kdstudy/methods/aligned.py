"""What methods have in common whose teacher has another tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdstudy.methods.base import Taught
from kdstudy.methods.objective import Objective, Recipe, Spans

if TYPE_CHECKING:
    from kdstudy.methods.objective import Parameter, Terms


class Aligned(Taught):
    """A distance of two distributions over unlike vocabularies, at each span of the answers.

    A span is the least stretch of an answer behind which both tokenizations have a border between
    tokens (`data/alignment.py`). Its distribution, on either side: one token's, times the
    probabilities of the span's other tokens. A step's sum over spans is divided by the student's
    scored tokens, as everywhere, so that where all spans are tokens it is a mean over tokens.
    """

    teacher_gives = "spans"
    LATER: ClassVar[frozenset[str]] = frozenset({"lmbda", "sampling_temperature"})

    temperature: float = Field(default=1.0, gt=0)
    """Loss temperature: softens both distributions."""
    tau_squared: bool = True
    """Multiply the distance by temperature squared."""
    hard_label_weight: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cross-entropy on the corpus's tokens; the distance has the rest."""
    merge: Literal["observed", "bayesian"] = "observed"
    """The distribution of a span of several tokens. `observed`: the first token's, times the
    probabilities of those that follow. `bayesian`: the last token's, times the probabilities of
    those before it. Both as TRL names them; its `observed` reads each one position late."""
    normalisation: Literal["tokens", "sequences", "micro_batches"] | None = None
    """Overrides `train.normalisation` for this method."""
    lmbda: float = Field(default=0.0, ge=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled, which its
    teacher reads in its own tokens. The distance is all of the loss on it."""
    sampling_temperature: float = Field(default=1.0, gt=0)
    """Temperature at which the student samples."""

    @model_validator(mode="after")
    def _samples_where_it_says_how(self) -> Self:
        if self.sampling_temperature != 1 and self.lmbda == 0:
            raise ValueError(
                "sampling_temperature: lmbda is 0, so that the student samples nothing; set lmbda, "
                "or leave sampling_temperature out"
            )
        return self

    @property
    def on_policy_share(self) -> float:
        """Probability that an optimizer step trains on text the student samples."""
        return self.lmbda

    @property
    def parameter(self) -> Parameter:
        """The number that `terms` is handed."""
        return 0.0

    @property
    def terms(self) -> Terms | None:
        """What tokens of both vocabularies are compared by; None where all are sorted."""
        return None

    @property
    def spans(self) -> Spans:
        """How spans are merged and weighed."""
        return Spans(merge=self.merge)

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        objective = Objective(
            divergence=self.terms,
            parameter=self.parameter,
            temperature=self.temperature,
            tau_squared=self.tau_squared,
            hard_label_weight=self.hard_label_weight,
        )
        return Recipe(
            source="student" if self.lmbda else "corpus",
            objective=objective,
            spans=self.spans,
            lmbda=self.lmbda,
            sampling_temperature=self.sampling_temperature,
            normalisation=self.normalisation,
        )
