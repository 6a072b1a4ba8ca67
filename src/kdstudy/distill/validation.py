"""What a student is measured on while it trains: one set of rows, or several by name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.token_difficulty import Doubts
from kdstudy.errors import InputError, StageError

MEASURES = ("loss", "cross_entropy")


def parts(dataset: Any) -> dict[str, Any]:
    """Return an evaluation dataset's parts by name; one that is not several has the name ''."""
    if dataset is None:
        return {}
    return dict(dataset) if isinstance(dataset, Mapping) else {"": dataset}


def require_measured(metric: str | None, names: Sequence[str]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation will have, before a run has begun.

    Args:
        metric: As in TrainingArguments, with `eval_` or without.
        names: Of the evaluation dataset's parts.

    Raises:
        InputError: Names those that there are.
    """
    known = [f"eval_{name}_{m}" if name else f"eval_{m}" for name in names for m in MEASURES]
    if metric is not None and known and f"eval_{metric.removeprefix('eval_')}" not in known:
        raise InputError(
            f"DistillConfig: metric_for_best_model is {metric}, which no evaluation has",
            remedy=f"one of {', '.join(known)}",
        )


def measured(
    model: nn.Module,
    rows: Sequence[Encoded],
    weighing: batches.Weighing,
    accelerator: Accelerator,
    size: int,
    doubts: Doubts | None = None,
    *,
    labels_only: bool = False,
) -> tuple[float, float]:
    """Return the method's loss and the cross-entropy, in nats; every device measures all rows.

    Args:
        model: A `DistillModel`, as accelerate has put it around.
        rows: What to measure on.
        weighing: What is scored and what is averaged.
        accelerator: Says where, and in which precision.
        size: Rows of a forward pass.
        doubts: Tells easy tokens from hard ones; their median is that of all rows.
        labels_only: The cross-entropy in place of the method's loss too; no teacher is asked.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    weights, denominator = weighing.weights(rows)
    # By length, so that little is padding.
    made = [
        batches.collate(
            [rows[i] for i in part],
            weighing,
            accelerator.device,
            weights=[weights[i] for i in part],
        )
        for part in batches.by_length([len(r.ids) for r in rows], math.ceil(len(rows) / size))
    ]
    if doubts is not None:
        made = doubts.told_apart(made, lambda matrix: matrix)
    for batch in made:
        # Before training, Trainer has not yet put its own around the model.
        with torch.no_grad(), accelerator.autocast():
            sums += torch.stack(model(batch, labels_only=labels_only)).double().cpu()
    loss, entropy = (sums / denominator).tolist()
    return loss, entropy


def require_finite(metrics: Mapping[str, float], step: int) -> None:
    """Stop a run whose validation loss is no number.

    Raises:
        StageError: Names the step and the numbers.
    """
    if not all(map(math.isfinite, metrics.values())):
        loss, entropy = metrics.values()
        raise StageError(
            f"step {step}: the validation loss is {loss}, the cross-entropy {entropy}",
            remedy="lower the learning rate, or look for broken weights",
        )
