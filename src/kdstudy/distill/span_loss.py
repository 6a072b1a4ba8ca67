"""The loss of spans of tokens, beside the fused head: distributions over unlike vocabularies.

As there, no tensor of tokens x vocabulary exists beyond a chunk, and gradients are formed with the
loss. A span's masses are one token's distribution times the probabilities of its other tokens, the
span's factor. Factors are computed first; what the loss is worth in their logarithms is then the
weight of these tokens' log-probabilities, whose gradient is that of the cross-entropy.

Shapes: N scored tokens of the student, M of the teacher, G spans, R further tokens of spans, C
spans or tokens of a chunk, H and K hidden widths, V and W vocabulary entries of student and
teacher, S entries that both have.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from kdstudy.distill.fused import TeacherSide, blocks, finished, head_loss, log_of_target
from kdstudy.distill.mass_order import by_rank
from kdstudy.methods.objective import CROSS_ENTROPY, Objective
from kdstudy.models.parts import Head

# Logits of a chunk, of both sides together.
_CHUNK = 2**25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the spans of a batch.

    Attributes:
        at_G: The token whose distribution a span has, among all scored ones of that side.
        rest_R: The spans' other tokens.
        targets_R: What the text says there.
        spans_R: The span that each belongs to.
    """

    at_G: Tensor
    rest_R: Tensor
    targets_R: Tensor
    spans_R: Tensor

    def log_factors(self, hidden_NH: Tensor, head: Head) -> Tensor:
        """Return the sum of the log-probabilities of each span's other tokens, [G]."""
        tokens = TeacherSide(hidden=hidden_NH[self.rest_R], head=head)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            # 1: these heads are divided by the loss's temperature already (`_softened`).
            logs_R = log_of_target(tokens, self.targets_R, 1.0)
        return logs_R.new_zeros(len(self.at_G)).index_add(0, self.spans_R, logs_R)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """Which entries two vocabularies share.

    Attributes:
        ours_S: Entries of the student's that the teacher's has too.
        theirs_S: The teacher's, in the same order.
        only_ours: The student's other entries.
        only_theirs: The teacher's.
        weight: Of the shared entries' part of the loss; the sorted rest has what is left.
    """

    ours_S: Tensor
    theirs_S: Tensor
    only_ours: Tensor
    only_theirs: Tensor
    weight: float


def span_loss(
    hidden_NH: Tensor,
    head: Head,
    student: Side,
    theirs_MK: Tensor,
    teacher_head: Head,
    teacher: Side,
    weights_G: Tensor,
    objective: Objective,
    shared: Vocabularies,
    *,
    chunk: int | None = None,
) -> Tensor:
    """Return the weighted sum of the spans' losses, the cross-entropy's share left out.

    With S and T the spans' masses, the loss is w * D over the entries that both have, and 1 - w
    times the sum of abs(S_(k) - T_(k)) over the others, each side's sorted and the shorter one
    with zeros behind it.

    Args:
        hidden_NH: The student's final hidden states.
        head: The student's head.
        student: The student's side.
        theirs_MK: The teacher's states.
        teacher_head: The teacher's head.
        teacher: The teacher's side.
        weights_G: Weight of each span.
        objective: D, temperature and scale.
        shared: Which entries are compared by D, and w.
        chunk: Spans per chunk; None chooses.
    """
    ours, theirs = (_softened(side, objective.temperature) for side in (head, teacher_head))
    job = _Job(
        teacher_GK=theirs_MK[teacher.at_G],
        teacher_head=theirs,
        teacher_G=teacher.log_factors(theirs_MK, theirs),
        student_G=student.log_factors(hidden_NH, _detached(ours, hidden_NH)),
        weights=weights_G,
        objective=objective,
        shared=shared,
        chunk=chunk or _rows(ours, theirs),
        gradient=torch.is_grad_enabled(),
        head=_detached(ours, hidden_NH),
    )
    loss, worth_G = _SpanLoss.apply(hidden_NH[student.at_G], head.weight, head.bias, job)
    if not job.gradient:
        return loss
    further, _ = head_loss(
        hidden_NH[student.rest_R],
        ours,
        student.targets_R,
        -worth_G[student.spans_R],
        CROSS_ENTROPY,
    )
    return loss + further - further.detach()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    teacher_GK: Tensor
    teacher_head: Head
    teacher_G: Tensor
    student_G: Tensor
    weights: Tensor
    objective: Objective
    shared: Vocabularies
    chunk: int
    gradient: bool
    head: Head


class _SpanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_GH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, job: _Job):
        wanted = [job.gradient and needed for needed in ctx.needs_input_grad[:3]]
        grads = [
            torch.zeros_like(value) if want else None
            for value, want in zip((hidden_GH, weight_VH, bias_V), wanted, strict=True)
        ]
        total = torch.zeros((), dtype=torch.float64, device=hidden_GH.device)
        worth_G = torch.zeros_like(job.weights)
        with torch.autocast(hidden_GH.device.type, enabled=False):
            for at in _chunks(len(hidden_GH), job.chunk):
                losses_C, worth_C = _chunk(hidden_GH, at, job, grads)
                total += losses_C.double() @ job.weights[at]
                worth_G[at] = worth_C.double() * job.weights[at]
        ctx.save_for_backward(*(g for g in grads if g is not None))
        ctx.wanted = wanted
        ctx.mark_non_differentiable(worth_G)
        return total.to(_wide(hidden_GH)), worth_G

    @staticmethod
    def backward(ctx, upstream: Tensor, _: Tensor):
        saved = iter(ctx.saved_tensors)
        grads = [next(saved) if want else None for want in ctx.wanted]
        return *(None if g is None else g * upstream.to(g.dtype) for g in grads), None


def _chunk(
    hidden_GH: Tensor, at: slice, job: _Job, grads: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Add one chunk's gradients to `grads`, and return what `_charged` does of it."""
    student_CV = _raw_logits(hidden_GH[at], job.head)
    teacher_CW = _raw_logits(job.teacher_GK[at], job.teacher_head)
    rows = student_CV, teacher_CW, job.student_G[at], job.teacher_G[at]
    wider = max(student_CV, teacher_CW, key=lambda logits: logits.shape[1])
    # A GPU has no cache that blocks would stay in.
    inner = [slice(None)] if wider.is_cuda else blocks(wider)
    pieces = [_charged(*(part[block] for part in rows), job) for block in inner]
    losses, worth = zip(*pieces, strict=True)
    # From here on student_CV holds the gradient of each span's loss, weights left out.
    weights_C1 = job.weights[at, None].to(_wide(hidden_GH))
    to_hidden, to_weight, to_bias = grads
    if to_hidden is not None:
        to_hidden[at] = (student_CV @ job.head.weight) * weights_C1
    if to_weight is not None:
        to_weight += student_CV.T @ (hidden_GH[at] * weights_C1).to(student_CV.dtype)
    if to_bias is not None:
        to_bias += (student_CV * weights_C1).sum(0)
    return torch.cat(losses), torch.cat(worth)


def _charged(
    student_CV: Tensor, teacher_CW: Tensor, ours_C: Tensor, theirs_C: Tensor, job: _Job
) -> tuple[Tensor, Tensor]:
    """Return the spans' losses, and their slopes in the student's log-factors, [C] each.

    The student's logits become the gradients of the losses.
    """
    objective, shared = job.objective, job.shared
    logits_CV, bend_CV = finished(student_CV, job.head.scale, job.head.softcap)
    other_CW, _ = finished(teacher_CW, job.teacher_head.scale, job.teacher_head.softcap)
    own_CV = torch.log_softmax(logits_CV, -1)
    s_CV = own_CV + ours_C[:, None]
    t_CW = torch.log_softmax(other_CW, -1) + theirs_C[:, None]
    losses_C, slopes_CV = s_CV.new_zeros(len(s_CV)), torch.zeros_like(s_CV)
    if objective.divergence is not None and shared.weight:
        pair = s_CV[:, shared.ours_S], t_CW[:, shared.theirs_S]
        value_CS, slope_CS = objective.divergence(*pair, objective.parameter)
        losses_C += shared.weight * value_CS.sum(-1)
        slopes_CV[:, shared.ours_S] = shared.weight * slope_CS
    if shared.weight < 1:
        mine = _entries(s_CV, shared.only_ours).exp()
        apart_C, signs = by_rank(mine, _entries(t_CW, shared.only_theirs).exp())
        losses_C += (1 - shared.weight) * apart_C
        slopes = (1 - shared.weight) * signs * mine
        if slopes.shape == s_CV.shape:
            slopes_CV = slopes
        else:
            slopes_CV[:, shared.only_ours] = slopes
    sums_C = slopes_CV.sum(-1)
    if job.gradient:
        through_CV = slopes_CV - own_CV.exp() * sums_C[:, None]
        student_CV.copy_(through_CV * objective.scale * bend_CV)
    return losses_C * objective.scale, sums_C * objective.scale


def _entries(all_CV: Tensor, some: Tensor) -> Tensor:
    """Return some of the columns; all of them, in any order, as they are."""
    return all_CV if len(some) == all_CV.shape[1] else all_CV[:, some]


def _softened(head: Head, temperature: float) -> Head:
    """Return a head whose logits are divided by a temperature, soft cap and all."""
    cap = None if head.softcap is None else head.softcap / temperature
    return dataclasses.replace(head, scale=head.scale / temperature, softcap=cap)


def _raw_logits(hidden_CH: Tensor, head: Head) -> Tensor:
    return functional.linear(hidden_CH.to(head.weight.dtype), head.weight, head.bias)


def _detached(head: Head, hidden: Tensor) -> Head:
    """Return a head without gradients, in its type or the states', whichever is narrower."""
    narrow = min(hidden.dtype, head.weight.dtype, key=lambda d: torch.finfo(d).bits)
    bias = None if head.bias is None else head.bias.detach().to(narrow)
    return dataclasses.replace(head, weight=head.weight.detach().to(narrow), bias=bias)


def _wide(numbers: Tensor) -> torch.dtype:
    return torch.promote_types(numbers.dtype, torch.float32)


def _rows(*heads: Head) -> int:
    return max(1, _CHUNK // sum(len(head.weight) for head in heads))


def _chunks(rows: int, most: int) -> list[slice]:
    return [slice(i, i + most) for i in range(0, rows, most)]
