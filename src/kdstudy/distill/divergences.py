"""What a student is charged per token, as elementwise terms over the vocabulary.

With s and t the log-probabilities of student S and teacher T at one vocabulary entry, a divergence
is the sum of `value` over the entries, and `slope` is d value / d s. Every gradient follows from
these two alone: as s is a log-softmax, the gradient with respect to the student's logit is
slope - S * sum(slope), divided by the temperature (fused.py). That keeps one place for the softmax
and one line of calculus for each divergence.

`parameter` is the divergence's one number: beta, alpha, or 0 for none.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

Terms = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def forward_kl(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(T || S) (Hinton et al. 2015).

    `parameter` is added to T's probabilities, as the paper's released code does with 1e-9.
    """
    weight = t.exp() + parameter
    return weight * (t - s), -weight


def reverse_kl(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(S || T) (the paper's Eq. 2); `parameter` is added to S's probabilities."""
    probability = s.exp()
    weight = probability + parameter
    return weight * (s - t), probability * (s - t) + weight


def jsd(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Generalised Jensen-Shannon divergence (the paper's Eq. 3-4; Agarwal et al. 2024, Eq. 1).

    beta * KL(T || M) + (1 - beta) * KL(S || M) with M = beta * T + (1 - beta) * S and
    beta = `parameter`. Divided by beta it tends to KL(T || S) as beta goes to 0, and divided by
    1 - beta to KL(S || T) as beta goes to 1.
    """
    student, teacher = s.exp(), t.exp()
    m = _log(parameter * teacher + (1 - parameter) * student)
    slope = (1 - parameter) * student * (s - m)
    return parameter * teacher * (t - m) + slope, slope


def swapped_jsd(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """The paper's released code: the terms of `jsd` around M = beta * S + (1 - beta) * T.

    Equal to `jsd` at beta = 0.5 only.
    """
    student, teacher = s.exp(), t.exp()
    mixture = parameter * student + (1 - parameter) * teacher
    m = _log(mixture)
    value = parameter * teacher * (t - m) + (1 - parameter) * student * (s - m)
    pull = parameter * student * (parameter * teacher + (1 - parameter) * student)
    return value, (1 - parameter) * student * (s - m + 1) - _ratio(pull, mixture)


def skew_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """KL(T || alpha * T + (1 - alpha) * S) (Ko et al. 2024, DistiLLM, section 3.1)."""
    student, teacher = s.exp(), t.exp()
    mixture = parameter * teacher + (1 - parameter) * student
    pull = (1 - parameter) * student * teacher
    return teacher * (t - _log(mixture)), -_ratio(pull, mixture)


def skew_reverse_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """KL(S || alpha * S + (1 - alpha) * T) (Ko et al. 2024, DistiLLM, section 3.1)."""
    student, teacher = s.exp(), t.exp()
    mixture = parameter * student + (1 - parameter) * teacher
    value = student * (s - _log(mixture))
    return value, value + student - _ratio(parameter * student * student, mixture)


def total_variation(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """Half the sum of |S - T| (Wen et al. 2023, f-DISTILL)."""
    student = s.exp()
    gap = student - t.exp()
    return gap.abs() / 2, gap.sign() * student / 2


def _log(probability: Tensor) -> Tensor:
    # Where a mixture is zero, so is everything that its logarithm is multiplied with.
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def _ratio(part: Tensor, mixture: Tensor) -> Tensor:
    return part / mixture.clamp_min(torch.finfo(mixture.dtype).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one token, in nats.

    (1 - hard_label_weight) * tau**2 * D(T, S) + hard_label_weight * -log S_1(target), where D
    sees both distributions at temperature tau and S_1 is the student's at temperature 1.

    Attributes:
        divergence: D; None for cross-entropy alone, with `hard_label_weight` 1.
        parameter: D's number: beta, alpha.
        temperature: tau.
        tau_squared: Multiply D by tau**2, so that its gradient keeps the scale it has at
            tau = 1 (Hinton et al. 2015, section 2.1).
        hard_label_weight: Share of the cross-entropy.
    """

    divergence: Terms | None
    parameter: float = 0.0
    temperature: float = 1.0
    tau_squared: bool = True
    hard_label_weight: float = 0.0

    @property
    def scale(self) -> float:
        """What D is multiplied by."""
        power = self.temperature**2 if self.tau_squared else 1.0
        return (1 - self.hard_label_weight) * power

    @property
    def unlabelled(self) -> "Objective":
        """The same on text that nobody gave as an answer: the divergence is all of the loss."""
        return dataclasses.replace(self, hard_label_weight=0.0)


CROSS_ENTROPY = Objective(divergence=None, hard_label_weight=1.0)
