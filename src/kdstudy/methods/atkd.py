"""Adaptive teaching: hard tokens are taught whole, easy ones by what else the teacher held."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import Recipe

if TYPE_CHECKING:
    from torch import Tensor

# In place of minus infinity: differences of two of them are numbers.
_NEVER = -1e30


def target_and_rest(
    s: Tensor, t: Tensor, parameter: float, targets: Tensor, unsure: Tensor
) -> tuple[Tensor, Tensor]:
    """DKD for every token, and TKD + DKD where the teacher is unsure (Zhong et al. 2024).

    With g the text's token: TKD is the KL between (T_g, 1 - T_g) and (S_g, 1 - S_g); DKD that
    between the distributions over all other tokens, each divided by its sum; and
    KL(T || S) = TKD + (1 - T_g) * DKD. Where the text holds no token, TKD is 0 and DKD the whole
    KL.

    Args:
        s: The student's log-probabilities, [C, V].
        t: The teacher's.
        parameter: Not used.
        targets: The text's tokens, [C]; below 0 for none.
        unsure: Whether the teacher is, [C].
    """
    at, known = targets.clamp_min(0)[:, None], (targets >= 0)[:, None]
    s_g, t_g = s.gather(-1, at), t.gather(-1, at)
    s_rest, t_rest = (
        x.scatter(-1, at, x_g.masked_fill(known, _NEVER)) for x, x_g in ((s, s_g), (t, t_g))
    )
    # The logarithms of 1 - S_g and 1 - T_g, exact where these are tiny.
    log_s, log_t = (x.logsumexp(-1, keepdim=True) for x in (s_rest, t_rest))
    others, theirs = (s_rest - log_s).exp(), (t_rest - log_t).exp()
    whole = unsure[:, None].to(s.dtype)
    likely, rest = t_g.exp() * known, log_t.exp()
    binary = likely * (t_g - s_g) + rest * (log_t - log_s)
    value = theirs * (t_rest - log_t - s_rest + log_s)
    slope = others * (1 - whole * rest) - theirs
    return (
        value.scatter_add(-1, at, whole * known * binary),
        slope.scatter_add(-1, at, -whole * likely),
    )


class ATKD(Divergence):
    """Easy tokens by their other candidates alone, hard ones whole (ATKD, Zhong et al. 2024).

    A token is easy where the teacher's 1 - T(token) is below the median of the optimizer step.
    """

    color = "#44aa99"
    terms = staticmethod(target_and_rest)

    type: Literal["atkd"] = "atkd"
    """Which method this is."""
    easy_weight: float = Field(default=0.2, ge=0, le=1)
    """Weight of the mean over the easy tokens; the mean over the hard ones has the rest."""

    @field_validator("hard_label_weight")
    @classmethod
    def _no_labels(cls, share: float) -> float:
        if share:
            raise ValueError(
                "atkd averages easy and hard tokens apart, and the cross-entropy would be averaged "
                "so too; leave it at 0"
            )
        return share

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        recipe = super().recipe()
        objective = dataclasses.replace(recipe.objective, easy_weight=self.easy_weight)
        return dataclasses.replace(recipe, objective=objective)
