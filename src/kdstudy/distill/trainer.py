"""DistillTrainer: transformers.Trainer around a method-blind loss with one global denominator."""

import json
import math
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.model import DistillModel
from kdstudy.distill.schedule import Schedule, training_arguments
from kdstudy.errors import StageError
from kdstudy.models.sample import sample, seed_of
from kdstudy.study import schema
from kdstudy.study.stages import Progress, silent

_WEIGHTS, _COUNTS = "model.safetensors", "counts.json"


class DistillTrainer(Trainer):
    """Trains the student of a `DistillModel`.

    The optimizer step's denominator (response tokens, or sequences) is counted over all its
    micro-batches and devices, after on-policy text has been sampled; cutting a step differently
    changes memory and not the result. Checkpoints hold what is trained and nothing frozen.

    Args:
        model: Student, method and teacher.
        train: How to train.
        rows: Training rows.
        validation: Rows the method's own loss is measured on.
        corpus_validation: Rows the cross-entropy is measured on; None when they are `validation`.
        folder: Where checkpoints go, and where an interrupted run is found.
        seed: Seed of the row order, dropout, noise and on-policy text.
        eos_ids: Tokens that end on-policy text.
        micro_batch_size: Rows per forward pass and device; None for the whole step.
        report_to: Trackers that transformers knows.
        progress: Told after every optimizer step.
    """

    def __init__(
        self,
        model: DistillModel,
        train: schema.Train,
        *,
        rows: Sequence[Encoded],
        validation: Sequence[Encoded],
        corpus_validation: Sequence[Encoded] | None = None,
        folder: Path,
        seed: int,
        eos_ids: Sequence[int] = (),
        micro_batch_size: int | None = None,
        report_to: Sequence[str] = (),
        progress: Progress = silent,
    ):
        self.settings, self.seed, self.eos_ids = train, seed, tuple(eos_ids)
        self.rows, self.validation = rows, validation
        self.corpus_validation = corpus_validation
        self.tokens = self.cells = self.real = 0
        self._order = batches.order(
            len(rows), epochs=train.epochs, batch_size=train.batch_size, seed=seed
        )
        arguments = training_arguments(train, len(self._order), folder, seed, report_to)
        world = max(1, arguments.world_size)
        if train.batch_size % world:
            raise StageError(
                f"batch_size {train.batch_size} cannot be shared evenly by {world} devices",
                remedy="make it a multiple of the number of devices",
            )
        share = train.batch_size // world
        self._micro = min(micro_batch_size or share, share)
        arguments.gradient_accumulation_steps = math.ceil(share / self._micro)
        super().__init__(model=model, args=arguments, eval_dataset=list(validation))
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise StageError(
                "FSDP and DeepSpeed are configured for this process",
                why="checkpoints and on-policy text are written for whole models on each device",
                remedy="start it on one device, or with plain data parallelism (DDP)",
            )
        self.remove_callback(PrinterCallback)
        self.add_callback(Schedule(len(self._order), train.evaluations, progress))

    def run(self) -> None:
        """Train from the last whole checkpoint in the folder, or from the start.

        At the end the student holds the weights with the lowest selected validation loss.

        Raises:
            StageError: The loss is no longer a finite number.
        """
        folder = Path(self.args.output_dir)
        for checkpoint in folder.glob("checkpoint-*"):
            # Trainer writes this file last: without it the checkpoint is a torn one.
            if not (checkpoint / "trainer_state.json").is_file():
                shutil.rmtree(checkpoint)
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        self.train(resume_from_checkpoint=last)

    @property
    def padding_share(self) -> float:
        """Share of all training positions that were padding."""
        return 1 - self.real / self.cells

    def curve(self) -> list[dict[str, float]]:
        """Return one row per evaluation: losses, and the mean training loss since the last one."""
        curve, losses, before = [], [], 0
        for entry in self.state.log_history:
            if "loss" in entry:
                losses.append((entry["step"] - before, entry["loss"]))
                before, rate = entry["step"], entry["learning_rate"]
            elif "eval_loss" in entry:
                steps = sum(n for n, _ in losses)
                curve.append(
                    {
                        "step": entry["step"],
                        "loss": sum(n * loss for n, loss in losses) / steps,
                        "eval_loss": entry["eval_loss"],
                        "eval_cross_entropy": entry["eval_cross_entropy"],
                        "learning_rate": rate,
                    }
                )
                losses = []
        return curve

    # What follows overrides transformers.Trainer.

    def get_train_dataloader(self) -> DataLoader:
        """Yield this device's micro-batches of the whole run as lists of rows."""
        rank, world = self.args.process_index, max(1, self.args.world_size)
        mine = [
            micro
            for step in self._order
            for micro in batches.split(_share(step, rank, world), self._micro)
        ]
        # Not accelerator.prepare: rows are shared out here, and the order is the run's own. The
        # loader's private generator keeps it from drawing on the one that dropout uses.
        return DataLoader(
            self.rows, batch_sampler=mine, collate_fn=list, generator=torch.Generator()
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], int]:
        """Return one optimizer step's micro-batches and its denominator over all devices."""
        micros: list[list[Encoded]] = [next(epoch_iterator) for _ in range(num_batches)]
        rows = [row for micro in micros for row in micro]
        step = self.state.global_step
        if self._on_policy(step):
            rows = self._sampled(rows, step)
        noise = self._row_seeds("noise", step, len(rows)) if self.model.method.noise else []
        settings = self.settings
        total = batches.count(rows, settings.loss_tokens, settings.normalisation)
        inputs = [
            {"batch": self._collate(micro, seeds)}
            for micro, seeds in zip(
                batches.split(rows, self._micro),
                batches.split(noise, self._micro) or [[]] * num_batches,
                strict=True,
            )
        ]
        return inputs, self._count(rows, [i["batch"] for i in inputs], total)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the method's own loss and the corpus cross-entropy on the validation rows."""
        self.model.eval()
        with torch.no_grad():
            loss, entropy = self._validation_means()
        metrics = {"eval_loss": loss, "eval_cross_entropy": entropy}
        if not all(map(math.isfinite, metrics.values())):
            raise StageError(
                f"step {self.state.global_step}: the validation loss is {loss}, "
                f"the cross-entropy {entropy}",
                remedy="lower train.learning_rate, or look for broken weights",
            )
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the trained parameters only."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = _trained(self.model)
        if state_dict is not None:
            trained = {name: state_dict[name] for name in trained}
        save_file({k: v.detach().contiguous() for k, v in trained.items()}, folder / _WEIGHTS)
        counts = {"tokens": self.tokens, "cells": self.cells, "real": self.real}
        (folder / _COUNTS).write_text(json.dumps(counts))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self._restore(folder)
        for name, value in json.loads((folder / _COUNTS).read_text()).items():
            setattr(self, name, value)

    def _load_best_model(self) -> None:
        self._restore(Path(self.state.best_model_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, then keep the best checkpoint and the last one."""
        super()._save_checkpoint(model, trial)
        # Not save_total_limit: that sorts by modification time and warns where time is coarse.
        keep = {self.state.best_global_step, self.state.global_step}
        if self.args.should_save:
            for checkpoint in Path(self.args.output_dir).glob("checkpoint-*"):
                if int(checkpoint.name.rsplit("-", 1)[1]) not in keep:
                    shutil.rmtree(checkpoint)

    # Our own parts.

    def _restore(self, folder: Path) -> None:
        saved, trained = load_file(folder / _WEIGHTS), _trained(self.model)
        if saved.keys() != trained.keys():
            raise StageError(
                f"{folder}: was made by another training (its parameters have other names)",
                remedy="delete the folder and train again",
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def _collate(self, rows: Sequence[Encoded], noise: Sequence[int] = ()) -> batches.Batch:
        return batches.collate(
            rows,
            loss_tokens=self.settings.loss_tokens,
            normalisation=self.settings.normalisation,
            device=self.args.device,
            noise_seeds=noise,
        )

    def _on_policy(self, step: int) -> bool:
        """Draw lmbda once per optimizer step, alike on every device."""
        draw = random.Random(seed_of("lmbda", self.seed, step)).random()
        return draw < self.model.method.lmbda

    def _row_seeds(self, purpose: str, step: int, rows: int) -> list[int]:
        first = self.args.process_index * rows
        return [seed_of(purpose, self.seed, step, first + i) for i in range(rows)]

    def _sampled(self, rows: Sequence[Encoded], step: int) -> list[Encoded]:
        """Replace the responses by the student's own, ids as drawn; LoRA dropout off meanwhile."""
        student, teacher = self.model.student, self.model.teacher
        training = student.training
        student.eval()
        texts = sample(
            student,
            [row.ids[: row.prompt_length] for row in rows],
            max_new_tokens=[self.settings.max_length - row.prompt_length for row in rows],
            temperature=self.model.method.sampling_temperature,
            seeds=self._row_seeds("sample", step, len(rows)),
            eos_ids=self.eos_ids,
            pad_id=0,
            width=teacher.width if teacher else None,
        )
        student.train(training)
        return [
            Encoded((*row.ids[: row.prompt_length], *text.ids), row.prompt_length)
            for row, text in zip(rows, texts, strict=True)
        ]

    def _count(
        self, rows: Sequence[Encoded], made: Sequence[batches.Batch], denominator: int
    ) -> int:
        """Add up what the step trains on, and return its denominator, over all devices."""
        counts = [
            denominator,
            sum(batch.targets_N.numel() for batch in made),
            sum(len(row.ids) for row in rows),
            sum(batch.ids_BL.numel() for batch in made),
        ]
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=self.args.device)).tolist()
        denominator, tokens, real, cells = counts
        self.tokens += tokens
        self.real += real
        self.cells += cells
        return denominator

    def _validation_means(self) -> tuple[float, float]:
        loss, entropy = self._means(self.validation)
        if self.corpus_validation is not None:
            _, entropy = self._means(self.corpus_validation)
        return loss, entropy

    def _means(self, rows: Sequence[Encoded]) -> tuple[float, float]:
        """Return the method's loss and the cross-entropy; every device measures all rows."""
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in self._validation_batches(rows):
            sums += torch.stack(self.model_wrapped(batch)).double().cpu()
        loss, entropy = (sums / self._denominator(rows)).tolist()
        return loss, entropy

    def _denominator(self, rows: Sequence[Encoded]) -> int:
        return batches.count(rows, self.settings.loss_tokens, self.settings.normalisation)

    def _validation_batches(self, rows: Sequence[Encoded]) -> Iterator[batches.Batch]:
        # By length, so that little is padding; no gradient is kept, so more rows fit than in
        # training.
        for group in batches.split(sorted(rows, key=lambda r: len(r.ids)), 2 * self._micro):
            yield self._collate(group)


def _share(step: list[int], rank: int, world: int) -> list[int]:
    size = len(step) // world
    return step[rank * size : (rank + 1) * size]


def _trained(model: DistillModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
