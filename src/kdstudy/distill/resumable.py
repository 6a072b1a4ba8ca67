"""A Trainer whose runs go on as if they had never stopped: what it saves, and goes on from."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from kdstudy.data.prompts import Encoded
from kdstudy.distill import assemble, checkpoints, epochs, hub, sharded
from kdstudy.distill.interrupt import Interrupt
from kdstudy.distill.means import Means
from kdstudy.distill.pacing import Pacing
from kdstudy.errors import InputError
from kdstudy.models import load


class Resumable(Trainer):
    """The part of `DistillTrainer` that saves and resumes.

    Attributes:
        rows: Training rows.
    """

    rows: tuple[Encoded, ...]
    _base: str
    _teacher_name: str
    _counts: checkpoints.Counts
    _interrupt: Interrupt
    _border: epochs.Border
    _pacing: Pacing
    _means: Means

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
        """As in Trainer; whole, however the model is sharded. Every process must call it.

        Raises:
            StageError: What was saved is another model when it is loaded again.
        """
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            if self.args.should_save and not _internal_call:
                assemble.require_reloads(self.student, Path(output_dir or self.args.output_dir))
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
            checkpoints.write_extra(folder, self.model.extra)
            self._counts.pace = self._pacing.state()
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
        checkpoints.read_extra(folder, self.model.extra)
        self._counts = checkpoints.read_counts(folder)
        self._means.clear()
        self._pacing.restore(self._counts.pace)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this device's random states, and its losses since the last log."""
        super()._save_rng_state(output_dir)
        checkpoints.write_unlogged(
            Path(output_dir),
            self.args.process_index,
            self._tr_loss.item(),
            self._globalstep_last_logged,
            self._means.state(),
        )
        # The file that says that the checkpoint is whole comes after every device's.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint and any(Path(checkpoint).glob("unlogged_*")):  # older checkpoints have none
            rank, world = self.args.process_index, self.args.world_size
            loss, since, means = checkpoints.read_unlogged(Path(checkpoint), rank, world)
            self._means.restore(means)
            self._tr_loss += loss
            # The mean that `train` returns is of the steps of this call.
            self._total_loss_scalar -= loss
            self._globalstep_last_logged = since

    def _load_best_model(self) -> None:
        self.model.layout.restore(Path(self.state.best_model_checkpoint))
        checkpoints.read_extra(Path(self.state.best_model_checkpoint), self.model.extra)

    # Our own parts.

    @property
    def _origin(self) -> hub.Origin:
        return hub.Origin(
            base=self._base,
            teachers=(self._teacher_name,) if self._teacher_name else (),
            method=self.args.method_fields(),
            adapter=isinstance(self.student, PeftModel),
        )

    @property
    def _shape(self) -> checkpoints.Shape:
        return checkpoints.Shape(rows=len(self.rows), rows_per_step=epochs.rows_per_step(self.args))

    def _count_epochs(self) -> None:
        """Have epochs mean passes over the rows; Trainer counts whole steps."""
        if self.state.epoch is not None:
            done = self.state.global_step * epochs.rows_per_step(self.args) / len(self.rows)
            self.state.epoch = round(done, 4)
