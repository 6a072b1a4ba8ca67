"""What methods have in common: their fields, and what a plan and a trainer ask of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from kdstudy.fields import TAGS, Strict
from kdstudy.methods.objective import Judging, Objective, Recipe

if TYPE_CHECKING:
    from kdstudy.methods.objective import Parameter, Terms


def _truth_values_are_labels(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [str(v).lower() if isinstance(v, bool) else v for v in value]


Labels = Annotated[list[str], BeforeValidator(_truth_values_are_labels)]
"""What answers may be; YAML's true and false are the words."""


class Method(Strict):
    """How a student is made: who writes the tokens it is trained on, and what they are charged.

    A method of one's own is a subclass of `Taught`, `Divergence` or `OnPolicy` with a `type`, in a
    package that names it under the entry point group `kdstudy.methods` (examples/jeffreys).
    """

    OF_TRAINING: ClassVar[frozenset[str]] = frozenset({"epochs", "start", "generations"})
    """Fields that say from where, how long and how often a method trains; a key has them as such:
    its start, its epochs, its teacher."""
    teacher_gives: ClassVar[Literal["nothing", "text", "distribution", "spans"]]
    """What it learns from a teacher. `spans`: its distribution, wherever the tokens of both meet,
    so that the two may have other tokenizers."""
    color: ClassVar[str] = ""
    """Its colour in figures; methods without one share the spare colours."""
    preset: ClassVar[Mapping[str, Any]] = {}
    """Fields that protocol `reference` sets, as the paper's released code has them."""

    type: str
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus with this method, the start's not counted; null: train.epochs."""

    @property
    def name(self) -> str:
        """What labels and tables call it."""
        return self.type

    @property
    def on_policy_share(self) -> float:
        """Probability that an optimizer step trains on text the student samples."""
        return 0.0

    @property
    def needs_prompts(self) -> bool:
        """Whether somebody answers the corpus's prompts: the teacher before, or the student."""
        return self.teacher_gives == "text" or self.on_policy_share > 0

    @property
    def learns_nothing_at_first(self) -> bool:
        """Whether a teacher that is the student as it comes gives it no gradient, then or later."""
        return False

    @property
    def judging(self) -> Judging | None:
        """What it needs right answers for; None where it needs none."""
        return None

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        raise NotImplementedError


class SftStart(Strict):
    """A start of its own: so many epochs of sft, which no system is measured on."""

    sft: float = Field(gt=0)
    """Passes over the corpus before the method's own."""

    @field_validator("sft", mode="before")
    @classmethod
    def _epochs_alone(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise ValueError("write its epochs alone: {sft: 8}")
        return value


class Taught(Method):
    """A method with a teacher."""

    start: Annotated[
        Annotated[Literal["base", "sft"], Tag(TAGS[0])] | Annotated[SftStart, Tag(TAGS[1])],
        Discriminator(lambda value: TAGS[isinstance(value, dict | SftStart)]),
    ] = "base"
    """Which weights training starts from: the student's as given; those of its own sft run (as in
    GKD, MiniLLM and DistiLLM); or {sft: 8}, those after eight epochs of sft with a schedule of
    their own."""

    generations: int = Field(default=1, ge=1, le=100)
    """Born-again chain (Furlanello et al. 2018): so many students one after the other, each the
    same model trained anew. The study's teacher teaches the first, each further one learns from the
    one before."""

    @property
    def name(self) -> str:
        """What labels and tables call it: its type, and that it does not start from the base."""
        return self.type if self.start == "base" else f"{self.type}-from-sft"


class Divergence(Taught):
    """A divergence of the student's distribution from the teacher's, on the corpus's tokens."""

    teacher_gives = "distribution"
    terms: ClassVar[Terms]
    """The divergence: (s, t, parameter) -> (value, slope), see `objective`; a staticmethod."""

    temperature: float = Field(default=1.0, gt=0)
    """Loss temperature: softens both distributions."""
    tau_squared: bool = True
    """Multiply the divergence by temperature squared, which keeps the gradient's scale."""
    noise: float = Field(default=0.0, ge=0)
    """Scale of Gaussian noise added to the teacher's logits."""
    hard_label_weight: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cross-entropy on the corpus's tokens; the divergence has the rest, and all of
    it on text that the student samples."""
    normalisation: Literal["tokens", "sequences", "micro_batches"] | None = None
    """Overrides `train.normalisation` for this method."""

    @property
    def parameter(self) -> Parameter:
        """The number that `terms` is handed."""
        return 0.0

    @property
    def learns_nothing_at_first(self) -> bool:
        """Whether a teacher that is the student as it comes gives it no gradient, then or later."""
        return self.start == "base" and not self.hard_label_weight and not self.noise

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
            source="corpus",
            objective=objective,
            noise=self.noise,
            normalisation=self.normalisation,
        )


class OnPolicy(Divergence):
    """A method that trains on text the student has just sampled."""

    lmbda: float = Field(default=0.5, ge=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled."""
    sampling_temperature: float = Field(default=1.0, gt=0)
    """Temperature at which the student samples."""
    on_policy_text: Literal["ids", "retokenised"] = "ids"
    """`ids`: as sampled. `retokenised`: decoded without special tokens and encoded again."""

    @property
    def on_policy_share(self) -> float:
        """Probability that an optimizer step trains on text the student samples."""
        return self.lmbda

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(
            super().recipe(),
            source="student",
            lmbda=self.lmbda,
            sampling_temperature=self.sampling_temperature,
            retokenised=self.on_policy_text == "retokenised",
        )
