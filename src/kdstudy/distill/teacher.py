"""Teacher signals: hidden states at scored positions, the head that reads them, and noise.

Shapes: N scored tokens, C of them, H hidden width, V vocabulary entries.
"""

import dataclasses
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

    # no_grad and not inference_mode: the divergence's backward pass saves what comes out of here.
    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H]."""
        assert not self.model.training, "a teacher never drops out"
        return packing.scored_hidden(self.model, batch.ids_T, batch.lengths, batch.places_N)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise on the teacher's logits, for `fused.TeacherSide.disturb`.

    Every scored token has its own generator: the noise depends neither on how a step is cut into
    micro-batches nor on how those are cut into chunks.

    Attributes:
        scale: Standard deviation.
        seeds: One seed for each scored token.
    """

    scale: float
    seeds: Sequence[int]

    def __call__(self, logits_CV: Tensor, at: slice) -> Tensor:
        """Return the logits of the tokens `at`, disturbed, in float32 at least."""
        noisy_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32), copy=True)
        generator = torch.Generator(device=logits_CV.device)
        for row_V, seed in zip(noisy_CV, self.seeds[at], strict=True):
            drawn_V = torch.randn(
                row_V.shape, generator=generator.manual_seed(seed), device=row_V.device
            )
            row_V.add_(drawn_V, alpha=self.scale)
        return noisy_CV
