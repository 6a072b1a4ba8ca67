"""The fused head: hidden states and heads in, loss and its gradient out, a chunk at a time.

No tensor of tokens x vocabulary ever exists. A chunk of rows is multiplied by the heads, softmax
and divergence are taken in float32, and the gradient with respect to the student's logits is
written over those logits and multiplied back at once, so that the backward pass has nothing left
to do but scale. The head's own gradient is formed only when the head is trained.

Shapes: N scored tokens, C rows of a chunk, H and K hidden widths of student and teacher, V common
vocabulary entries.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from kdstudy.distill import compiled
from kdstudy.methods.objective import Objective, Parameter, Terms
from kdstudy.models.parts import Head

# Logits of a chunk. On two CPU cores the products are fastest from about 200 rows of a vocabulary
# of 152,000; a GPU wants more rows.
_CHUNK, _CHUNK_CUDA = 2**25, 2**26
# What is not compiled works through a chunk in blocks whose temporaries stay in the processor's
# cache: on two cores that is within a tenth of the compiled loss, without its seconds of compiling,
# and three times faster than taking a chunk whole. A GPU has no such cache and compiles.
_BLOCK = 2**19


Caps = tuple[float, float | None]
"""What raw logits still lack: their scale and their soft cap (`Head`)."""
NO_CAPS: Caps = (1.0, None)
"""Nothing."""


class Disturb(Protocol):
    """Noise on logits (`noise.Noise`)."""

    def __call__(self, logits_CV: Tensor, at: slice) -> Tensor:
        """Return the logits of the tokens `at` with noise; they may be written over."""

    def of(self, tokens_K: Tensor) -> "Disturb":
        """Return the noise of some of the tokens: each keeps its own."""


class Side(Protocol):
    """What distributions are read off: a model's states and head, or those of several models.

    Attributes:
        device: Where it is computed.
        width: Vocabulary entries.
    """

    device: torch.device
    width: int

    def __len__(self) -> int:
        """Return how many tokens there are."""

    def logits(self, at: slice, temperature: float) -> tuple[Tensor, Caps]:
        """Return the logits of the tokens `at`, [C, V], and what they still lack.

        Their softmax at that temperature is the distribution. They may be written over.
        """

    def of(self, tokens_K: Tensor) -> "Side":
        """Return the side of some of the tokens, by their numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSide:
    """A teacher's part of a scored batch.

    Attributes:
        hidden: Final hidden states, [N, K].
        head: Its head, as wide as the student's.
        disturb: Noise on its logits, or None.
    """

    hidden: Tensor
    head: Head
    disturb: Disturb | None = None

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.hidden.device

    @property
    def width(self) -> int:
        """Vocabulary entries."""
        return len(self.head.weight)

    def __len__(self) -> int:
        return len(self.hidden)

    def logits(self, at: slice, temperature: float) -> tuple[Tensor, Caps]:
        """Return the logits of the tokens `at`, which are those of every temperature."""
        logits_CV = _raw_logits(self.hidden[at], self.head)
        if self.disturb is None:
            return logits_CV, (self.head.scale, self.head.softcap)
        finished_CV, _ = finished(logits_CV, self.head.scale, self.head.softcap)
        return self.disturb(finished_CV, at), NO_CAPS

    def of(self, tokens_K: Tensor) -> "TeacherSide":
        """Return the teacher's part of some of the tokens, with the noise that each had."""
        noise = self.disturb and self.disturb.of(tokens_K)
        return dataclasses.replace(self, hidden=self.hidden[tokens_K], disturb=noise)


def head_loss(
    hidden_NH: Tensor,
    head: Head,
    targets_N: Tensor,
    weights_N: Tensor,
    objective: Objective,
    teacher: Side | None = None,
    *,
    told_N: Tensor | None = None,
    labels: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sums (loss, cross-entropy) over the tokens, in nats.

    Logits are what the model itself would give in its own type; everything after them is float32
    (float64 for float64 models).

    Args:
        hidden_NH: The student's final hidden states.
        head: The student's head.
        targets_N: The tokens that the text holds; below 0 where it holds none.
        weights_N: Weight of each token in both sums.
        objective: What a token is charged.
        teacher: Needed by an objective with a divergence.
        told_N: What the divergence is handed beside the text's tokens, [N] or [N, 2], where the
            objective `asks`: which tokens the teacher is unsure of, or `returns.told`.
        labels: Also measure the cross-entropy; it has no gradient. Otherwise it is 0.
        chunk: Rows per chunk; None chooses.
    """
    if (objective.divergence is None) != (teacher is None):
        raise ValueError("an objective with a divergence needs a teacher, and no other does")
    if objective.asks != (told_N is not None):
        raise ValueError(
            "an objective with an easy_weight needs to know which tokens are hard, "
            "one with returns what they are, and no other is told"
        )
    narrow = min(hidden_NH.dtype, head.weight.dtype, key=lambda d: torch.finfo(d).bits)
    job = _Job(
        targets=targets_N,
        weights=weights_N,
        objective=objective,
        teacher=teacher,
        told=told_N,
        labels=labels,
        chunk=chunk or _rows(head.weight.device, len(head.weight)),
        gradient=torch.is_grad_enabled(),
        head=dataclasses.replace(
            head,
            weight=head.weight.detach().to(narrow),
            bias=None if head.bias is None else head.bias.detach().to(narrow),
        ),
    )
    return _FusedHead.apply(hidden_NH, head.weight, head.bias, job)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    targets: Tensor
    weights: Tensor
    objective: Objective
    teacher: Side | None
    told: Tensor | None
    labels: bool
    chunk: int
    gradient: bool
    head: Head


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, job: _Job):
        wanted = [job.gradient and needed for needed in ctx.needs_input_grad[:3]]
        grads = [
            torch.zeros_like(value) if want else None
            for value, want in zip((hidden_NH, weight_VH, bias_V), wanted, strict=True)
        ]
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        sums = torch.zeros(2, dtype=torch.float64, device=hidden_NH.device)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for at in _chunks(len(hidden_NH), job.chunk):
                sums += _chunk(hidden_NH, at, job, grads)
        ctx.save_for_backward(*(g for g in grads if g is not None))
        ctx.wanted = wanted
        loss, entropy = sums.to(wide).unbind()
        ctx.mark_non_differentiable(entropy)
        return loss, entropy

    @staticmethod
    def backward(ctx, upstream: Tensor, _: Tensor):
        saved = iter(ctx.saved_tensors)
        grads = [next(saved) if want else None for want in ctx.wanted]
        return *(None if g is None else g * upstream.to(g.dtype) for g in grads), None


def _chunk(hidden_NH: Tensor, at: slice, job: _Job, grads: list[Tensor | None]) -> Tensor:
    """Add one chunk's gradients to `grads` and return its weighted sums, [2]."""
    to_hidden, to_weight, to_bias = grads
    gradient = any(g is not None for g in grads)
    hidden_CH = hidden_NH[at]
    weights_C1 = job.weights[at, None].to(torch.promote_types(hidden_NH.dtype, torch.float32))
    student_CV = _raw_logits(hidden_CH, job.head)
    teacher_CV, caps = None, NO_CAPS
    if job.teacher is not None:
        teacher_CV, caps = job.teacher.logits(at, job.objective.temperature)
    told_C = None if job.told is None else job.told[at]
    text = job.targets[at], told_C
    losses_C, entropies_C = _scored(student_CV, teacher_CV, *text, job, caps, gradient)
    # From here on student_CV holds the gradient of each token's loss, weights left out: products
    # in a narrow type keep their precision, and the weights are applied to H numbers a row, not V.
    if to_hidden is not None:
        to_hidden[at] = (student_CV @ job.head.weight) * weights_C1
    if to_weight is not None:
        weighted_CH = (hidden_CH * weights_C1).to(student_CV.dtype)
        to_weight += student_CV.T @ weighted_CH
    if to_bias is not None:
        to_bias += (student_CV * weights_C1).sum(0)
    both_2C = torch.stack([losses_C, entropies_C]).double()
    return both_2C @ job.weights[at].double()


def _raw_logits(hidden_CH: Tensor, head: Head) -> Tensor:
    """Return logits before scale and soft cap, in the head's type."""
    return torch.nn.functional.linear(hidden_CH.to(head.weight.dtype), head.weight, head.bias)


def _scored(
    student_CV: Tensor,
    teacher_CV: Tensor | None,
    targets_C: Tensor,
    told_C: Tensor | None,
    job: _Job,
    caps: Caps,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Return losses and cross-entropies, [C] each; logits become gradients if `gradient`."""
    score = _with_settings(job, caps, gradient)
    rows = student_CV, teacher_CV, targets_C, told_C
    done = compiled.attempt(score.func, *rows, **score.keywords)
    if done is not None:
        return done
    pieces = [
        score(*(None if part is None else part[at] for part in rows)) for at in blocks(student_CV)
    ]
    losses, entropies = zip(*pieces, strict=True)
    return torch.cat(losses), torch.cat(entropies)


def _with_settings(job: _Job, caps: Caps, gradient: bool) -> functools.partial:
    objective = job.objective
    return functools.partial(
        _score,
        terms=objective.divergence,
        parameter=objective.parameter,
        temperature=objective.temperature,
        scale=objective.scale,
        hard_label_weight=objective.hard_label_weight,
        labels=job.labels or objective.hard_label_weight > 0,
        student_caps=(job.head.scale, job.head.softcap),
        teacher_caps=caps,
        gradient=gradient,
    )


def _score(
    student_CV: Tensor,
    teacher_CV: Tensor | None,
    targets_C: Tensor,
    told_C: Tensor | None,
    *,
    terms: Terms | None,
    parameter: Parameter,
    temperature: float,
    scale: float,
    hard_label_weight: float,
    labels: bool,
    student_caps: Caps,
    teacher_caps: Caps,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """As `_scored`; compiled on a GPU, where it is a few passes over the memory."""
    logits_CV, slope_CV = finished(student_CV, *student_caps)
    losses_C = entropies_C = logits_CV.new_zeros(len(logits_CV))
    grad_CV: Tensor | float = 0.0
    if terms is not None:
        other_CV, _ = finished(teacher_CV, *teacher_caps)
        s_CV = torch.log_softmax(logits_CV / temperature, -1)
        t_CV = torch.log_softmax(other_CV / temperature, -1)
        told = () if told_C is None else (targets_C, told_C)
        value_CV, slopes_CV = terms(s_CV, t_CV, parameter, *told)
        losses_C = value_CV.sum(-1) * scale
        through_CV = slopes_CV - s_CV.exp() * slopes_CV.sum(-1, keepdim=True)
        grad_CV = through_CV * (scale / temperature)
    if labels:
        s_CV = torch.log_softmax(logits_CV, -1)
        known_C = (targets_C >= 0).to(s_CV.dtype)
        entropies_C = -known_C * s_CV.gather(-1, targets_C.clamp_min(0)[:, None])[:, 0]
        losses_C = losses_C + hard_label_weight * entropies_C
        hit_CV = torch.arange(s_CV.shape[1], device=s_CV.device) == targets_C[:, None]
        pull_CV = (s_CV.exp() - hit_CV.to(s_CV.dtype)) * known_C[:, None]
        grad_CV = grad_CV + hard_label_weight * pull_CV
    if gradient:
        student_CV.copy_(grad_CV * slope_CV)
    return losses_C, entropies_C


def log_of_rest(side: Side, targets_N: Tensor, temperature: float) -> Tensor:
    """Return log(1 - P(target)) of each token, [N]; 0 where there is no target."""

    def rest(logs_CV: Tensor, at: slice) -> Tensor:
        targets_C1 = targets_N[at, None]
        gone_C1 = logs_CV.gather(-1, targets_C1.clamp_min(0)).masked_fill(
            targets_C1 >= 0, -math.inf
        )
        return logs_CV.scatter(-1, targets_C1.clamp_min(0), gone_C1).logsumexp(-1)

    return _of_rows(side, temperature, rest)


def log_of_target(side: Side, targets_N: Tensor, temperature: float) -> Tensor:
    """Return log P(target) of each token, [N]; 0 where there is no target."""

    def target(logs_CV: Tensor, at: slice) -> Tensor:
        found_C = logs_CV.gather(-1, targets_N[at, None].clamp_min(0))[:, 0]
        return found_C.masked_fill(targets_N[at] < 0, 0.0)

    return _of_rows(side, temperature, target)


def entropies(side: Side) -> Tensor:
    """Return the entropy of each token's distribution at temperature 1, in nats, [N]."""
    return _of_rows(side, 1.0, lambda logs_CV, _: -(logs_CV.exp() * logs_CV).sum(-1))


@torch.no_grad()
def _of_rows(
    side: Side, temperature: float, statistic: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Return a statistic of each token's log-probabilities."""
    found = []
    for at in _chunks(len(side), _rows(side.device, side.width)):
        raw_CV, caps = side.logits(at, temperature)
        for inner in blocks(raw_CV):
            logits_CV, _ = finished(raw_CV[inner], *caps)
            logs_CV = torch.log_softmax(logits_CV / temperature, -1)
            first = at.start + inner.start
            found.append(statistic(logs_CV, slice(first, first + len(logs_CV))))
    return torch.cat(found) if found else torch.zeros(0, device=side.device)


def finished(raw_CV: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Tensor | float]:
    """Return scaled and capped logits in float32, and their slope in the raw ones."""
    # A bfloat16 log-softmax over a large vocabulary is off by several percent.
    logits_CV = raw_CV.to(torch.promote_types(raw_CV.dtype, torch.float32))
    if scale != 1:
        logits_CV = logits_CV * scale
    if softcap is None:
        return logits_CV, scale
    bent_CV = torch.tanh(logits_CV / softcap)
    return softcap * bent_CV, scale * (1 - bent_CV * bent_CV)


def _rows(device: torch.device, entries: int) -> int:
    budget = _CHUNK_CUDA if device.type == "cuda" else _CHUNK
    return max(1, budget // entries)


def blocks(logits_CV: Tensor) -> list[slice]:
    """Return slices of rows whose temporaries stay in the processor's cache."""
    return _chunks(len(logits_CV), max(1, _BLOCK // logits_CV.shape[1]))


def _chunks(rows: int, most: int) -> list[slice]:
    """Return slices of almost equal length: a short last one would waste its pass."""
    if not rows:
        return []
    size = math.ceil(rows / math.ceil(rows / most))
    return [slice(i, i + size) for i in range(0, rows, size)]
