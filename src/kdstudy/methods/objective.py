"""What a student is charged per token, as elementwise terms over the vocabulary.

With s and t the log-probabilities of student S and teacher T at one vocabulary entry, a divergence
is the sum of `value` over the entries, and `slope` is d value / d s. Every gradient follows from
these two alone: as s is a log-softmax, the gradient with respect to the student's logit is
slope - S * sum(slope), divided by the temperature (distill/fused.py). That keeps one place for the
softmax and one line of calculus for each divergence, which lies in its method's file.

`parameter` is the divergence's number, beta or alpha; 0 for none; a tuple where there are several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Parameter = float | tuple[float, ...]
Terms = Callable[["Tensor", "Tensor", Any], "tuple[Tensor, Tensor]"]
"""A divergence's (s, t, parameter) -> (value, slope), each of the shape of s and t."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Returns:
    """What a token that the student drew brings: the rewards log T(y)/S(y) of tokens behind it.

    Attributes:
        weight: Factor on it.
        discount: A reward k tokens further on counts discount**k.
        mean: Divide the sum by the number of its rewards.
        own: The token's own reward is among them.
        clip: Bound on a reward's size, in nats; None for none.
        teacher_share: Share of the teacher in the mixture that the text was drawn from.
    """

    weight: float = 1.0
    discount: float = 1.0
    mean: bool = False
    own: bool = False
    clip: float | None = None
    teacher_share: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """What a method needs the corpus's right answers for.

    Attributes:
        does: What it does with them, in words.
        otherwise: What to write if it shall not.
        labels: What answers may be where they are neither numbers nor capital letters.
    """

    does: str
    otherwise: str
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one token, in nats.

    (1 - hard_label_weight) * tau**2 * D(T, S) + hard_label_weight * -log S_1(target), where D
    sees both distributions at temperature tau and S_1 is the student's at temperature 1.

    Attributes:
        divergence: D; None for cross-entropy alone, with `hard_label_weight` 1.
        parameter: D's number or numbers: beta, alpha.
        temperature: tau.
        tau_squared: Multiply D by tau**2, so that its gradient keeps the scale it has at
            tau = 1 (Hinton et al. 2015, section 2.1).
        hard_label_weight: Share of the cross-entropy.
        weight: Factor on D beside its share.
        easy_weight: Where it is given, D is also handed the text's tokens and at which of them the
            teacher is unsure, [C] both: at those where 1 - T(token) is no less than the step's
            median. The mean over the others has this weight, and the mean over those the rest.
        returns: Where it is given, D is also handed the tokens that the student drew, [C], below 0
            for none, and of each its importance weight S(token) / mixture(token) and its returns
            times that weight, [C, 2]; 0 for none.
    """

    divergence: Terms | None
    parameter: Parameter = 0.0
    temperature: float = 1.0
    tau_squared: bool = True
    hard_label_weight: float = 0.0
    weight: float = 1.0
    easy_weight: float | None = None
    returns: Returns | None = None

    @property
    def asks(self) -> bool:
        """Whether D is handed more than two distributions."""
        return self.easy_weight is not None or self.returns is not None

    @property
    def scale(self) -> float:
        """What D is multiplied by."""
        power = self.temperature**2 if self.tau_squared else 1.0
        return (1 - self.hard_label_weight) * power * self.weight

    @property
    def unlabelled(self) -> Objective:
        """The same on text that nobody gave as an answer: the divergence is all of the loss."""
        return dataclasses.replace(self, hard_label_weight=0.0)


CROSS_ENTROPY = Objective(divergence=None, hard_label_weight=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Which tokens of a row are charged.

    Attributes:
        share: Share of its scored tokens, rounded up.
        by: Those are chosen at which this model's distribution has the highest entropy.
    """

    share: float
    by: Literal["student", "teacher"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spans:
    """How spans of tokens are compared with a teacher's of another tokenizer.

    Attributes:
        merge: `observed`: a span has its first token's distribution, times the probabilities of
            the tokens that follow. `bayesian`: its last one's, times those before it.
        matched_weight: Weight of the tokens that both vocabularies have, which the objective's
            divergence compares; the sorted rest has what is left. None: their share of the
            teacher's tokens. Without a divergence all tokens are sorted.
    """

    merge: Literal["observed", "bayesian"]
    matched_weight: float | None = None


class Pace:
    """An objective that moves while a run goes on. Each run has one of its own.

    Attributes:
        state: What resuming needs, by name.
        listens: Whether it is told losses.
    """

    state: dict[str, float]
    listens: bool = False

    def objective(self, progress: float, sampled: bool) -> Objective:
        """Return what a token is charged in a step.

        Args:
            progress: Share of the run's steps that are done.
            sampled: The student wrote the step's text.
        """
        raise NotImplementedError

    def seen(self, loss: float) -> None:
        """Take a step's loss into account, the mean over all devices and micro-batches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a trainer needs to know of a method.

    Attributes:
        source: Who writes the tokens that are trained on; `start`: whoever the student was when
            its training began.
        objective: What a token is charged; in validation alone, where there is a pace.
        pace: Makes a run's pace, which says what a token is charged at each training step.
        selection: Which tokens are charged; None for all.
        spans: How the teacher's spans of other tokens are compared; None where it has the same.
        noise: Scale of the Gaussian noise on the teacher's logits while training.
        lmbda: Probability that an optimizer step trains on text the student samples.
        sampling_temperature: Temperature of that sampling; unrelated to the objective's.
        teacher_share: Share of the teacher in the mixture that the text is drawn from.
        retokenised: Student text is decoded without special tokens and encoded again, as the
            paper's released code does; otherwise the sampled ids are kept.
        normalisation: Overrides the run's; None keeps it.
        extra: Makes a module beside the divergence from the widths of the final hidden states of
            student and teacher. It is called with both states, [N, H_S] and [N, H_T], and the
            tokens' weights, [N], and returns a weighted sum that is added to the loss. Its
            parameters are trained with the student's and saved in checkpoints alone.
        layers: Pairs of layers, the student's and the teacher's counted from 0, whose states
            `extra` is called with in the place of the final ones: a module for each pair, and the
            mean of what they return. `even`: pairs evenly spaced. None: the final states alone.
        whiten: What the drawn tokens of a step bring has mean 0 and variance 1, on all devices.
        reward: What each token of a text that the student drew brings besides where the text's
            answer is right; 0: answers are not looked at.
        judging: What right answers are needed for while training; None for nothing.
    """

    source: Literal["corpus", "teacher", "student", "start"]
    objective: Objective = CROSS_ENTROPY
    pace: Callable[[], Pace] | None = None
    selection: Selection | None = None
    spans: Spans | None = None
    noise: float = 0.0
    lmbda: float = 0.0
    sampling_temperature: float = 1.0
    teacher_share: float = 0.0
    retokenised: bool = False
    normalisation: Literal["tokens", "sequences", "micro_batches"] | None = None
    extra: Callable[[int, int], nn.Module] | None = None
    layers: Literal["even"] | tuple[tuple[int, int], ...] | None = None
    whiten: bool = False
    reward: float = 0.0
    judging: Judging | None = None

    @property
    def asks_anew(self) -> bool:
        """Every step asks the teacher's body: no cache holds what it is asked for."""
        return self.lmbda == 1 or self.layers is not None

    @property
    def written_before(self) -> bool:
        """Somebody answers the corpus's prompts before the run begins."""
        return self.source in ("teacher", "start")

    @property
    def needs_teacher(self) -> bool:
        """A teacher must supply its distribution at every scored token."""
        return self.objective.divergence is not None or self.spans is not None


def log(probability: Tensor) -> Tensor:
    """Return a mixture's logarithm; where it is zero, so is everything that it multiplies."""
    return probability.clamp_min(_tiny(probability)).log()


def ratio(part: Tensor, mixture: Tensor) -> Tensor:
    """Return part / mixture for a part that is zero wherever the mixture is."""
    return part / mixture.clamp_min(_tiny(mixture))


def _tiny(numbers: Tensor) -> float:
    import torch  # a study is planned without it

    return torch.finfo(numbers.dtype).tiny
