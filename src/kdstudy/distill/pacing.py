"""What a token is charged at a step, where a method lets that move while the run goes on."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from kdstudy.methods.objective import Objective, Recipe


class Pacing(TrainerCallback):
    """Asks a method's pace for each step's objective, and tells it the step's loss.

    Args:
        method: The method; without a pace its objective is that of every step.
        losses: Returns the step's losses on this device, one per micro-batch, each its share of the
            step's times the number of devices.
        mean: Returns the mean of a tensor over devices.
    """

    def __init__(
        self,
        method: Recipe,
        losses: Callable[[], Sequence[Tensor]],
        mean: Callable[[Tensor], Tensor],
    ):
        self._fixed, self._losses, self._mean = method.objective, losses, mean
        self._pace = method.pace() if method.pace else None

    def objective(self, step: int, steps: int, sampled: bool) -> Objective:
        """Return what a token is charged at a step, from 0, of `steps`.

        Args:
            step: The step.
            steps: The run's.
            sampled: The student wrote the step's text.
        """
        if self._pace is None:
            return self._fixed
        return self._pace.objective(step / steps, sampled)

    def state(self) -> dict[str, float]:
        """Return what resuming needs."""
        return dict(self._pace.state) if self._pace else {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` returned."""
        if self._pace:
            self._pace.state |= state

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the pace the loss, alike on every device."""
        if self._pace and self._pace.listens:
            self._pace.seen(self._mean(torch.stack(list(self._losses())).sum()).item())
