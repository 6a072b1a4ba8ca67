"""General text mixed into every step, so that a student forgets less of what it is not taught.

A step's loss is the method's, over the method's own denominator, plus `weight` times the mean
cross-entropy of the replayed rows' tokens over all devices (the language-model term of MiniLLM, Gu
et al. 2024, as a term of any method). Which rows a step replays follows from its number alone, so
a resumed run replays the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.batches import Batch
from kdstudy.errors import InputError
from kdstudy.models.sample import seed_of


class Replay:
    """The rows that a run replays, step by step.

    Args:
        rows: Training rows.
        measured: Rows that the cross-entropy is measured on.
        args: Says `replay_weight`, `replay_rows`, the seed, and which of the devices this is.

    Attributes:
        measured: See above.
        taught: The step's losses so far without the replay's share, one per micro-batch.
    """

    def __init__(self, rows: Sequence[Encoded], measured: Sequence[Encoded], args: Any):
        self._rows, self._args, self.measured = rows, args, measured
        self.taught: list[Tensor] = []
        self._order: list[list[int]] = []

    def plan(self, steps: int) -> None:
        """Draw the rows of every step of a run of so many."""
        self._order = batches.order(
            len(self._rows),
            batch_size=self._args.replay_rows,
            seed=seed_of("replay", self._args.seed),
            steps=steps,
        )

    def of_step(self, step: int, parts: int) -> list[Batch | None]:
        """Return what each of `parts` micro-batches of this device replays, maybe nothing."""
        self.taught = []
        mine = self._order[step][self._args.process_index :: max(1, self._args.world_size)]
        rows = [self._rows[i] for i in mine]
        cut = batches.by_length([len(row.ids) for row in rows], parts) if rows else []
        made = [
            batches.collate([rows[i] for i in part], batches.Weighing(), self._args.device)
            for part in cut
        ]
        return [*made, *[None] * (parts - len(made))]

    def beside(
        self, made: Sequence[Batch], parts: Sequence[Batch | None], tokens: int
    ) -> list[Batch]:
        """Return micro-batches with what they replay, of `tokens` in the step on all devices."""
        scale = self._args.replay_weight / max(1, tokens)
        return [
            dataclasses.replace(batch, replay=part, replay_scale=scale)
            for batch, part in zip(made, parts, strict=True)
        ]


def of_arguments(given: Mapping[str, Sequence[Encoded]], args: Any) -> Replay | None:
    """Return what a trainer replays, or None.

    Args:
        given: Rows by the trainer's argument: `replay_dataset`, `replay_eval_dataset`, or neither.
        args: A `DistillConfig`.

    Raises:
        InputError: There is text to replay and no weight, or a weight and no text.
    """
    if args.replay_weight < 0 or args.replay_rows < 1:
        raise InputError(
            f"DistillConfig: replay_weight {args.replay_weight:g} and replay_rows "
            f"{args.replay_rows}",
            why="a weight is at least 0, and a step replays at least one row",
        )
    rows, measured = (given.get(f"replay_{part}", ()) for part in ("dataset", "eval_dataset"))
    if bool(rows) != (args.replay_weight > 0):
        missing = "replay_weight is 0" if rows else "there is no replay_dataset"
        raise InputError(
            f"DistillConfig: {missing}",
            why="replay needs both text and a weight",
            remedy="give both, or neither",
        )
    return Replay(rows, measured, args) if rows else None


def with_replay(batch: Batch) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Return ids, lengths and places of a micro-batch's rows and of those it replays, as one."""
    if (again := batch.replay) is None:
        return batch.ids_T, batch.lengths, batch.places_N
    places_N = torch.cat([batch.places_N, again.places_N + len(batch.ids_T)])
    ids_T = torch.cat([batch.ids_T, again.ids_T])
    return ids_T, (*batch.lengths, *again.lengths), places_N
