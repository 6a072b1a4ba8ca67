"""Policy-gradient distillation: reverse KL of whole texts, on text that the student draws."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from kdstudy.methods.base import Divergence, Labels
from kdstudy.methods.objective import Judging, Pace, Recipe, Returns
from kdstudy.methods.revkd import reverse_kl

if TYPE_CHECKING:
    from torch import Tensor

    from kdstudy.methods.objective import Objective


def whole_step(
    s: Tensor, t: Tensor, parameter: float, drawn: Tensor, told: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(S || T) over the vocabulary, and the policy gradient of what follows.

    With y the token drawn, w its importance weight and R its returns, the gradient is that of
    KL(S || T) - w * R * log S(y), w and R held fixed. The value is the KL alone: summed over the
    tokens of drawn texts it is an unbiased estimate of the texts' KL (where teacher_share is 0).

    Args:
        s: The student's log-probabilities, [C, V].
        t: The teacher's.
        parameter: Not used.
        drawn: Tokens that the student drew, [C]; below 0 for none.
        told: w and w * R, [C, 2]; 0 for none.
    """
    value, slope = reverse_kl(s, t)
    return value, slope.scatter_add(-1, _at(drawn), -told[:, 1:].to(s.dtype))


def k1(
    s: Tensor, t: Tensor, parameter: float, drawn: Tensor, told: Tensor
) -> tuple[Tensor, Tensor]:
    """log S(y)/T(y) as the token's cost, in the place of the KL; arguments as of `whole_step`.

    Its gradient is that of a policy: the cost itself has none, which would be 0 in the mean.
    """
    apart = _apart(s, t, drawn)
    return _at_token(s, drawn, told, apart, apart)


def k2(
    s: Tensor, t: Tensor, parameter: float, drawn: Tensor, told: Tensor
) -> tuple[Tensor, Tensor]:
    """Half the square of log S(y)/T(y) as a loss, whose gradient is that of `k1`."""
    apart = _apart(s, t, drawn)
    return _at_token(s, drawn, told, apart * apart / 2, apart)


def k3(
    s: Tensor, t: Tensor, parameter: float, drawn: Tensor, told: Tensor
) -> tuple[Tensor, Tensor]:
    """T(y)/S(y) - 1 - log T(y)/S(y) as a loss.

    It is never negative and its mean is KL(S || T), but its gradient's mean is that of
    KL(T || S).
    """
    apart = _apart(s, t, drawn)
    fall = -(-apart).expm1()
    return _at_token(s, drawn, told, apart - fall, fall)


def _at(drawn: Tensor) -> Tensor:
    return drawn.clamp_min(0)[:, None]


def _apart(s: Tensor, t: Tensor, drawn: Tensor) -> Tensor:
    return s.gather(-1, _at(drawn)) - t.gather(-1, _at(drawn))


def _at_token(
    s: Tensor, drawn: Tensor, told: Tensor, value: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Return value and slope that are 0 but at the tokens drawn; both are given there, [C, 1]."""
    weight, returns = told.to(s.dtype).split(1, -1)
    # Where nothing was drawn the weight is 0, and 0 times infinity would not be.
    value, slope = (x.masked_fill(weight == 0, 0) * weight for x in (value, slope))
    nothing, at = s.new_zeros(s.shape), _at(drawn)
    return nothing.scatter(-1, at, value), nothing.scatter(-1, at, slope - returns)


_ONE_STEP = {"full": whole_step, "k1": k1, "k2": k2, "k3": k3}


class MiniLLM(Divergence):
    """The gradient of KL(student || teacher) of whole texts (MiniLLM, Gu et al. 2024).

    Student text: the KL of each step, and for each token the policy gradient of the mean
    log T/S of the tokens that follow. Corpus: reverse KL, as revkd. The text is drawn at
    `temperature`, as a policy gradient must be. Validation measures the reverse KL on the corpus.
    """

    color = "#cc6677"
    terms = staticmethod(reverse_kl)
    LATER: ClassVar[frozenset[str]] = frozenset({"whiten", "reward", "labels"})

    type: Literal["minillm"] = "minillm"
    """Which method this is."""
    lmbda: float = Field(default=1.0, gt=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled."""
    teacher_share: float = Field(default=0.2, ge=0, lt=1)
    """The text is drawn from a mixture in which the teacher has this share, and each token is
    weighed by S / mixture; 0: from the student alone. Above 0 the teacher writes beside the
    student."""
    one_step: Literal["full", "k1", "k2", "k3"] = "full"
    """How a step's own KL is charged. `full`: exactly. The others at the drawn token alone, with
    r = log T/S: `k1`, -r as a cost; `k2`, r squared / 2 (the same gradient); `k3`, exp(r) - 1 - r,
    whose gradient is in the mean that of KL(teacher || student)."""
    long_term_weight: float = Field(default=1.0, ge=0)
    """Factor on the policy gradient of what follows; 0: each step's own KL alone."""
    long_term: Literal["paper", "released"] = "paper"
    """`released`: a token's own reward is among those it is credited with, as in the authors'
    code."""
    length_normalised: bool = True
    """Divide the sum of rewards by their number, so that long texts do not weigh more."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Factor on a reward for each token that lies between; the authors' code has 0.95."""
    reward_clip: float | None = Field(default=None, gt=0)
    """Bound on the size of a reward log T/S, in nats; null for none."""
    whiten: bool = False
    """Shift and scale what the drawn tokens of a step are credited with (long_term_weight times
    what follows, and `reward`) to mean 0 and variance 1. Costs another pass of student and
    teacher."""
    reward: float = Field(default=0.0, ge=0)
    """Credit, in nats, to each token of a sampled text whose answer is right: read by the study's
    `extraction` and compared with the row's `answer`, which every row must have. It is neither
    discounted nor divided by a length."""
    labels: Labels = Field(default=[])
    """With `reward`: what the corpus's answers may be where they are neither numbers nor letters,
    such as [true, false]."""

    @property
    def on_policy_share(self) -> float:
        """Probability that an optimizer step trains on text the student samples."""
        return self.lmbda

    @property
    def judging(self) -> Judging | None:
        """What it needs right answers for; None where it needs none."""
        if not self.reward:
            return None
        does = f"rewards texts that are right (reward: {self.reward:g})"
        return Judging(does=does, otherwise="reward: 0", labels=tuple(self.labels))

    @property
    def learns_nothing_at_first(self) -> bool:
        """Whether a teacher that is the student as it comes gives it no gradient, then or later."""
        return super().learns_nothing_at_first and not self.reward

    @model_validator(mode="after")
    def _credit_makes_sense(self) -> MiniLLM:
        if self.labels and not self.reward:
            raise ValueError("labels: are what answers are compared with; they need reward")
        if self.whiten and not self.reward and self.long_term_weight != 1:
            raise ValueError(
                f"whiten: divides by the spread, so that long_term_weight "
                f"{self.long_term_weight:g} would change nothing; leave one of them out"
            )
        if self.whiten and self.long_term_weight == 0 and self.reward not in (0, 1):
            raise ValueError(
                f"whiten: divides by the spread of the reward alone, so that reward "
                f"{self.reward:g} would be as 1; write 1"
            )
        return self

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return dataclasses.replace(
            super().recipe(),
            source="student",
            lmbda=self.lmbda,
            sampling_temperature=self.temperature,
            teacher_share=self.teacher_share,
            pace=self._pace,
            whiten=self.whiten,
            reward=self.reward,
            judging=self.judging,
        )

    def _pace(self) -> Pace:
        return _Drawn(self, super().recipe().objective)


class _Drawn(Pace):
    """The policy's objective where the student drew the text, the reverse KL elsewhere."""

    def __init__(self, method: MiniLLM, objective: Objective):
        self.state, self._objective = {}, objective
        returns = Returns(
            weight=method.long_term_weight,
            discount=method.discount,
            mean=method.length_normalised,
            own=method.long_term == "released",
            clip=method.reward_clip,
            teacher_share=method.teacher_share,
        )
        self._policy = dataclasses.replace(
            objective, divergence=_ONE_STEP[method.one_step], returns=returns
        )

    def objective(self, progress: float, sampled: bool) -> Objective:
        """Return the loss of a token."""
        return self._policy if sampled else self._objective
