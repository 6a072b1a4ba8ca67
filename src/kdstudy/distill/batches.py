"""Rows -> the run's order -> tensors; the one place that shifts labels and counts tokens.

Shapes: B rows, L positions, N scored tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdstudy.data.prompts import Encoded

LossTokens = Literal["response", "all"]
Normalisation = Literal["tokens", "sequences"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch, padded on the right.

    There is no attention mask: attention is causal and padding stands after every real token, so
    it cannot reach one. What is scored is stated by position, never deduced from a padding id.

    Attributes:
        ids_BL: Token ids; padding is 0.
        rows_N: Row of each scored token, in row order.
        positions_N: Position whose output predicts it: one before its own.
        targets_N: The token itself.
        weights_N: Its weight in the step's sum: 1, or 1 / scored tokens of its row.
        noise_seeds: One seed per row for the teacher's noise; empty for none.
    """

    ids_BL: Tensor
    rows_N: Tensor
    positions_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    noise_seeds: tuple[int, ...] = ()


def scored(row: Encoded, loss_tokens: LossTokens) -> range:
    """Return the positions of a row's scored tokens; position 0 has nothing before it."""
    return range(max(1, row.prompt_length if loss_tokens == "response" else 1), len(row.ids))


def count(rows: Sequence[Encoded], loss_tokens: LossTokens, normalisation: Normalisation) -> int:
    """Return what the sum over `rows` is divided by: scored tokens, or rows that have any."""
    lengths = [len(scored(row, loss_tokens)) for row in rows]
    return sum(lengths) if normalisation == "tokens" else sum(n > 0 for n in lengths)


def collate(
    rows: Sequence[Encoded],
    *,
    loss_tokens: LossTokens,
    normalisation: Normalisation,
    device: torch.device,
    noise_seeds: Sequence[int] = (),
) -> Batch:
    """Return the rows as one micro-batch on `device`."""
    width = max(len(row.ids) for row in rows)
    where: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for b, row in enumerate(rows):
        at = scored(row, loss_tokens)
        where += [b] * len(at)
        positions += range(at.start - 1, at.stop - 1)
        targets += row.ids[at.start : at.stop]
        weights += [1.0 if normalisation == "tokens" else 1.0 / max(1, len(at))] * len(at)
    ids = [list(row.ids) + [0] * (width - len(row.ids)) for row in rows]
    return Batch(
        ids_BL=torch.tensor(ids, device=device),
        rows_N=torch.tensor(where, dtype=torch.long, device=device),
        positions_N=torch.tensor(positions, dtype=torch.long, device=device),
        targets_N=torch.tensor(targets, dtype=torch.long, device=device),
        weights_N=torch.tensor(weights, dtype=torch.float32, device=device),
        noise_seeds=tuple(noise_seeds),
    )


def split(rows: Sequence, size: int) -> list[list]:
    """Return consecutive groups of `size`; the last may be smaller."""
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def order(rows: int, *, epochs: float, batch_size: int, seed: int) -> list[list[int]]:
    """Return the row numbers of every optimizer step of the run.

    Permutations of the rows follow each other without a seam, so every step has `batch_size`
    rows; a smaller batch at each epoch's end would weigh its tokens more.

    Args:
        rows: Number of training rows.
        epochs: Passes over them; the run's length is rounded to whole steps, at least one.
        batch_size: Rows per optimizer step, over all devices.
        seed: Seed of the permutations.
    """
    steps = max(1, round(rows * epochs / batch_size))
    generator = torch.Generator().manual_seed(seed)
    flat: list[int] = []
    while len(flat) < steps * batch_size:
        flat += torch.randperm(rows, generator=generator).tolist()
    return split(flat[: steps * batch_size], batch_size)
