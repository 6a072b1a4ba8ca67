"""Rows -> the run's order -> tensors; the one place that shifts labels and counts tokens.

Shapes: T tokens of all rows, N scored tokens.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.methods.objective import Objective

LossTokens = Literal["response", "all", "positions"]
Normalisation = Literal["tokens", "sequences", "micro_batches"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weighing:
    """What is scored, and what a step's sum is divided by.

    Attributes:
        loss_tokens: `response`; `all`: the prompt's tokens too; `positions`: the output after the
            last token as well, where the text holds no target (the paper's released code).
        normalisation: `tokens`: the sum over the step's tokens, over their number. `sequences`:
            the mean over each row, then over rows. `micro_batches`: the mean over the tokens of
            each group of rows, then over groups (the paper's released code).
        group: Rows of such a group, in the step's order.
    """

    loss_tokens: LossTokens = "response"
    normalisation: Normalisation = "tokens"
    group: int = 4

    def scored(self, row: Encoded) -> Sequence[int]:
        """Return which tokens of a row are scored; position 0 has nothing before it."""
        if self.loss_tokens == "response":
            return row.scored
        return range(1, len(row.ids) + (self.loss_tokens == "positions"))

    def weights(self, rows: Sequence[Encoded]) -> tuple[list[float], int]:
        """Return the weight of each row's tokens, and what the weighted sum is divided by.

        Args:
            rows: All rows of this device's part of an optimizer step, in the run's order.
        """
        tokens = [len(self.scored(row)) for row in rows]
        if self.normalisation == "tokens":
            return [1.0] * len(rows), sum(tokens)
        size = 1 if self.normalisation == "sequences" else self.group
        groups = [sum(group) for group in split(tokens, size)]
        weights = [1.0 / max(1, groups[i // size]) for i in range(len(rows))]
        return weights, sum(n > 0 for n in groups)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The tokens of a micro-batch that the student drew.

    A prompt's tokens and the end of a text were not drawn: they are told 0.

    Attributes:
        targets_N: The tokens; -1 for those that were not drawn.
        weights_N: S(token) / mixture(token), in float64.
        returns_N: What they bring, the weights left out, in float64.
    """

    targets_N: Tensor
    weights_N: Tensor
    returns_N: Tensor

    @property
    def told_N2(self) -> Tensor:
        """What an objective is told of each."""
        return torch.stack([self.weights_N, self.weights_N * self.returns_N], 1)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One micro-batch, its rows one behind the other.

    What is scored is stated by place, never deduced from a padding id.

    Attributes:
        texts: The rows.
        ids_T: Token ids of all rows.
        lengths: Tokens of each row.
        places_N: Place in `ids_T` whose output predicts each scored token, in row order: one before
            the token's own.
        targets_N: The token itself; -1 where the text has ended.
        weights_N: Its weight in the step's sum, in float64.
        noise_seeds_N: One seed per scored token for the teacher's noise; None for none.
        sampled: The student wrote the text, so that its tokens are nobody's labels.
        objective: What a token is charged in this step; None for the method's own.
        hard_N: Which tokens the teacher is unsure of, where the objective asks
            (`token_difficulty.Doubts`).
        charges_N: Each token's weight in the step's loss then, in float64.
        rewards: What each row's drawn tokens bring for its answer; empty where nobody asks.
        drawn: Those tokens, where they were looked at before the step (`returns.whitened`).
        replay: Rows of general text that go through the student beside these; None for none.
        replay_scale: What the sum of their cross-entropies is multiplied by.
    """

    texts: tuple[Encoded, ...]
    ids_T: Tensor
    lengths: tuple[int, ...]
    places_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    noise_seeds_N: Tensor | None = None
    sampled: bool = False
    objective: Objective | None = None
    hard_N: Tensor | None = None
    charges_N: Tensor | None = None
    rewards: tuple[float, ...] = ()
    drawn: Drawn | None = None
    replay: "Batch | None" = None
    replay_scale: float = 0.0


def collate(
    rows: Sequence[Encoded],
    weighing: Weighing,
    device: torch.device,
    *,
    weights: Sequence[float] | None = None,
    noise_seeds: Sequence[int] = (),
    sampled: bool = False,
    objective: Objective | None = None,
    rewards: Sequence[float] = (),
) -> Batch:
    """Return the rows as one micro-batch on `device`.

    Args:
        rows: The rows.
        weighing: What is scored.
        device: Where to put the tensors.
        weights: Weight of each row's tokens, from `Weighing.weights`; None for these rows' own.
        noise_seeds: One seed per row for the teacher's noise.
        sampled: The student wrote the rows.
        objective: What a token is charged in this step.
        rewards: What each row's drawn tokens bring for its answer.
    """
    weights = weighing.weights(rows)[0] if weights is None else weights
    at = [weighing.scored(row) for row in rows]
    counts = torch.tensor([len(a) for a in at])
    lengths = tuple(len(row.ids) for row in rows)
    starts = itertools.accumulate(lengths, initial=0)
    ended = [(*row.ids, -1) for row in rows]
    targets = [ids[i] for ids, a in zip(ended, at, strict=True) for i in a]
    places = [start + i - 1 for start, a in zip(starts, at, strict=False) for i in a]
    return Batch(
        texts=tuple(rows),
        ids_T=torch.tensor([i for row in rows for i in row.ids], device=device),
        lengths=lengths,
        places_N=torch.tensor(places, dtype=torch.long, device=device),
        targets_N=torch.tensor(targets, dtype=torch.long, device=device),
        weights_N=torch.tensor(weights, dtype=torch.float64).repeat_interleave(counts).to(device),
        noise_seeds_N=_seeds(noise_seeds, at, device),
        sampled=sampled,
        objective=objective,
        rewards=tuple(rewards),
    )


def _seeds(rows: Sequence[int], at: Sequence[Sequence[int]], device: torch.device) -> Tensor | None:
    """Return each scored token's seed, [N]: its row's and the position that predicts it."""
    if not rows:
        return None
    seeds_N = torch.tensor(rows, dtype=torch.int64)[[n for n, row in enumerate(at) for _ in row]]
    positions_N = torch.tensor([i - 1 for row in at for i in row], dtype=torch.int64)
    return (seeds_N + positions_N).to(device)  # of 64 bits, which may wrap around


def by_length(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Return row numbers in `parts` groups of rows alike in length, so that little is padding.

    Which rows a step holds is not touched: only rounding changes.
    """
    ordered = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return split(ordered, math.ceil(len(ordered) / parts))


def split(rows: Sequence, size: int) -> list[list]:
    """Return consecutive groups of `size`; the last may be smaller."""
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def order(
    rows: int, *, batch_size: int, seed: int, epochs: float = 1, steps: int | None = None
) -> list[list[int]]:
    """Return the row numbers of every optimizer step of the run.

    Permutations of the rows follow each other without a seam, so every step has `batch_size`
    rows; a smaller batch at each epoch's end would weigh its tokens more.

    Args:
        rows: Number of training rows.
        batch_size: Rows per optimizer step, over all devices.
        seed: Seed of the permutations.
        epochs: Passes over them; the run's length is rounded to whole steps, at least one.
        steps: The run's length, in place of `epochs`.
    """
    steps = steps or max(1, round(rows * epochs / batch_size))
    generator = torch.Generator().manual_seed(seed)
    flat: list[int] = []
    while len(flat) < steps * batch_size:
        flat += torch.randperm(rows, generator=generator).tolist()
    return split(flat[: steps * batch_size], batch_size)
