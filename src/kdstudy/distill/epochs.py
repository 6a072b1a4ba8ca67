"""Which rows a device takes at which step: the run's order, cut into micro-batches."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments

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
        batch_sampler=_Epoch(mine, math.ceil(rows / rows_per_step(args)), args, step),
        collate_fn=list,
        generator=torch.Generator(),
    )


def rows_per_step(args: TrainingArguments) -> int:
    """Return the rows of an optimizer step, over all devices."""
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return size * max(1, args.world_size)


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
