"""Adaptive KL: forward and reverse KL, weighed by where teacher and student are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import ratio

if TYPE_CHECKING:
    from torch import Tensor

    from kdstudy.methods.objective import Terms

# Most heads are shorter: a teacher that is sure of a token has a head of one.
_TOP = 16
_BLOCK = 64


def adaptive_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Adaptive KL (Wu et al. 2025), its weights without a gradient.

    (g_head * KL(T || S) + g_tail * KL(S || T)) / (g_head + g_tail), where g is the sum of |T - S|
    over the head, the fewest likeliest tokens of T that reach the mass `parameter`, or the rest.
    """
    return _weighed(s, t, parameter, reach=True)


def released_adaptive_kl(s: Tensor, t: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """As the authors' code has it: the head is all that stays within the mass, at least a token."""
    return _weighed(s, t, parameter, reach=False)


def _weighed(s: Tensor, t: Tensor, mass: float, *, reach: bool) -> tuple[Tensor, Tensor]:
    student, teacher = s.exp(), t.exp()
    gaps = (student - teacher).detach().abs()
    forward = ratio(_of_head(teacher, gaps, mass, reach), gaps.sum(-1))[:, None]
    reverse = 1 - forward
    apart = s - t
    pull = reverse * student - forward * teacher
    return pull * apart, pull + reverse * student * apart


def _of_head(teacher: Tensor, gaps: Tensor, mass: float, reach: bool, most: int = _TOP) -> Tensor:
    """Return the sum of `gaps` over each row's head, which is looked for in its `most` likeliest.

    Sorting the vocabulary would take ten times as long as all else that is done to it.
    """
    likeliest, places = _top(teacher, min(most, teacher.shape[-1]))
    upto = likeliest.cumsum(-1)
    inside = upto - likeliest < mass if reach else upto <= mass
    inside[:, 0] = True
    found = (gaps.gather(-1, places) * inside).sum(-1)
    short = inside[:, -1].nonzero()[:, 0]
    if most < teacher.shape[-1] and len(short):
        found[short] = _of_head(teacher[short], gaps[short], mass, reach, 16 * most)
    return found


def _top(numbers: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return each row's largest numbers, falling, and their places, both [rows, most].

    They lie in the blocks whose maxima are the largest, and a maximum is quickly found.
    """
    import torch  # a study is planned without it

    blocks = numbers.shape[-1] // _BLOCK
    if blocks <= most:
        return numbers.topk(most)
    whole, device = blocks * _BLOCK, numbers.device
    maxima = numbers[:, :whole].unflatten(-1, (blocks, _BLOCK)).amax(-1)
    first = maxima.topk(most).indices[..., None] * _BLOCK
    rest = torch.arange(whole, numbers.shape[-1], device=device).expand(len(numbers), -1)
    places = torch.cat([(first + torch.arange(_BLOCK, device=device)).flatten(1), rest], 1)
    largest, at = numbers.gather(-1, places).topk(most)
    return largest, places.gather(-1, at)


class AKL(Divergence):
    """Forward and reverse KL, weighed token by token, on the corpus's tokens (Wu et al. 2025)."""

    color = "#882255"

    type: Literal["akl"] = "akl"
    """Which method this is."""
    head_mass: float = Field(default=0.5, gt=0, lt=1)
    """Probability of the teacher's likeliest tokens that are its head: the more of the gap between
    the models lies there, the more the forward KL weighs, and the reverse KL otherwise."""
    head: Literal["paper", "released"] = "paper"
    """`paper`: the fewest tokens that reach the mass. `released`: all that stay within it, and the
    likeliest in any case, as the authors' code has it."""

    @property
    def terms(self) -> Terms:
        """The divergence."""
        return released_adaptive_kl if self.head == "released" else adaptive_kl

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.head_mass
