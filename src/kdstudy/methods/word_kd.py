"""Word-level distillation: forward KL at every token of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from kdstudy.methods.base import Divergence

if TYPE_CHECKING:
    from torch import Tensor


def forward_kl(s: Tensor, t: Tensor, parameter: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(T || S) (Hinton et al. 2015).

    `parameter` is added to T's probabilities, as the paper's released code does with 1e-9.
    """
    weight = t.exp() + parameter
    return weight * (t - s), -weight


class WordKD(Divergence):
    """KL(teacher || student) on the corpus's tokens (Hinton 2015)."""

    color = "#d55e00"
    preset: ClassVar[Mapping[str, Any]] = {
        "normalisation": "sequences",
        "probability_epsilon": 1e-9,
    }
    terms = staticmethod(forward_kl)

    type: Literal["word_kd"] = "word_kd"
    """Which method this is."""
    probability_epsilon: float = Field(default=0.0, ge=0)
    """Added to the teacher's probabilities; the released code adds 1e-9."""

    @property
    def parameter(self) -> float:
        """The number that `terms` is handed."""
        return self.probability_epsilon
