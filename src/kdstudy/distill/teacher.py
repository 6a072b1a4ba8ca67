"""The live teacher: its hidden states at scored positions, and the head that reads them.

Shapes: N scored tokens, H hidden width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdstudy.distill import batches
from kdstudy.distill.batches import Batch, LossTokens, Weighing
from kdstudy.models import packing, parts


class LiveTeacher:
    """A teacher that runs beside the student.

    Not an `nn.Module`: as an attribute of one it stays out of the student's parameters, state
    dict, train() and gradient synchronisation.

    Args:
        model: The teacher; put in eval mode and frozen here.
        width: Vocabulary entries it shares with the student; the rest are sliced off.

    Raises:
        InputError: The model changes logits after its head.
    """

    def __init__(self, model: parts.Model, width: int):
        self.model = model.eval().requires_grad_(False)
        self.width = width
        parts.require_known_head(model)
        packing.enable(model)
        self.head = parts.head(model).narrowed(width)

    @torch.no_grad()
    def states(self, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
        """Return what `hidden` does, and the states that some layers leave, [N, H] each."""
        assert not self.model.training, "a teacher never drops out"
        rows = batch.ids_T, batch.lengths, batch.places_N
        return packing.scored_states(self.model, *rows, layers)

    # no_grad and not inference_mode: the divergence's backward pass saves what comes out of here.
    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H]."""
        assert not self.model.training, "a teacher never drops out"
        return packing.scored_hidden(self.model, batch.ids_T, batch.lengths, batch.places_N)


class ToldTeacher:
    """A teacher that reads each row behind a prompt of its own (`Encoded.to_teacher`).

    Its student never sees that prompt: it is in no row that a student is handed, and the states are
    those of the response's tokens alone, which both have.

    Args:
        teacher: Asked in its place; a cached one must know the rows as teachers read them.
        loss_tokens: Which positions are scored: the response's.
    """

    def __init__(self, teacher: Any, loss_tokens: LossTokens):
        assert loss_tokens == "response", "prompts differ, so that their tokens cannot be scored"
        self.teacher, self._weighing = teacher, Weighing(loss_tokens=loss_tokens)
        self.width, self.head = teacher.width, teacher.head

    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H]."""
        rows = [row.to_teacher for row in batch.texts]
        return self.teacher.hidden(batches.collate(rows, self._weighing, batch.places_N.device))
