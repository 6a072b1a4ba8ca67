"""Which rows a device takes at which step: the run's order, cut into micro-batches.

Trainer counts in epochs: it divides the step that a checkpoint was written after by the length of
the loader, skips the rest, and asks for a whole epoch. Here a step's rows follow from its number
alone, and an epoch that Trainer asks for beyond the run's last step is empty, so that no two counts
can disagree.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from kdstudy.distill import batches


def loader(
    order: Sequence[list[int]], rows: int, args: TrainingArguments, step: Callable[[], int]
) -> DataLoader:
    """Yield the row numbers of this device's micro-batches, an epoch at a time.

    Args:
        order: Row numbers of every optimizer step of the run, over all devices.
        rows: Rows of the dataset.
        args: Says how many devices there are, and how many rows a micro-batch has.
        step: Says which step the run is at when an epoch begins.
    """
    size = args.per_device_train_batch_size
    mine = [
        micro
        for step in order
        for micro in batches.split(_share(step, args.process_index, args.world_size), size)
    ]
    # Not accelerator.prepare: rows are shared out here, and the order is the run's own. The
    # loader's private generator keeps it from drawing on the one that dropout uses.
    return DataLoader(
        range(rows),
        batch_sampler=_Epoch(mine, steps_per_epoch(rows, args), args, step),
        collate_fn=list,
        generator=torch.Generator(),
    )


def rows_per_step(args: TrainingArguments) -> int:
    """Return the rows of an optimizer step, over all devices."""
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return size * max(1, args.world_size)


def steps_per_epoch(rows: int, args: TrainingArguments) -> int:
    """Return the optimizer steps of what Trainer takes for an epoch: those that hold all rows."""
    return math.ceil(rows / rows_per_step(args))


class Border(TrainerCallback):
    """Knows whether an epoch has just ended.

    Attributes:
        crossed: No step has begun since an epoch ended.
    """

    def __init__(self):
        self.crossed = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch is under way."""
        self.crossed = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """It has ended."""
        self.crossed = True


class _Epoch:
    """The micro-batches of the epoch that the run is in; Trainer asks again for each.

    The run's permutations follow each other without a seam, so an epoch here is the whole steps
    that hold a pass over the rows, and the last one may be shorter.
    """

    def __init__(
        self, run: list[list[int]], steps: int, args: TrainingArguments, step: Callable[[], int]
    ):
        self._run, self._steps, self._step = run, steps, step
        self._parts = args.gradient_accumulation_steps

    def __len__(self) -> int:
        return self._steps * self._parts

    def __iter__(self) -> Iterator[list[int]]:
        first = self._step() // self._steps * len(self)
        return iter(self._run[first : first + len(self)])


def _share(step: list[int], rank: int, world: int) -> list[int]:
    size = len(step) // max(1, world)
    return step[rank * size : (rank + 1) * size]
