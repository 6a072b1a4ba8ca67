"""On-policy distillation: reverse KL on text that the student samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdstudy.methods.base import OnPolicy
from kdstudy.methods.revkd import reverse_kl


class OnPolicyRevKL(OnPolicy):
    """KL(student || teacher) at every token of text that the student samples."""

    terms = staticmethod(reverse_kl)

    type: Literal["onpolicy_revkl"] = "onpolicy_revkl"
    """Which method this is."""
    lmbda: float = Field(default=1.0, gt=0, le=1)
    """Probability that an optimizer step trains on text the student has just sampled."""
