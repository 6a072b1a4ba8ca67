"""Hidden-state distillation: forward KL, and hidden states that follow the teacher's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_serializer

from kdstudy.fields import TAGS
from kdstudy.methods.base import Divergence
from kdstudy.methods.objective import Recipe
from kdstudy.methods.word_kd import forward_kl

if TYPE_CHECKING:
    from torch import nn


_Layer = Annotated[int, Field(ge=0)]


class HiddenKD(Divergence):
    """KL(teacher || student) and the distance of hidden states (Romero et al. 2015)."""

    terms = staticmethod(forward_kl)

    type: Literal["hidden_kd"] = "hidden_kd"
    """Which method this is."""
    hidden_weight: float = Field(default=1.0, gt=0)
    """Factor on the distance of the hidden states, beside the divergence."""
    distance: Literal["mse", "cosine"] = "mse"
    """`mse`: mean squared difference. `cosine`: 1 - cosine. A trained projection maps the student's
    states to the teacher's width where the two differ."""
    normalise: bool = True
    """For `mse`: divide every state by its root mean square first."""
    layers: Annotated[
        Annotated[Literal["last", "even"], Tag(TAGS[0])]
        | Annotated[list[tuple[_Layer, _Layer]], Tag(TAGS[1])],
        Discriminator(lambda value: TAGS[isinstance(value, list | tuple)]),
    ] = "last"
    """Whose states: `last`, the final ones, which the teacher's cache holds; `even`, each layer of
    the shallower model with one of the other, evenly spaced; or pairs of layers counted from 0,
    the student's first: `[[1, 3], [5, 11]]`. The distance is then the mean over pairs, each with a
    projection of its own, and the teacher runs beside the student."""

    @field_validator("layers")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value == [] or (isinstance(value, list) and len({*value}) < len(value)):
            raise ValueError("names no pair, or one twice; list each pair of layers once")
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, plain: Any) -> dict[str, Any]:
        # Keys of runs from before there was a choice stay valid.
        fields = plain(self)
        return {k: v for k, v in fields.items() if (k, v) != ("layers", "last")}

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        which = tuple(self.layers) if isinstance(self.layers, list) else self.layers
        return dataclasses.replace(
            super().recipe(), extra=self._module, layers=None if which == "last" else which
        )

    def _module(self, student: int, teacher: int) -> nn.Module:
        from kdstudy.methods.hidden_loss import HiddenLoss

        fields = {"weight": self.hidden_weight, "distance": self.distance}
        return HiddenLoss(student, teacher, normalise=self.normalise, **fields)
