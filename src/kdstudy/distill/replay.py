"""General text mixed into every step, so that a student forgets less of what it is not taught.

A step's loss is the method's, over the method's own denominator, plus `weight` times a mean over
the replayed rows' tokens on all devices. Towards the `text` that is their cross-entropy (the
language-model term of MiniLLM, Gu et al. 2024, as a term of any method); towards the `base` it is
KL(base || student), base being the student's own weights before anything trained them. Which rows a
step replays follows from its number alone, so a resumed run replays the same.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.batches import Batch
from kdstudy.errors import InputError
from kdstudy.methods.word_kd import WordKD
from kdstudy.models import packing, parts
from kdstudy.models.sample import seed_of

TOWARDS_BASE = WordKD().recipe().objective
"""What a replayed token is charged towards the base: KL(base || student) at temperature 1."""


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

    def base(
        self, student: parts.Model, given: parts.Model | None, *, sharded: bool
    ) -> "Base | None":
        """Return what the rows are held to; None for their text. Raises as `Base` does.

        Args:
            student: What will be trained.
            given: As `Base` takes it.
            sharded: Its weights lie on several devices.
        """
        if self._args.replay_towards == "text":
            return None
        if sharded:
            raise InputError(
                "replay_towards base: the student would be asked twice in a step",
                why="under FSDP all processes would have to ask at the same moment, and they "
                "replay unlike numbers of rows",
                remedy="replay towards the text, or train on one device or with DDP",
            )
        return Base(student.to(self._args.device), given)

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


class Base:
    """The student's weights before anything trained them, as a model.

    Where an adapter is trained that is the student with its adapter off, which takes no memory.
    Where the weights themselves are, it is a second, frozen copy of them.

    Args:
        student: What will be trained, and has not been.
        given: That copy, where the student's weights are those of another run's end already; it is
            put in eval mode and frozen here.

    Raises:
        InputError: The student changes more than its adapter turns off.
    """

    def __init__(self, student: parts.Model, given: parts.Model | None = None):
        self._adapted = student if isinstance(student, PeftModel) else None
        if self._adapted is not None:
            if given is not None:
                raise InputError(
                    "replay_base: the student has an adapter, and its base is itself without it",
                    why="rows would be held to another model than the one given",
                    remedy="leave replay_base out, or train all weights",
                )
            _require_all_off(self._adapted)
            self.head = parts.head(student, adapted=False)
            return
        if given is student:
            raise InputError(
                "replay_base: is the student itself, which is trained",
                remedy="leave it out, and a copy is made",
            )
        model = copy.deepcopy(student) if given is None else given
        self._model = model.to(student.device).eval().requires_grad_(False)
        packing.enable(self._model)
        self.head = parts.head(self._model)

    @contextlib.contextmanager
    def opened(self) -> Iterator[parts.Model]:
        """Give the model, in eval mode, while open; the student stays as it is."""
        if (student := self._adapted) is None:
            yield self._model
            return
        # PEFT turns adapters off and on together with their gradients.
        trained = [p for p in student.parameters() if p.requires_grad]
        training = student.training
        student.eval()
        try:
            with student.disable_adapter():
                yield student
        finally:
            student.train(training)
            student.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)


def _require_all_off(student: PeftModel) -> None:
    config = student.active_peft_config
    begun = getattr(config, "init_lora_weights", True)
    if begun not in (True, False, None, "gaussian", "orthogonal"):
        raise InputError(
            f"replay_towards base: the adapter begins with init_lora_weights {begun!r}",
            why="that moves a part of the model's own weights into the adapter, so that what is "
            "left where the adapter is off is no longer the base",
            remedy="leave init_lora_weights out, or replay towards the text",
        )
    bias = getattr(config, "bias", "none")
    if bias != "none":
        raise InputError(
            f"replay_towards base: the adapter trains biases of the model itself (bias: {bias!r})",
            why="they stay on where the adapter is off, so that this is no longer the base",
            remedy='leave bias at "none", or replay towards the text',
        )


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
    if args.replay_towards not in ("text", "base"):
        raise InputError(
            f"DistillConfig: replay_towards is {args.replay_towards!r}",
            remedy="set it to text or base",
        )
    rows, measured = (given.get(f"replay_{part}", ()) for part in ("dataset", "eval_dataset"))
    if bool(rows) != (args.replay_weight > 0):
        missing = "replay_weight is 0" if rows else "there is no replay_dataset"
        raise InputError(
            f"DistillConfig: {missing}",
            why="replay needs both text and a weight",
            remedy="give both, or neither",
        )
    if args.replay_towards == "base" and not rows:
        raise InputError(
            "DistillConfig: replay_towards base, and nothing is replayed",
            remedy="give replay_dataset and replay_weight, or leave replay_towards out",
        )
    return Replay(rows, measured, args) if rows else None


def with_replay(batch: Batch) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Return ids, lengths and places of a micro-batch's rows and of those it replays, as one."""
    if (again := batch.replay) is None:
        return batch.ids_T, batch.lengths, batch.places_N
    places_N = torch.cat([batch.places_N, again.places_N + len(batch.ids_T)])
    ids_T = torch.cat([batch.ids_T, again.ids_T])
    return ids_T, (*batch.lengths, *again.lengths), places_N
