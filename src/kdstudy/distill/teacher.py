"""The live teacher: its hidden states at scored positions, and the head that reads them.

Shapes: N scored tokens, H hidden width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdstudy.distill.batches import Batch
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
