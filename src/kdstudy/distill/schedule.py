"""When a run logs, evaluates and saves, and its settings in transformers' words."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from kdstudy.errors import StageError
from kdstudy.study import schema
from kdstudy.study.stages import Progress


class Schedule(TrainerCallback):
    """Says when to log, evaluate and save, and tells `progress` how far the run is."""

    def __init__(self, steps: int, evaluations: int, progress: Progress):
        self._steps, self._progress = steps, progress
        self._evaluate_at = {math.ceil(steps * i / evaluations) for i in range(1, evaluations + 1)}
        self._log_every = max(1, steps // 100)
        self._numbers: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        control.should_evaluate = control.should_save = step in self._evaluate_at
        control.should_log = control.should_evaluate or step % self._log_every == 0
        self._progress(step, self._steps, "step", **self._numbers)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        known = ("loss", "learning_rate", "eval_loss", "eval_cross_entropy")
        self._numbers |= {name: logs[name] for name in known if name in logs}
        if not math.isfinite(logs.get("loss", 0.0)):
            raise StageError(
                f"step {state.global_step}: the training loss is {logs['loss']}",
                remedy="lower train.learning_rate, or look for broken weights",
            )


def training_arguments(
    train: schema.Train, steps: int, folder: Path, seed: int, report_to: Sequence[str]
) -> TrainingArguments:
    """Return what transformers.Trainer needs to know.

    Args:
        train: How to train.
        steps: Optimizer steps of the run.
        folder: Where checkpoints go.
        seed: Seed of everything random in the loop.
        report_to: Trackers that transformers knows.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        # The data loader goes through the whole run once: its order holds every epoch.
        num_train_epochs=1,
        learning_rate=train.learning_rate,
        lr_scheduler_type="constant_with_warmup"
        if train.schedule == "constant"
        else train.schedule,
        warmup_steps=min(train.warmup_steps, steps // 10),
        weight_decay=train.weight_decay,
        max_grad_norm=1.0,
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
        # A NaN must be seen, not replaced by the mean of what came before.
        logging_nan_inf_filter=False,
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=False,
    )
    # torch.nn.DataParallel would cut a micro-batch again, behind the token count's back.
    _ = arguments.device
    arguments._n_gpu = min(1, arguments._n_gpu)
    return arguments
