"""What each token that the student drew brings, for a policy gradient.

Shapes: N scored tokens, D drawn ones of all devices, H hidden width.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdstudy.distill import fused
from kdstudy.distill.batches import Batch, Drawn
from kdstudy.distill.fused import Side, TeacherSide
from kdstudy.methods.objective import Objective, Returns
from kdstudy.models import parts

# Added to a variance before it divides, so that returns that are all alike become 0 and not their
# rounding, blown up.
_LEAST_VARIANCE = 1e-8


@torch.no_grad()
def drawn(
    objective: Objective,
    batch: Batch,
    student_NH: Tensor,
    head: parts.Head,
    teacher: Side,
) -> Drawn:
    """Return the tokens that the student drew and what they bring.

    A row is whole in its micro-batch, so that neither cuts nor devices matter.

    Args:
        objective: Has `returns`.
        batch: Rows that the student wrote.
        student_NH: Its final hidden states.
        head: Its head.
        teacher: The teacher's part; noise is in the rewards, and not in what the text was drawn
            from.
    """
    asked = objective.returns
    drawn_N, counts = _drawn(batch)
    targets_N = batch.targets_N.masked_fill(~drawn_N, -1)
    weights_N, returns_N = drawn_N.double(), torch.zeros_like(batch.weights_N)
    if asked.weight or asked.teacher_share:
        rewards_N, apart_N = _log_ratios(objective, targets_N, student_NH, head, teacher)
        if asked.teacher_share:
            weights_N /= 1 - asked.teacher_share + asked.teacher_share * apart_N.exp()
        if asked.clip is not None:
            rewards_N = rewards_N.clamp(-asked.clip, asked.clip)
        parts_of_rows = (x.split(counts) for x in (rewards_N, drawn_N, returns_N))
        for rewards, own, found in zip(*parts_of_rows, strict=True):
            found[own] = asked.weight * found.new_tensor(_to_go(rewards[own].tolist(), asked))
    if batch.rewards:
        whole = returns_N.new_tensor(batch.rewards).repeat_interleave(
            torch.tensor(counts, device=returns_N.device)
        )
        returns_N = returns_N + whole * drawn_N
    return Drawn(targets_N=targets_N, weights_N=weights_N, returns_N=returns_N)


def whitened(
    made: Sequence[Batch],
    asked: Callable[[Batch], Drawn],
    everywhere: Callable[[Tensor], Tensor],
) -> list[Batch]:
    """Return a step's micro-batches with `drawn`, whose returns have mean 0 and variance 1.

    Both are taken over the drawn tokens of the step, each counting once, and never over padding,
    which no row here has.

    Args:
        made: Those of this device.
        asked: Returns what a micro-batch's tokens bring.
        everywhere: Returns the rows of a matrix on all devices.
    """
    found = [asked(batch) for batch in made]
    own = [one.returns_N[one.targets_N >= 0] for one in found]
    every_D = everywhere(torch.cat(own)[:, None])[:, 0]
    if not len(every_D):
        return list(made)  # nobody drew a token
    mean = every_D.mean()
    spread = (every_D.var(correction=0) + _LEAST_VARIANCE).sqrt()
    moved = (
        dataclasses.replace(one, returns_N=(one.targets_N >= 0) * ((one.returns_N - mean) / spread))
        for one in found
    )
    return [dataclasses.replace(b, drawn=one) for b, one in zip(made, moved, strict=True)]


def _log_ratios(
    objective: Objective,
    targets_N: Tensor,
    student_NH: Tensor,
    head: parts.Head,
    teacher: Side,
) -> tuple[Tensor, Tensor]:
    """Return log T/S of each token, [N], and the same of a teacher without noise."""
    student = TeacherSide(hidden=student_NH, head=head)
    at = targets_N, objective.temperature
    ours_N = fused.log_of_target(student, *at)
    rewards_N = (fused.log_of_target(teacher, *at) - ours_N).double()
    if not objective.returns.teacher_share or teacher.disturb is None:
        return rewards_N, rewards_N
    quiet = dataclasses.replace(teacher, disturb=None)
    return rewards_N, (fused.log_of_target(quiet, *at) - ours_N).double()


def _drawn(batch: Batch) -> tuple[Tensor, list[int]]:
    """Return which scored tokens were drawn, [N], and how many tokens of each row are scored."""
    lengths, prompts = (
        torch.tensor(x, device=batch.places_N.device)
        for x in (batch.lengths, [row.prompt_length for row in batch.texts])
    )
    ends = lengths.cumsum(0)
    rows_N = torch.searchsorted(ends, batch.places_N, right=True)
    behind_N = batch.places_N + 1 - (ends - lengths)[rows_N] >= prompts[rows_N]
    return behind_N & (batch.targets_N >= 0), rows_N.bincount(minlength=len(ends)).tolist()


def _to_go(rewards: list[float], asked: Returns) -> list[float]:
    """Return what each token of a row brings."""
    found, total = [], 0.0
    for behind, reward in enumerate(reversed(rewards)):
        through = reward + asked.discount * total
        value, count = (through, behind + 1) if asked.own else (total, behind)
        found.append(value / max(1, count) if asked.mean else value)
        total = through
    return found[::-1]
