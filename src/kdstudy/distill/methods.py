"""A method is two answers: who writes the tokens, and which divergence scores them.

| class | tokens written by | divergence |
|---|---|---|
| Sft | corpus | cross-entropy |
| SeqKD | teacher | cross-entropy |
| WordKD | corpus | KL(T || S) |
| RevKD | corpus | KL(S || T) |
| GKD | student with probability lmbda, else corpus | JSD(beta) |

The trainer knows none of them: it asks for the writer, and for one loss per token.
"""

import dataclasses
from typing import ClassVar, Literal

from torch import Tensor

from kdstudy.distill import divergences
from kdstudy.study import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Base of the methods.

    Attributes:
        writer: Who writes the tokens that are trained on.
        needs_teacher: A teacher must supply its distribution at every scored token.
        temperature: Loss temperature, for both distributions.
        noise: Scale of the Gaussian noise on the teacher's logits while training.
        lmbda: Probability that an optimizer step trains on text the student samples.
        sampling_temperature: Temperature of that sampling; unrelated to `temperature`.
    """

    writer: ClassVar[Literal["corpus", "teacher", "student"]] = "corpus"
    needs_teacher: ClassVar[bool] = False
    temperature: float = 1.0
    noise: float = 0.0
    lmbda: float = 0.0
    sampling_temperature: float = 1.0

    def losses(self, student_NV: Tensor, teacher_NV: Tensor | None, targets_N: Tensor) -> Tensor:
        """Return one loss per scored token, [N], in nats.

        Args:
            student_NV: Student logits; as wide as the teacher's when the method needs a teacher.
            teacher_NV: Teacher logits, or None when the method needs no teacher.
            targets_N: The tokens that the text holds at these positions.
        """
        raise NotImplementedError


class Sft(Method):
    """Cross-entropy on the corpus."""

    def losses(self, student_NV: Tensor, teacher_NV: Tensor | None, targets_N: Tensor) -> Tensor:
        return divergences.cross_entropy(student_NV, targets_N)


class SeqKD(Sft):
    """Cross-entropy on text the teacher wrote (Kim & Rush 2016; the paper's Eq. 1)."""

    writer = "teacher"


class WordKD(Method):
    """KL(T || S) on the corpus's tokens (Hinton et al. 2015)."""

    needs_teacher = True

    def losses(self, student_NV: Tensor, teacher_NV: Tensor | None, targets_N: Tensor) -> Tensor:
        return divergences.forward_kl(student_NV, teacher_NV, self.temperature)


class RevKD(Method):
    """KL(S || T) on the corpus's tokens (the paper's Eq. 2)."""

    needs_teacher = True

    def losses(self, student_NV: Tensor, teacher_NV: Tensor | None, targets_N: Tensor) -> Tensor:
        return divergences.reverse_kl(student_NV, teacher_NV, self.temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GKD(Method):
    """JSD(beta) on student text with probability lmbda, else on the corpus (Eq. 3-4)."""

    writer = "student"
    needs_teacher = True
    beta: float = 0.5

    def losses(self, student_NV: Tensor, teacher_NV: Tensor | None, targets_N: Tensor) -> Tensor:
        return divergences.jsd(student_NV, teacher_NV, self.temperature, beta=self.beta)


_CLASSES = {"sft": Sft, "seqkd": SeqKD, "word_kd": WordKD, "revkd": RevKD, "gkd": GKD}


def build(config: schema.Method) -> Method:
    """Return the method that a study's `methods` entry names."""
    settings = config.model_dump(exclude={"type"})
    return _CLASSES[config.type](**settings)
