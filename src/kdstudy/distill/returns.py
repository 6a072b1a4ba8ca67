"""What each token that the student drew brings, for a policy gradient.

Shapes: N scored tokens, H hidden width.
"""

import dataclasses

import torch
from torch import Tensor

from kdstudy.distill import fused
from kdstudy.distill.batches import Batch
from kdstudy.distill.fused import Side, TeacherSide
from kdstudy.methods.objective import Objective, Returns
from kdstudy.models import parts


@torch.no_grad()
def told(
    objective: Objective,
    batch: Batch,
    student_NH: Tensor,
    head: parts.Head,
    teacher: Side,
) -> tuple[Tensor, Tensor]:
    """Return the tokens that the student drew, [N], and what an objective is told of each, [N, 2].

    A row is whole in its micro-batch, so that neither cuts nor devices matter. A prompt's tokens
    and the end of a text were not drawn: their token is -1, and they are told 0.

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
    if not (asked.weight or asked.teacher_share):
        return targets_N, torch.stack([weights_N, returns_N], 1)
    student = TeacherSide(hidden=student_NH, head=head)
    at = targets_N, objective.temperature
    ours_N = fused.log_of_target(student, *at)
    rewards_N = (fused.log_of_target(teacher, *at) - ours_N).double()
    if asked.teacher_share:
        apart_N = rewards_N
        if teacher.disturb is not None:
            quiet = dataclasses.replace(teacher, disturb=None)
            apart_N = (fused.log_of_target(quiet, *at) - ours_N).double()
        weights_N /= 1 - asked.teacher_share + asked.teacher_share * apart_N.exp()
    if asked.clip is not None:
        rewards_N = rewards_N.clamp(-asked.clip, asked.clip)
    parts_of_rows = (x.split(counts) for x in (rewards_N, drawn_N, returns_N))
    for rewards, drawn, found in zip(*parts_of_rows, strict=True):
        found[drawn] = found.new_tensor(_to_go(rewards[drawn].tolist(), asked))
    return targets_N, torch.stack([weights_N, asked.weight * weights_N * returns_N], 1)


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
