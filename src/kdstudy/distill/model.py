"""The module that is trained: student body -> scored positions -> head -> the method's loss.

Shapes: N scored tokens, H hidden width, V vocabulary entries.
"""

import contextlib

import torch
from torch import Tensor, nn

from kdstudy.distill import divergences
from kdstudy.distill.batches import Batch
from kdstudy.distill.methods import Method
from kdstudy.distill.teacher import LiveTeacher, add_noise
from kdstudy.models import parts


class DistillModel(nn.Module):
    """A student with its loss inside `forward`, where DDP and FSDP hook in.

    Args:
        student: Plain or PEFT causal LM.
        method: What is charged per token.
        teacher: Supplies logits, when the method needs them.
        autocast: Type for mixed precision (full fine-tuning with float32 weights); None for none.

    Raises:
        InputError: The student changes logits after its head.
    """

    # transformers.Trainer then passes the step's token count to forward.
    accepts_loss_kwargs = True

    def __init__(
        self,
        student: parts.Model,
        method: Method,
        teacher: LiveTeacher | None = None,
        autocast: torch.dtype | None = None,
    ):
        super().__init__()
        if method.needs_teacher and teacher is None:
            raise ValueError(f"{type(method).__name__} needs a teacher's distribution")
        parts.require_linear_head(student)
        self.student = student
        self.method = method
        self.teacher = teacher if method.needs_teacher else None
        self.autocast = autocast

    def forward(self, batch: Batch, num_items_in_batch: int | None = None) -> tuple[Tensor, ...]:
        """Return (loss,) for training, or the sums (loss, cross-entropy) for validation.

        Args:
            batch: The micro-batch.
            num_items_in_batch: Tokens (or sequences) of the whole optimizer step, over all
                micro-batches and devices; the loss is this micro-batch's share of the step's.
                None returns the weighted sums over the scored tokens, of which nobody has taken
                a mean.
        """
        student_NV = self._student_logits(batch)
        loss = self._weighted(self._losses(student_NV, batch), batch)
        if num_items_in_batch is not None:
            return (loss / num_items_in_batch,)
        entropy = divergences.cross_entropy(student_NV, batch.targets_N)
        return loss, self._weighted(entropy, batch)

    def _losses(self, student_NV: Tensor, batch: Batch) -> Tensor:
        if self.teacher is None:
            return self.method.losses(student_NV, None, batch.targets_N)
        with self._precision(batch):
            teacher_NV = self.teacher.logits(batch)
        teacher_NV = add_noise(teacher_NV, batch, self.method.noise)
        return self.method.losses(student_NV[:, : self.teacher.width], teacher_NV, batch.targets_N)

    def _student_logits(self, batch: Batch) -> Tensor:
        with self._precision(batch):
            hidden_NH = parts.scored_hidden(
                self.student, batch.ids_BL, batch.rows_N, batch.positions_N
            )
            return parts.head(self.student)(hidden_NH)

    def _precision(self, batch: Batch) -> contextlib.AbstractContextManager:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(batch.ids_BL.device.type, dtype=self.autocast)

    @staticmethod
    def _weighted(losses_N: Tensor, batch: Batch) -> Tensor:
        return (losses_N * batch.weights_N).sum()
