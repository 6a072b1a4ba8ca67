"""Universal logit distillation: probabilities compared by rank, whatever tokens have them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudy.methods.aligned import Aligned


class ULD(Aligned):
    """Sum of abs(S - T) over both distributions, each sorted (ULD, Boizard et al. 2025, Eq. 4-5).

    The shorter one has zeros behind it. The paper pairs the n-th token with the n-th; here the
    n-th span is.
    """

    type: Literal["uld"] = "uld"
    """Which method this is."""
    hard_label_weight: float = Field(default=0.4, ge=0, lt=1)
    """Share of the cross-entropy on the corpus's tokens; the distance has the rest. The paper's
    loss is the cross-entropy and 1.5 times the distance: 0.4 and 0.6 of 2.5."""
