"""DistillTrainer: transformers.Trainer around a method-blind loss with one global denominator."""

import contextlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from kdstudy.data.prompts import Encoded
from kdstudy.distill import assemble, batches, checkpoints, epochs, hub, onpolicy, sharded
from kdstudy.distill.config import DistillConfig, own
from kdstudy.distill.guard import Guard
from kdstudy.distill.interrupt import Interrupt
from kdstudy.distill.model import DistillModel, Teacher
from kdstudy.distill.rows import Rows, read_dataset
from kdstudy.errors import InputError, StageError
from kdstudy.models import load
from kdstudy.models.parts import Model
from kdstudy.models.sample import seed_of

class DistillTrainer(Trainer):
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
        eval_dataset: Rows that `evaluate` measures the method's own loss on.
        corpus_dataset: Rows that it measures the cross-entropy on, when those are others.
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
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        args = own(args)
        method, self._fsdp = args.built_method(), sharded.plugin_of(args)
        model, tokenizer, self._base = assemble.student(model, args, processing_class, peft_config)
        self.weighing = args.weighing(method)
        self.eos_ids = load.eos_ids(model, tokenizer)
        names = ("train_dataset", "eval_dataset", "corpus_dataset")
        given = zip(names, (train_dataset, eval_dataset, corpus_dataset), strict=True)
        self.text = {name: _read(name, rows, tokenizer, args) for name, rows in given}
        self.rows, self.validation, self.corpus_validation = (t.rows for t in self.text.values())
        known = (*self.rows, *self.validation, *self.corpus_validation)
        teacher = assemble.teacher(teacher_model, method, args, model, tokenizer, known)
        self._teacher_name = assemble.public_name(teacher_model) if teacher else ""
        self._counts = checkpoints.Counts()
        self._guard, self._interrupt, self._border = Guard(), Interrupt(), epochs.Border()
        ours = (self._guard, self._border, checkpoints.Best(), self._interrupt)
        self._order = self._plan(args)
        super().__init__(
            model=DistillModel(model, method, teacher),
            args=args,
            train_dataset=self.rows,
            eval_dataset=self.validation or None,
            processing_class=tokenizer,
            callbacks=[*(callbacks or ()), *ours],
            optimizers=optimizers,
        )
        if self._fsdp is not None:
            sharded.prepare(self.model, self.accelerator)

    def run(self) -> None:
        """Train from the last whole checkpoint in the output folder, or from the start.

        Raises:
            StageError: A loss or gradient is no longer a finite number.
            KeyboardInterrupt: A signal asked to stop; the step was finished and saved.
        """
        if self.is_world_process_zero():
            checkpoints.remove_torn(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        with self._interrupt.listening():
            self.train(resume_from_checkpoint=checkpoints.last(self.args.output_dir))

    def save_student(self, folder: Path, base: str) -> None:
        """Write the adapter or the whole model, and the tokenizer; every process must call it.

        Args:
            folder: To fill.
            base: What an adapter is to name as its base model.
        """
        student = self.model.student
        with self.model.layout.whole(trained=isinstance(student, PeftModel)) as whole:
            if self.args.should_save:
                load.save(whole, folder, self.processing_class, base=base)

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

    # What follows overrides transformers.Trainer.

    def train(
        self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As in Trainer; True takes the last whole checkpoint of the output folder.

        Raises:
            InputError: There is none, or the run cannot go on from the one that is named.
        """
        folder = resume_from_checkpoint or None
        if folder is True:
            folder = checkpoints.last(self.args.output_dir)
            if folder is None:
                raise InputError(
                    f"there is no whole checkpoint in {self.args.output_dir}",
                    remedy="call train() without resume_from_checkpoint",
                )
        if folder is not None:
            checkpoints.require_resumable(Path(folder), self._shape)
        return super().train(folder and str(folder), *args, **kwargs)

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
        method = self.model.method
        if sampled := self._on_policy(step):
            rows = self._sampled(rows, step)
        weights, denominator = self.weighing.weights(rows)
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
            )
            for part in parts
        ]
        places = self.text["train_dataset"].numbers
        self._guard.begin(step, [[places[numbers[i]] for i in part] for part in parts])
        return [{"batch": batch} for batch in made], self._count(rows, made, denominator)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in Trainer; the loss is remembered until the step's gradients are checked."""
        loss = super().training_step(*args, **kwargs)
        self._guard.losses.append(loss)
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the method's own loss and the cross-entropy of the corpus's tokens.

        Args:
            eval_dataset: Rows; None for those the trainer was made with.
            ignore_keys: Not used.
            metric_key_prefix: Put before the names of both.

        Raises:
            StageError: One of them is not a finite number.
        """
        rows, corpus = self.validation, self.corpus_validation
        if eval_dataset is not None:
            tokenizer = self.processing_class
            rows, corpus = _read("eval_dataset", eval_dataset, tokenizer, self.args).rows, ()
        if not rows:
            raise InputError("evaluate: there are no rows", remedy="give the trainer eval_dataset")
        model = self._wrap_model(self.model, training=False)
        model.eval()
        with torch.no_grad():
            loss, entropy = self._means(model, rows)
            if corpus:
                _, entropy = self._means(model, corpus)
        metrics = {f"{metric_key_prefix}_loss": loss, f"{metric_key_prefix}_cross_entropy": entropy}
        if not all(map(math.isfinite, metrics.values())):
            raise StageError(
                f"step {self.state.global_step}: the validation loss is {loss}, "
                f"the cross-entropy {entropy}",
                remedy="lower the learning rate, or look for broken weights",
            )
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer, with the padding so far; epochs are passes over the rows."""
        if "loss" in logs:
            logs["padding_share"] = round(self.padding_share, 4)
        self._count_epochs()
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer; what an epoch's end brings comes before the checkpoint of its last step.

        Trainer calls this after a step and after an epoch. A checkpoint between the two would
        lack the epoch's evaluation for ever, as it goes on with the next epoch.
        """
        self._count_epochs()
        step, whole = self.state.global_step, epochs.steps_per_epoch(len(self.rows), self.args)
        last = step >= self.state.max_steps
        waits = not self._border.crossed and (last or step % whole == 0)
        over = last and step == self._initial_global_step  # resumed with nothing left to do
        if not waits and not over:
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer; whole, however the model is sharded. Every process must call it."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the student as PEFT or transformers do, and the tokenizer."""
        folder = Path(output_dir or self.args.output_dir)
        # A path on this machine means nothing on the Hub, and is nobody's business there.
        base = self._origin.public_base if self.hub_model_id else self._origin.base
        self.save_student(folder, base)
        if self.args.should_save and folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            checkpoints.write_counts(folder, self._counts, self._shape)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        return sharded.save_states(self.optimizer, self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        return sharded.load_states(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def create_model_card(self, **facts: Any) -> None:
        """Write README.md into the output folder; arguments as in Trainer."""
        if self.is_world_process_zero():
            hub.write_card(self, self._origin, facts)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero():
            hub.push_checkpoint(self, Path(checkpoint_folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.model.layout.restore(folder)
        self._counts = checkpoints.read_counts(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this device's random states, and its losses since the last log."""
        super()._save_rng_state(output_dir)
        checkpoints.write_unlogged(
            Path(output_dir),
            self.args.process_index,
            self._tr_loss.item(),
            self._globalstep_last_logged,
        )
        # The file that says that the checkpoint is whole comes after every device's.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint and any(Path(checkpoint).glob("unlogged_*")):  # older checkpoints have none
            rank, world = self.args.process_index, self.args.world_size
            loss, since = checkpoints.read_unlogged(Path(checkpoint), rank, world)
            self._tr_loss += loss
            # The mean that `train` returns is of the steps of this call.
            self._total_loss_scalar -= loss
            self._globalstep_last_logged = since

    def _load_best_model(self) -> None:
        self.model.layout.restore(Path(self.state.best_model_checkpoint))

    # Our own parts.

    @property
    def _origin(self) -> hub.Origin:
        return hub.Origin(
            base=self._base,
            teacher=self._teacher_name,
            method={"method": self.args.method, **self.args.given_fields()},
            adapter=isinstance(self.student, PeftModel),
        )

    @property
    def _shape(self) -> checkpoints.Shape:
        return checkpoints.Shape(
            rows=len(self.rows), rows_per_step=epochs.rows_per_step(self.args)
        )

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

    def _count_epochs(self) -> None:
        """Have epochs mean passes over the rows; Trainer counts whole steps."""
        if self.state.epoch is not None:
            done = self.state.global_step * epochs.rows_per_step(self.args) / len(self.rows)
            self.state.epoch = round(done, 4)

    def _row_seeds(self, purpose: str, step: int, rows: int) -> list[int]:
        first = self.args.process_index * rows
        return [seed_of(purpose, self.args.seed, step, first + i) for i in range(rows)]

    def _sampled(self, rows: Sequence[Encoded], step: int) -> list[Encoded]:
        teacher = self.model.teacher
        with self.model.layout.whole() as student:
            return onpolicy.rewritten(
                student,
                rows,
                self.model.method,
                self.processing_class,
                max_length=self.args.max_length,
                width=teacher.width if teacher else None,
                seeds=self._row_seeds("sample", step, len(rows)),
                eos_ids=self.eos_ids,
            )

    def _count(
        self, rows: Sequence[Encoded], made: Sequence[batches.Batch], denominator: int
    ) -> int:
        """Add up what the step trains on, and return its denominator, over all devices."""
        counts = [
            denominator,
            sum(batch.targets_N.numel() for batch in made),
            sum(len(row.ids) for row in rows),
            sum(batch.ids_BL.numel() for batch in made),
            int(self._interrupt.asked),
        ]
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=self.args.device)).tolist()
        denominator, tokens, real, cells, asked = counts
        self._interrupt.agreed = asked > 0
        self._counts.tokens += tokens
        self._counts.real += real
        self._counts.cells += cells
        # A step whose rows have no scored token has a loss of 0, not of 0 / 0.
        return max(1, denominator)

    def _means(self, model: torch.nn.Module, rows: Sequence[Encoded]) -> tuple[float, float]:
        """Return the method's loss and the cross-entropy; every device measures all rows."""
        sums = torch.zeros(2, dtype=torch.float64)
        weights, denominator = self.weighing.weights(rows)
        # By length, so that little is padding.
        parts = math.ceil(len(rows) / self.args.per_device_eval_batch_size)
        for part in batches.by_length([len(row.ids) for row in rows], parts):
            batch = batches.collate(
                [rows[i] for i in part],
                self.weighing,
                self.args.device,
                weights=[weights[i] for i in part],
            )
            # Before training, Trainer has not yet put its own around the model.
            with self.accelerator.autocast():
                sums += torch.stack(model(batch)).double().cpu()
        loss, entropy = (sums / denominator).tolist()
        return loss, entropy


def _read(name: str, dataset: Any, tokenizer: PreTrainedTokenizerBase, args: DistillConfig) -> Rows:
    return read_dataset(name, dataset, tokenizer, args.max_length, args.max_truncated_share)
