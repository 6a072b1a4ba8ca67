"""The tokens of each row that a method charges, where it does not charge all.

Shapes: N scored tokens, K of them chosen, H hidden width.
"""

import math

import torch
from torch import Tensor

from kdstudy.distill import fused
from kdstudy.distill.batches import Batch
from kdstudy.distill.fused import Side, TeacherSide
from kdstudy.methods.objective import Selection
from kdstudy.models import parts


@torch.no_grad()
def chosen(
    selection: Selection,
    batch: Batch,
    student_NH: Tensor,
    head: parts.Head,
    teacher: Side,
) -> tuple[Tensor, Tensor]:
    """Return the chosen tokens' numbers, rising, and their weights in the loss, [K] both.

    Of n scored tokens of a row the ceil(share * n) of the highest entropy are chosen. They stand
    for the row: each weighs n / chosen of what it would, and a step's denominator stays what it
    is, whatever its micro-batches and devices choose.
    """
    student = TeacherSide(hidden=student_NH, head=head)
    entropies_N = fused.entropies(student if selection.by == "student" else teacher)
    ends = torch.tensor(batch.lengths, device=student_NH.device).cumsum(0)
    rows_N = torch.searchsorted(ends, batch.places_N, right=True)
    tokens, weights = [], []
    for numbers in torch.arange(len(rows_N), device=rows_N.device).split(
        rows_N.bincount(minlength=len(ends)).tolist()
    ):
        # Not 4 of 15 at a share of 0.2, which is above a fifth by rounding.
        most = math.ceil(selection.share * len(numbers) - 1e-9)
        best = numbers[entropies_N[numbers].topk(most).indices.sort().values]
        tokens.append(best)
        weights.append(batch.weights_N[best] * (len(numbers) / max(1, most)))
    return torch.cat(tokens), torch.cat(weights)
