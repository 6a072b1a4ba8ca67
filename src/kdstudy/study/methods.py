"""A study's methods as types: what an entry of `methods` may say."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A part of the study: immutable, and unknown keys are refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                known = (
                    f"did you mean '{near[0]}'?"
                    if near
                    else f"known: {', '.join(cls.model_fields)}"
                )
                raise PydanticCustomError(
                    "unknown_key", "unknown key '{key}'; {known}", {"key": str(key), "known": known}
                )
        return value


TAGS = ("of one form", "of the other")
"""Branches of a field that has two forms; in an error's path they are nobody's words."""

OF_TRAINING = {"epochs", "start"}
"""Fields that say from where and how long a method trains; its key has them as such."""


class Sft(Strict):
    """Cross-entropy on the corpus; no teacher."""

    type: Literal["sft"] = "sft"
    """Which method this is."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus, for students; null means `train.epochs`, which teachers have."""

    @model_validator(mode="before")
    @classmethod
    def _starts_nowhere(cls, value: Any) -> Any:
        if isinstance(value, dict) and "start" in value:
            raise ValueError("start: sft is what other methods start from; leave it out here")
        return value

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.type


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


class _Taught(Strict):
    start: Annotated[
        Annotated[Literal["base", "sft"], Tag(TAGS[0])] | Annotated[SftStart, Tag(TAGS[1])],
        Discriminator(lambda value: TAGS[isinstance(value, dict | SftStart)]),
    ] = "base"
    """Which weights training starts from: the student's as given; those of its own sft run (as in
    GKD, MiniLLM and DistiLLM); or {sft: 8}, those after eight epochs of sft with a schedule of
    their own."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus with this method, the start's not counted; null: train.epochs."""

    @property
    def name(self) -> str:
        """What labels and tables call it: its type, and that it does not start from the base."""
        return self.type if self.start == "base" else f"{self.type}-from-sft"


class SeqKD(_Taught):
    """Cross-entropy on text the teacher wrote (Kim & Rush 2016; the paper's Eq. 1)."""

    type: Literal["seqkd"] = "seqkd"
    """Which method this is."""
    sampling_temperature: float = Field(default=0.0, ge=0)
    """Temperature at which the teacher writes; 0 is greedy."""


class _Divergence(_Taught):
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


class OnPolicy(_Divergence):
    """A method that trains on text the student has just sampled."""

    lmbda: float = Field(default=0.5, ge=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled."""
    sampling_temperature: float = Field(default=1.0, gt=0)
    """Temperature at which the student samples."""
    on_policy_text: Literal["ids", "retokenised"] = "ids"
    """`ids`: as sampled. `retokenised`: decoded without special tokens and encoded again."""


class WordKD(_Divergence):
    """KL(teacher || student) on the corpus's tokens (Hinton 2015)."""

    type: Literal["word_kd"] = "word_kd"
    """Which method this is."""
    probability_epsilon: float = Field(default=0.0, ge=0)
    """Added to the teacher's probabilities; the released code adds 1e-9."""


class RevKD(_Divergence):
    """KL(student || teacher) on the corpus's tokens (the paper's Eq. 2)."""

    type: Literal["revkd"] = "revkd"
    """Which method this is."""
    probability_epsilon: float = Field(default=0.0, ge=0)
    """Added to the student's probabilities; the released code adds 1e-9."""


class GKD(OnPolicy):
    """Generalised JSD on student text with probability lmbda, else on the corpus (Eq. 3-4)."""

    type: Literal["gkd"] = "gkd"
    """Which method this is."""
    beta: float = 0.5
    """Weight of the teacher in the mixture M = beta*T + (1-beta)*S; strictly between 0 and 1."""
    mixture: Literal["paper", "released"] = "paper"
    """`released`: M = beta*S + (1-beta)*T, as the paper's released code has it."""

    @field_validator("beta")
    @classmethod
    def _open_interval(cls, beta: float) -> float:
        if beta in (0, 1):
            other = "word_kd" if beta == 0 else "revkd"
            raise ValueError(
                f"beta {beta:g} makes the divergence zero everywhere; its limit has its own name: "
                f"write {other} for the corpus's tokens"
            )
        if not 0 < beta < 1:
            raise ValueError(f"beta {beta:g} is outside (0, 1); the paper uses 0.5")
        return beta


class OnPolicyRevKL(OnPolicy):
    """KL(student || teacher) at every token of text that the student samples."""

    type: Literal["onpolicy_revkl"] = "onpolicy_revkl"
    """Which method this is."""
    lmbda: float = Field(default=1.0, gt=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled."""


class SkewKL(_Divergence):
    """KL(T || alpha*T + (1-alpha)*S) on the corpus's tokens (DistiLLM, Ko et al. 2024)."""

    type: Literal["skew_kl"] = "skew_kl"
    """Which method this is."""
    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the teacher in the student's place; 0 is word_kd."""


class SkewRevKL(_Divergence):
    """KL(S || alpha*S + (1-alpha)*T) on the corpus's tokens (DistiLLM, Ko et al. 2024)."""

    type: Literal["skew_revkl"] = "skew_revkl"
    """Which method this is."""
    alpha: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the student in the teacher's place; 0 is revkd."""


class TV(_Divergence):
    """Total variation distance on the corpus's tokens (Wen et al. 2023)."""

    type: Literal["tv"] = "tv"
    """Which method this is."""


def short_form(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


Method = Annotated[
    Sft | SeqKD | WordKD | RevKD | GKD | SkewKL | SkewRevKL | TV | OnPolicyRevKL,
    Field(discriminator="type"),
]
METHODS: dict[str, type[Strict]] = {
    "sft": Sft, "seqkd": SeqKD, "word_kd": WordKD, "revkd": RevKD, "gkd": GKD,
    "skew_kl": SkewKL, "skew_revkl": SkewRevKL, "tv": TV, "onpolicy_revkl": OnPolicyRevKL,
}  # fmt: skip
WithDistribution = Literal[
    "word_kd", "revkd", "gkd", "skew_kl", "skew_revkl", "tv", "onpolicy_revkl"
]
WITH_DISTRIBUTION = get_args(WithDistribution)
