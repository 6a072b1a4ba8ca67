"""A method is two answers: who writes the tokens, and which divergence scores them.

The trainer knows none of them: it asks for the writer, and for the objective.
"""

import dataclasses
from typing import Literal

from kdstudy.distill import divergences
from kdstudy.distill.divergences import CROSS_ENTROPY, Objective
from kdstudy.study import schema

Writer = Literal["corpus", "teacher", "student"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a student is made.

    Attributes:
        writer: Who writes the tokens that are trained on.
        objective: What a token is charged.
        noise: Scale of the Gaussian noise on the teacher's logits while training.
        lmbda: Probability that an optimizer step trains on text the student samples.
        sampling_temperature: Temperature of that sampling; unrelated to the objective's.
        retokenised: Student text is decoded without special tokens and encoded again, as the
            paper's released code does; otherwise the sampled ids are kept.
        normalisation: Overrides the run's; None keeps it.
    """

    writer: Writer
    objective: Objective
    noise: float = 0.0
    lmbda: float = 0.0
    sampling_temperature: float = 1.0
    retokenised: bool = False
    normalisation: Literal["tokens", "sequences", "micro_batches"] | None = None

    @property
    def needs_teacher(self) -> bool:
        """A teacher must supply its distribution at every scored token."""
        return self.objective.divergence is not None


# type -> divergence, and the field that holds its parameter.
_DIVERGENCES = {
    "word_kd": (divergences.forward_kl, "probability_epsilon"),
    "revkd": (divergences.reverse_kl, "probability_epsilon"),
    "gkd": (divergences.jsd, "beta"),
    "skew_kl": (divergences.skew_kl, "alpha"),
    "skew_revkl": (divergences.skew_reverse_kl, "alpha"),
    "tv": (divergences.total_variation, None),
    "onpolicy_revkl": (divergences.reverse_kl, None),
}


def build(config: schema.Method) -> Method:
    """Return the method that a study's `methods` entry names."""
    if config.type == "sft":
        return Method(writer="corpus", objective=CROSS_ENTROPY)
    if config.type == "seqkd":
        return Method(writer="teacher", objective=CROSS_ENTROPY)
    divergence, parameter = _DIVERGENCES[config.type]
    on_policy = isinstance(config, schema.OnPolicy)
    if on_policy and getattr(config, "mixture", "paper") == "released":
        divergence = divergences.swapped_jsd
    return Method(
        writer="student" if on_policy else "corpus",
        objective=Objective(
            divergence=divergence,
            parameter=getattr(config, parameter) if parameter else 0.0,
            temperature=config.temperature,
            tau_squared=config.tau_squared,
            hard_label_weight=config.hard_label_weight,
        ),
        noise=config.noise,
        normalisation=config.normalisation,
        **(_sampling(config) if on_policy else {}),
    )


def _sampling(config: schema.OnPolicy) -> dict:
    return {
        "lmbda": config.lmbda,
        "sampling_temperature": config.sampling_temperature,
        "retokenised": config.on_policy_text == "retokenised",
    }
