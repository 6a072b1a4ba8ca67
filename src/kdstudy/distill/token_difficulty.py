"""Tokens of a step in two halves, by how sure the teacher is of what the text says.

Shapes: N scored tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, fused
from kdstudy.distill.batches import Batch, Weighing
from kdstudy.distill.model import Teacher
from kdstudy.distill.several_teachers import Together, side_of
from kdstudy.methods.objective import Recipe


class Doubts:
    """Tells easy tokens from hard ones: easy is where 1 - T(token) is below the step's median.

    Each half is averaged by itself, over all micro-batches and devices.

    Args:
        teacher: Whose doubts they are, without noise. It is asked about each row alone, so that
            neither cuts nor devices nor resuming move them, and once.
        weighing: What is scored.
        temperature: Of its distribution.
        easy_weight: Weight of the easy tokens' mean in the loss; the hard ones' has the rest.
    """

    def __init__(
        self,
        teacher: Teacher | Together,
        weighing: Weighing,
        *,
        temperature: float,
        easy_weight: float,
    ):
        self._teacher, self._weighing = teacher, weighing
        self._temperature, self._easy_weight = temperature, easy_weight
        self._known: dict[Encoded, Tensor] = {}

    def told_apart(
        self, made: Sequence[Batch], everywhere: Callable[[Tensor], Tensor]
    ) -> list[Batch]:
        """Return a step's micro-batches with `hard_N` and `charges_N`.

        Args:
            made: Those of this device.
            everywhere: Returns the rows of a matrix on all devices.
        """
        doubts = [torch.cat([self._of(row, batch) for row in batch.texts]) for batch in made]
        pairs = zip(doubts, (batch.weights_N for batch in made), strict=True)
        every_N2 = everywhere(torch.cat([torch.stack(pair, 1) for pair in pairs]))
        doubts_N, weights_N = every_N2.unbind(1)
        ranked_N = doubts_N.sort().values
        n = len(ranked_N)
        median = (ranked_N[(n - 1) // 2] + ranked_N[n // 2]) / 2 if n else torch.zeros(())
        total, easy = weights_N.sum(), weights_N[doubts_N < median].sum()
        factors = (
            self._easy_weight * total / easy.clamp_min(1e-300),
            (1 - self._easy_weight) * total / (total - easy).clamp_min(1e-300),
        )
        told = []
        for batch, doubt_N in zip(made, doubts, strict=True):
            hard_N = doubt_N >= median
            charges_N = batch.weights_N * torch.where(hard_N, factors[1], factors[0])
            told.append(dataclasses.replace(batch, hard_N=hard_N, charges_N=charges_N))
        return told

    # One row at a time: what a row is found to be must not hang on what was computed beside it.
    @torch.no_grad()
    def _of(self, row: Encoded, batch: Batch) -> Tensor:
        """Return log(1 - T(token)) of a row's scored tokens, [N], in float64."""
        device = batch.weights_N.device
        if row not in self._known:
            alone = batches.collate([row], self._weighing, device)
            with torch.autocast(device.type, enabled=False):
                logs_N = fused.log_of_rest(
                    side_of(self._teacher, alone), alone.targets_N, self._temperature
                )
            self._known[row] = logs_N.double().cpu()
        return self._known[row].to(device)


def of_method(
    method: Recipe, teacher: Teacher | Together | None, weighing: Weighing
) -> Doubts | None:
    """Return what tells a method's tokens apart; None where it charges all alike."""
    objective = method.objective
    if objective.easy_weight is None:
        return None
    numbers = {"temperature": objective.temperature, "easy_weight": objective.easy_weight}
    return Doubts(teacher, weighing, **numbers)
