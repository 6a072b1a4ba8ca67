"""DistillTrainer: transformers.Trainer around a method-blind loss with one global denominator."""

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback

from kdstudy.data.prompts import Encoded
from kdstudy.distill import (
    assemble,
    batches,
    checkpoints,
    epochs,
    hub,
    onpolicy,
    pacing,
    policy_gradient,
    replay,
    sharded,
    token_difficulty,
    validation,
)
from kdstudy.distill.config import DistillConfig, own
from kdstudy.distill.evaluating import Evaluating, read_rows
from kdstudy.distill.interrupt import Interrupt
from kdstudy.distill.means import Means
from kdstudy.distill.model import DistillModel, Teacher
from kdstudy.distill.nan_guard import NanGuard
from kdstudy.distill.resumable import Resumable
from kdstudy.distill.rows import golds_of, require_golds, require_prompts
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError
from kdstudy.models import load, packing, parts
from kdstudy.models.parts import Model
from kdstudy.models.sample import seed_of


class DistillTrainer(Evaluating, Resumable):
    """Trains a student, alone or from a teacher.

    The optimizer step's denominator (response tokens, or sequences) is counted over all its
    micro-batches and devices, after on-policy text has been sampled; cutting a step differently
    changes memory and not the result. Checkpoints are folders that PEFT or transformers load.

    Args:
        model: The student: a model, or the name of one (zoo, folder or Hub id). It stays at hand
            as `trainer.student`; `trainer.model` is the module that holds it and the loss.
        teacher_model: The teacher, likewise, or an object with `width`, `head` and `hidden`
            (`distill.model.Teacher`); None for a method without one.
        args: How to train.
        train_dataset: Rows as `distill.rows.encode_dataset` takes them.
        eval_dataset: Rows that `evaluate` measures the method's own loss on, or a mapping of such
            sets by name.
        corpus_dataset: Rows that it measures the cross-entropy on, when those are others.
        replay_dataset: Rows of general text, some of which every step reads beside its own: see
            `DistillConfig.replay_weight`.
        replay_eval_dataset: Rows of such text that `evaluate` measures the cross-entropy on.
        replay_base: With `replay_towards: base` and without an adapter, what the student was before
            anything trained it; None: the student as it is given, of which a copy is made.
        processing_class: The student's tokenizer; None loads it from where the model came from.
        peft_config: Adapter to train in the student's place.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.

    Attributes:
        text: What became of each dataset: its rows, and how many were cut or dropped.

    Raises:
        InputError: Rows do not fit, models do not match, or the configuration contradicts itself.
    """

    def __init__(
        self,
        model: Model | str | Path,
        teacher_model: Model | Teacher | str | Path | None = None,
        args: DistillConfig | None = None,
        *,
        train_dataset: Any,
        eval_dataset: Any = None,
        corpus_dataset: Any = None,
        replay_dataset: Any = None,
        replay_eval_dataset: Any = None,
        replay_base: Model | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        args = own(args)
        method, self._fsdp = args.recipe(), sharded.plugin_of(args)
        if self._fsdp is not None:
            sharded.require_shardable(method, args.method_fields()["method"])
        hub.require_reachable(args)
        model, tokenizer, self._base = assemble.student(model, args, processing_class, peft_config)
        self.weighing = args.weighing(method)
        self.eos_ids = load.eos_ids(model, tokenizer)
        given = {"train_dataset": train_dataset, "corpus_dataset": corpus_dataset}
        for name, rows in validation.parts(eval_dataset).items():
            given[_part(name)] = rows
        again = {"replay_dataset": replay_dataset, "replay_eval_dataset": replay_eval_dataset}
        again = {name: rows for name, rows in again.items() if rows is not None}
        golds = golds_of(method.judging, "corrected")
        self.text = {
            name: read_rows(name, rows, tokenizer, args, golds if name == "train_dataset" else None)
            for name, rows in (given | again).items()
        }
        self._replay = replay.of_arguments({name: self.text[name].rows for name in again}, args)
        self.rows, self._corpus, *_ = (text.rows for text in self.text.values())
        self._validation = {
            name: self.text[_part(name)].rows for name in validation.parts(eval_dataset)
        }
        if method.lmbda:
            places = self.text["train_dataset"].numbers or range(len(self.rows))
            require_prompts(self.rows, places, tokenizer.bos_token_id)
            if golds is not None:
                require_golds(self.rows, places)
        read = [row for text in self.text.values() for row in text.rows]
        parts.require_room(
            model, max(len(row.ids) for row in read), max(max(row.ids) for row in read)
        )
        known = [row for name in given for row in self.text[name].rows]
        teacher = assemble.teacher(teacher_model, method, args, model, tokenizer, known)
        self._teacher_name = assemble.public_name(teacher_model) if teacher else ""
        self._counts = checkpoints.Counts()
        named = {"replay_loss": self._replay is not None, "reward": method.reward > 0}
        self._means = Means([name for name, on in named.items() if on])
        validation.require_measured(args.metric_for_best_model, list(self._validation))
        self._guard, self._interrupt, self._border = NanGuard(), Interrupt(), epochs.Border()
        self._doubts = token_difficulty.of_method(method, teacher, self.weighing)
        if self._doubts is not None and self._fsdp is not None and isinstance(teacher, LiveTeacher):
            raise InputError(
                f"{args.method_fields()['method']}: asks the teacher about rows before their step",
                why="under FSDP all processes would have to ask a live teacher at the same moment",
                remedy="cache the teacher (teacher_cache), or train on one device or with DDP",
            )
        assemble.require_writer(teacher, method, sharded=self._fsdp is not None)
        self._pacing = pacing.Pacing(method, self._taught, self._mean)
        ours = (self._guard, self._pacing, self._border, checkpoints.Best(), self._interrupt)
        self._order = self._plan(args)
        base = None
        if self._replay is not None:
            self._replay.plan(len(self._order))
            base = self._replay.base(model, replay_base, sharded=self._fsdp is not None)
        super().__init__(
            model=DistillModel(model, method, teacher, base),
            args=args,
            train_dataset=self.rows,
            eval_dataset=self._validation or None,
            processing_class=tokenizer,
            callbacks=[*(callbacks or ()), *ours],
            optimizers=optimizers,
        )
        if self._fsdp is not None:
            sharded.prepare(self.model, self.accelerator)

    @property
    def student(self) -> Model:
        """The student, with its adapter if it has one; under FSDP its weights are sharded."""
        return self.model.student

    @property
    def tokens(self) -> int:
        """Scored tokens of the run so far."""
        return self._counts.tokens

    @property
    def padding_share(self) -> float:
        """Share of all training positions so far that were padding."""
        counts = self._counts
        return 1 - counts.real / counts.cells if counts.cells else 0.0

    @property
    def compared_share(self) -> float | None:
        """Share of the tokens that the student wrote so far that are compared with its teacher's.

        None where the two have the same tokens, or the student wrote none.
        """
        counts = self._counts
        return counts.compared / counts.written if counts.written else None

    # What follows overrides transformers.Trainer.

    def create_accelerator_and_postprocess(self) -> None:
        """As in Trainer; sharded on CPUs too."""
        super().create_accelerator_and_postprocess()
        if self._fsdp is not None:
            sharded.enable(self.accelerator, self._fsdp)
            self.is_fsdp_enabled = True

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager:
        """Mixed precision for a sharded model, which accelerate does not put it around."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().compute_loss_context_manager()

    def get_train_dataloader(self) -> DataLoader:
        """Yield the row numbers of this device's micro-batches, an epoch at a time."""
        return epochs.loader(self._order, len(self.rows), self.args, lambda: self.state.global_step)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], int]:
        """Return one optimizer step's micro-batches and its denominator over all devices."""
        numbers = [n for micro in itertools.islice(epoch_iterator, num_batches) for n in micro]
        if not numbers:  # the run is over, and Trainer asks for the rest of its last epoch
            return [], 0
        rows = [self.rows[n] for n in numbers]
        step = self.state.global_step
        method, self._read = self.model.method, (0, 0)
        rewards: list[float] = []
        if sampled := self._on_policy(step):
            rows = self._sampled(rows, step)
            rewards = self._rewarded(rows) if method.reward else []
        weights, denominator = self.weighing.weights(rows)
        objective = self._pacing.objective(step, self.args.max_steps, sampled)
        seeds = self._row_seeds("noise", step, len(rows)) if method.noise else None
        parts = batches.by_length([len(row.ids) for row in rows], num_batches)
        made = [
            batches.collate(
                [rows[i] for i in part],
                self.weighing,
                self.args.device,
                weights=[weights[i] for i in part],
                noise_seeds=[seeds[i] for i in part] if seeds else (),
                sampled=sampled,
                objective=objective,
                rewards=[rewards[i] for i in part] if rewards else (),
            )
            for part in parts
        ]
        if sampled and method.whiten:
            with self.accelerator.autocast():
                made = policy_gradient.whitened(made, self.model.drawn, self._everywhere)
        if self._doubts is not None:
            made = self._doubts.told_apart(made, self._everywhere)
        places = self.text["train_dataset"].numbers
        self._guard.begin(step, [[places[numbers[i]] for i in part] for part in parts])
        again = self._replay.of_step(step, len(made)) if self._replay else [None] * len(made)
        denominator, replayed = self._count(made, again, denominator)
        if self._replay is not None:
            made = self._replay.beside(made, again, replayed)
            self._means.add("replay_loss", 0.0, 1)  # a step; its micro-batches add what they are
        return [{"batch": batch} for batch in made], denominator

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in Trainer; the loss is remembered until the step's gradients are checked."""
        loss = super().training_step(*args, **kwargs)
        self._guard.losses.append(loss)
        if self._replay is not None:
            # As Trainer scales a loss whose denominator is counted over all devices.
            self._replay.taught.append(self.model.taught * self.args.world_size)
            self._means.add("replay_loss", self.model.replayed * self.args.world_size, 0)
        return loss

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """As in Trainer, whose models have their ids among the inputs."""
        kind = self.args.include_num_input_tokens_seen
        if kind in ("no", False):
            return
        batch = inputs["batch"]
        _, lengths, _ = replay.with_replay(batch)
        real = kind == "non_padding"
        count = sum(lengths) if real else packing.positions(self.student, lengths)
        seen = torch.tensor(count, device=self.args.device)
        self.state.num_input_tokens_seen += self.accelerator.gather(seen).sum().item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer, with the padding so far; epochs are passes over the rows."""
        if "loss" in logs:
            logs["padding_share"] = round(self.padding_share, 4)
            if (share := self.compared_share) is not None:
                logs["compared_share"] = round(share, 4)
            means = self._means.taken(self._summed)
            logs |= {name: mean for name, (mean, _) in means.items()}
            if "reward" in means:
                logs["reward_texts"] = means["reward"][1]
        self._count_epochs()
        super().log(logs, start_time)

    # Our own parts.

    def _plan(self, args: DistillConfig) -> list[list[int]]:
        """Return the row numbers of every optimizer step, and tell `args` how many there are."""
        order = batches.order(
            len(self.rows),
            steps=args.max_steps if args.max_steps > 0 else None,
            epochs=args.num_train_epochs,
            batch_size=epochs.rows_per_step(args),
            seed=args.seed if args.data_seed is None else args.data_seed,
        )
        args.max_steps = len(order)
        return order

    def _on_policy(self, step: int) -> bool:
        """Draw lmbda once per optimizer step, alike on every device."""
        draw = random.Random(seed_of("lmbda", self.args.seed, step)).random()
        return draw < self.model.method.lmbda

    def _taught(self) -> list[torch.Tensor]:
        """Return the step's losses without what is replayed, one per micro-batch."""
        return self._guard.losses if self._replay is None else self._replay.taught

    def _mean(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, "mean")

    def _summed(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value.to(self.args.device), "sum")

    def _everywhere(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the rows of a matrix on all devices, which may have unlike numbers of them."""
        if self.args.world_size == 1:
            return matrix
        whole = self.accelerator.pad_across_processes(matrix, pad_index=float("nan"))
        gathered = self.accelerator.gather(whole)
        return gathered[~gathered[:, 0].isnan()]

    def _row_seeds(self, purpose: str, step: int, rows: int) -> list[int]:
        first = self.args.process_index * rows
        return [seed_of(purpose, self.args.seed, step, first + i) for i in range(rows)]

    def _sampled(self, rows: Sequence[Encoded], step: int) -> list[Encoded]:
        teacher = self.model.teacher
        with self.model.layout.whole() as student:
            made = onpolicy.rewritten(
                student,
                rows,
                self.model.method,
                self.processing_class,
                max_length=self.args.max_length,
                width=teacher.width if teacher else None,
                seeds=self._row_seeds("sample", step, len(rows)),
                eos_ids=self.eos_ids,
                teacher=assemble.writer(teacher),
            )
        if self.model.method.spans is not None:
            self._read = teacher.read(rows, made)
        return made

    def _rewarded(self, rows: Sequence[Encoded]) -> list[float]:
        """Return what each row brings for its answer; the share of right ones is logged."""
        found = [onpolicy.right(row, self.processing_class, self.eos_ids) for row in rows]
        self._means.add("reward", sum(found), len(found))
        return [self.model.method.reward * right for right in found]

    def _count(
        self,
        made: Sequence[batches.Batch],
        again: Sequence[batches.Batch | None],
        denominator: int,
    ) -> tuple[int, int]:
        """Add up what the step trains on and replays, over all devices; return both denominators.

        Tokens of a run are those that its method scores; what it replays costs positions alone.
        """
        lengths = [
            (*batch.lengths, *(part.lengths if part else ()))
            for batch, part in zip(made, again, strict=True)
        ]
        counts = [
            denominator,
            sum(batch.targets_N.numel() for batch in made),
            sum(map(sum, lengths)),
            sum(packing.positions(self.student, rows) for rows in lengths),
            int(self._interrupt.asked),
            sum(part.targets_N.numel() for part in again if part),
            *self._read,
        ]
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=self.args.device)).tolist()
        denominator, tokens, real, cells, asked, replayed, written, compared = counts
        self._interrupt.agreed = asked > 0
        self._counts.tokens += tokens
        self._counts.real += real
        self._counts.cells += cells
        self._counts.written += written
        self._counts.compared += compared
        # A step whose rows have no scored token has a loss of 0, not of 0 / 0.
        return max(1, denominator), replayed


def _part(name: str) -> str:
    return f"eval_dataset.{name}" if name else "eval_dataset"
