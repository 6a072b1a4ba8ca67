"""The module that is trained: student body -> scored positions -> head -> the method's loss.

Shapes: N scored tokens, H hidden width, V vocabulary entries.
"""

import contextlib
import dataclasses

import torch
from torch import Tensor, nn

from kdstudy.distill import divergences
from kdstudy.distill.batches import Batch
from kdstudy.distill.methods import Method
from kdstudy.distill.teacher import LiveTeacher, add_noise
from kdstudy.models import parts


@dataclasses.dataclass(frozen=True, slots=True)
class Sums:
    """Weighted sums over the scored tokens of one micro-batch; nobody has taken a mean.

    Attributes:
        loss: The method's own loss.
        cross_entropy: -log S(target); None unless asked for.
    """

    loss: Tensor
    cross_entropy: Tensor | None = None


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

    def forward(self, batch: Batch, num_items_in_batch: int) -> tuple[Tensor]:
        """Return (loss,): this micro-batch's share of the optimizer step's loss.

        Args:
            batch: The micro-batch.
            num_items_in_batch: Tokens (or sequences) of the whole step, over all micro-batches
                and devices.
        """
        return (self.sums(batch).loss / num_items_in_batch,)

    def sums(self, batch: Batch, *, with_cross_entropy: bool = False) -> Sums:
        """Return the weighted sums of the method's loss and, if asked, of the cross-entropy."""
        student_NV = self._student_logits(batch)
        teacher_NV = None
        shared_NV = student_NV
        if self.teacher is not None:
            shared_NV = student_NV[:, : self.teacher.width]
            with self._precision(batch):
                teacher_NV = self.teacher.logits(batch)
            teacher_NV = add_noise(teacher_NV, batch, self.method.noise)
        losses_N = self.method.losses(shared_NV, teacher_NV, batch.targets_N)
        loss = (losses_N * batch.weights_N).sum()
        if not with_cross_entropy:
            return Sums(loss)
        return Sums(loss, _cross_entropy(student_NV, batch))

    def cross_entropy(self, batch: Batch) -> Tensor:
        """Return the weighted sum of -log S(target)."""
        return _cross_entropy(self._student_logits(batch), batch)

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


def _cross_entropy(student_NV: Tensor, batch: Batch) -> Tensor:
    return (divergences.cross_entropy(student_NV, batch.targets_N) * batch.weights_N).sum()
