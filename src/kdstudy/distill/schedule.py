"""A study's training in transformers' words: its configuration, when it saves, its curve."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.config import DistillConfig
from kdstudy.errors import StageError
from kdstudy.stage import Progress

_OPTIONAL = ("eval_replay_cross_entropy",)
# Of the steps since the last evaluation: a mean over steps, and one over texts.
_REPLAYED, _REWARD, _TEXTS = "replay_loss", "reward", "reward_texts"
# Positions that take about as long as what a forward and backward pass costs whatever its size.
_PASS = 512
# Tokens of a pass without padding. On two cores more of them gain nothing and fill memory; that a
# GPU gains is expected, not measured.
_TOGETHER, _TOGETHER_CUDA = 2**11, 2**13


class Schedule(TrainerCallback):
    """Says when to log, evaluate and save, and tells `progress` how far the run is."""

    def __init__(self, evaluations: int, progress: Progress):
        self._evaluations, self._progress = evaluations, progress
        self._evaluate_at: set[int] = set()
        self._numbers: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parts = range(1, self._evaluations + 1)
        self._evaluate_at = {math.ceil(state.max_steps * i / self._evaluations) for i in parts}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        control.should_evaluate = control.should_save = step in self._evaluate_at
        log_every = max(1, state.max_steps // 100)
        control.should_log = control.should_evaluate or step % log_every == 0
        self._progress(step, state.max_steps, "step", **self._numbers)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        known = ("loss", "learning_rate", "eval_loss", "eval_cross_entropy")
        self._numbers |= {name: logs[name] for name in known if name in logs}


def study_config(
    train: schema.Train,
    method: methods.Method,
    rows: Sequence[Encoded],
    folder: Path,
    seed: int,
    *,
    packed: bool = False,
) -> DistillConfig:
    """Return a study's training as a configuration.

    Args:
        train: How to train.
        method: The method.
        rows: Training rows; their lengths decide how a step is cut where the study does not.
        folder: Where checkpoints go.
        seed: Seed of everything random in the run.
        packed: The student is trained without padding (`packing.enabled`).

    Raises:
        StageError: The batch cannot be shared evenly by the devices.
    """
    world = DistillConfig(output_dir=str(folder), use_cpu=not torch.cuda.is_available()).world_size
    if train.batch_size % world:
        raise StageError(
            f"batch_size {train.batch_size} cannot be shared evenly by {world} devices",
            remedy="make it a multiple of the number of devices",
        )
    share = train.batch_size // world
    micro = _micro_batch(share, train.micro_batch_size, [len(row.ids) for row in rows], packed)
    steps = max(1, round(len(rows) * train.epochs / train.batch_size))
    return DistillConfig(
        output_dir=str(folder),
        method=method,
        normalisation=train.normalisation,
        normalisation_group=train.normalisation_group,
        loss_tokens=train.loss_tokens,
        max_length=train.max_length,
        max_truncated_share=1.0,
        replay_weight=train.replay_weight,
        replay_rows=max(1, train.replayed),
        replay_towards=train.replay_towards if train.replay_weight else "text",
        seed=seed,
        num_train_epochs=train.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        # No gradient is kept, so more rows fit than in training.
        per_device_eval_batch_size=2 * micro,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup"
        if train.schedule == "constant"
        else train.schedule,
        warmup_steps=min(train.warmup_steps, steps // 10),
        weight_decay=train.weight_decay,
        max_grad_norm=1.0,
        bf16=_bfloat16(train),
        # `Schedule` decides; these only tell Trainer that it happens.
        eval_strategy="steps",
        eval_steps=steps,
        save_strategy="steps",
        save_steps=steps,
        logging_strategy="no",
        load_best_model_at_end=True,
        metric_for_best_model=(
            "eval_loss" if train.select_by == "method_loss" else "eval_cross_entropy"
        ),
        greater_is_better=False,
        report_to=list(train.report_to) or "none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=False,
    )


def curve(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return one row per evaluation: losses, and what training logged since the last one.

    Args:
        history: `TrainerState.log_history`.
    """
    rows, logs, before, rate = [], [], 0, 0.0
    for entry in history:
        if "loss" in entry:
            logs.append(entry | {"steps": entry["step"] - before})
            before, rate = entry["step"], entry["learning_rate"]
        elif "eval_loss" in entry:
            rows.append(
                {
                    "step": entry["step"],
                    "loss": _mean(logs, "loss", "steps"),
                    "eval_loss": entry["eval_loss"],
                    "eval_cross_entropy": entry["eval_cross_entropy"],
                    "learning_rate": rate,
                }
                | {k: entry[k] for k in _OPTIONAL if k in entry}
                | _beside(logs)
            )
            logs = []
    return rows


def _beside(logs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the means of what some runs log beside their loss."""
    found = {}
    if any(_REPLAYED in log for log in logs):
        found[_REPLAYED] = _mean(logs, _REPLAYED, "steps")
    if graded := [log for log in logs if _TEXTS in log]:
        found[_REWARD] = _mean(graded, _REWARD, _TEXTS)
        found[_TEXTS] = sum(log[_TEXTS] for log in graded)
    return found


def _mean(logs: Sequence[dict[str, float]], name: str, of: str) -> float:
    return sum(log[of] * log[name] for log in logs) / sum(log[of] for log in logs)


def _bfloat16(train: schema.Train) -> bool:
    if train.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return train.precision == "bfloat16"


def _micro_batch(share: int, most: int | None, lengths: Sequence[int], packed: bool) -> int:
    """Return the rows of a micro-batch, a divisor of the device's share of a step.

    With no limit given: without padding, as many as `_TOGETHER` allows. With padding, smaller ones
    hold less of it, as rows of like length go together, but every pass has a cost of its own; the
    cheapest is taken, estimated over random steps.
    """
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    if most is None and packed:
        together = _TOGETHER_CUDA if torch.cuda.is_available() else _TOGETHER
        most = max(1, together * len(lengths) // sum(lengths))
    if most is not None:
        return max(size for size in sizes if size <= most)
    steps = batches.order(len(lengths), steps=min(100, len(lengths)), batch_size=share, seed=0)

    def cost(size: int) -> int:
        cut = [
            max(lengths[step[i]] for i in part) * len(part)
            for step in steps
            for part in batches.by_length([lengths[i] for i in step], share // size)
        ]
        return sum(cut) + _PASS * len(cut)

    return min(sizes, key=cost)
