"""Stops a run whose loss or gradient is no longer a number, before the weights take it in."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from kdstudy.distill.sharded import sum_of_norms
from kdstudy.errors import StageError


class NanGuard(TrainerCallback):
    """Looks at every optimizer step's losses and gradients just before the weights change.

    Attributes:
        losses: The step's losses so far, one per micro-batch.
    """

    def __init__(self):
        self.losses: list[Tensor] = []
        self._step, self._rows = 0, [[]]

    def begin(self, step: int, rows: list[list[int]]) -> None:
        """Remember which rows of the dataset the step's micro-batches hold."""
        self._step, self._rows, self.losses = step, rows, []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise a StageError if anything of this step is not finite."""
        grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norms = sum_of_norms(grads) if grads else torch.zeros(())
        # One look at the device for the whole step.
        sound = torch.stack([*self.losses, norms.to(self.losses[0])]).isfinite().tolist()
        if all(sound):
            return
        broken = [i for i, fine in enumerate(sound[:-1]) if not fine]
        what = "the gradient is not a finite number"
        rows = [n for part in self._rows for n in part]
        if broken:
            what = f"the loss of micro-batch {broken[0]} is {self.losses[broken[0]].item()}"
            rows = self._rows[broken[0]]
        raise StageError(
            f"step {self._step + 1}: {what}",
            why=f"it holds the training rows {', '.join(map(str, rows))}, counted from 0; the "
            "weights were not changed by this step, and earlier checkpoints are kept",
            remedy="lower the learning rate, look at these rows, or look for broken weights",
        )
