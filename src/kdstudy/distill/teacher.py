"""Teacher signals: hidden states at scored positions, the head that reads them, and noise.

Shapes: B rows, L positions, N scored tokens, H hidden width, V vocabulary entries.
"""

import torch
from torch import Tensor

from kdstudy.distill.batches import Batch
from kdstudy.models import parts


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
        parts.require_linear_head(model)

    # no_grad and not inference_mode: the divergence's backward pass saves what comes out of here.
    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H]."""
        assert not self.model.training, "a teacher never drops out"
        return parts.scored_hidden(self.model, batch.ids_BL, batch.rows_N, batch.positions_N)

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return the teacher's logits at the batch's scored positions, [N, V]."""
        return parts.head(self.model)(self.hidden(batch))[:, : self.width]


def add_noise(logits_NV: Tensor, batch: Batch, scale: float) -> Tensor:
    """Return logits plus Gaussian noise of standard deviation `scale`, in float32, [N, V].

    Each row has its own generator, seeded by the trainer from run seed, optimizer step and the
    row's place in the step: the noise is fresh at every step and does not depend on how a step is
    cut into micro-batches. Batches without seeds (validation) are never disturbed.
    """
    if not scale or not batch.noise_seeds:
        return logits_NV
    tokens = torch.bincount(batch.rows_N, minlength=len(batch.noise_seeds)).tolist()
    generator = torch.Generator(device=logits_NV.device)
    noise = [
        torch.randn(
            (n, logits_NV.shape[1]),
            generator=generator.manual_seed(seed),
            device=logits_NV.device,
        )
        for n, seed in zip(tokens, batch.noise_seeds, strict=True)
    ]
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return logits_NV.to(wide) + scale * torch.cat(noise)
