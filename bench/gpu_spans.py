"""The losses of teachers with other tokenizers, against float64 on the CPU; rows for `gpu.py`.

Shapes: N and M scored tokens of student and teacher, V and W vocabulary entries of both.
"""

import copy
import math
from typing import Any

import gpu_checks
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from kdstudy.data.alignment import Alignment, Span
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.aligned import AlignedTeacher, Pair
from kdstudy.distill.batches import Weighing
from kdstudy.distill.model import DistillModel
from kdstudy.distill.span_loss import Vocabularies
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods import METHODS
from kdstudy.methods.objective import Recipe

Pairs = dict[Encoded, Pair]


def losses(tiny: bool) -> list[dict[str, Any]]:
    """Loss and gradient of every method that compares spans: on the device, in each type."""
    ours, theirs = (300, 331) if tiny else (20_011, 20_233)
    models = [gpu_checks.model(0, 32, ours), gpu_checks.model(1, 64, theirs)]
    pairs = _pairs(gpu_checks.texts(4, ours), theirs)
    return [
        _row(name, dtype, models, pairs)
        for name, cls in METHODS.items()
        if cls.teacher_gives == "spans"
        for dtype in gpu_checks.LIMITS
    ]


def _row(
    name: str, dtype: torch.dtype, models: list[PreTrainedModel], pairs: Pairs
) -> dict[str, Any]:
    method = METHODS[name](temperature=1.5, hard_label_weight=0.2).recipe()
    narrow = [copy.deepcopy(m).to(dtype) for m in models]
    widths = [len(m.get_input_embeddings().weight) for m in models]
    shared = _vocabularies(method, *widths)
    want, gradient = _exact(method, [copy.deepcopy(m).double() for m in narrow], pairs, shared)
    here = gpu_checks.device()
    student, teacher = (m.to(here) for m in narrow)
    aligned = AlignedTeacher(
        LiveTeacher(teacher, widths[1]),
        pairs,
        width=widths[0],
        vocabularies=_vocabularies(method, *widths, here),
        merge=method.spans.merge,
    )
    batch = batches.collate(list(pairs), Weighing(), here)
    (loss,) = DistillModel(student, method, aligned)(batch, batch.targets_N.numel())
    loss.backward()
    got = torch.cat([p.grad.double().cpu().ravel() for p in student.parameters()])
    gaps = abs(loss.item() / want - 1), ((got - gradient).norm() / gradient.norm()).item()
    limits = gpu_checks.LIMITS[dtype]
    return gpu_checks.row(
        # Nothing compiles this loss.
        f"{name}, {str(dtype).removeprefix('torch.')}, not compiled",
        gaps[0] <= limits[0] and gaps[1] <= limits[1],
        f"loss {gaps[0]:.1e}, gradient {gaps[1]:.1e}",
        f"{limits[0]:g}, {limits[1]:g}",
    )


def _pairs(rows: list[Encoded], vocabulary: int) -> Pairs:
    """Return the rows beside random ones of a teacher's: spans of one or two tokens on each side,
    some of which do not say the same."""
    rng, found = np.random.default_rng(1), {}
    for row in rows:
        spans, a, b, length = [], 0, 0, len(row.scored)
        while a < length:
            mine, other = min(int(rng.integers(1, 3)), length - a), int(rng.integers(1, 3))
            spans.append(Span((a, a + mine), (b, b + other), bool(rng.random() < 0.85), 1))
            a, b = a + mine, b + other
        theirs = Encoded(tuple(rng.integers(3, vocabulary, 4 + b).tolist()), 4)
        found[row] = Pair(theirs, Alignment(tuple(spans), length))
    return found


def _vocabularies(
    method: Recipe, ours: int, theirs: int, where: torch.device | str = "cpu"
) -> Vocabularies:
    """Share two of three entries, none where all are sorted; their ids are unlike."""
    both = 0 if method.objective.divergence is None else 2 * ours // 3
    rng = np.random.default_rng(2)
    mine, other = (torch.from_numpy(rng.permutation(n)).to(where) for n in (ours, theirs))
    return Vocabularies(
        ours_S=mine[:both],
        theirs_S=other[:both],
        only_ours=mine[both:].sort().values,
        only_theirs=other[both:].sort().values,
        weight=both / theirs,
    )


def _exact(
    method: Recipe, models: list[PreTrainedModel], pairs: Pairs, shared: Vocabularies
) -> tuple[float, Tensor]:
    """Return loss and gradient in float64 from whole logits, by torch's own autograd."""
    what, total, tokens = method.objective, torch.zeros((), dtype=torch.float64), 0
    for row, pair in pairs.items():
        ours, theirs = (_logits(m, x) for m, x in zip(models, (row, pair.teacher), strict=True))
        ids = torch.tensor(row.ids)[list(row.scored)]
        entropy = functional.cross_entropy(ours, ids, reduction="sum")
        total = total + what.hard_label_weight * entropy
        tokens += len(ids)
        p_NV, q_MW = ((x / what.temperature).softmax(-1) for x in (ours, theirs.detach()))
        other = torch.tensor(pair.teacher.ids)[list(pair.teacher.scored)]
        for span in pair.alignment.compared:
            s_V = _merged(p_NV, ids, span.student, method.spans.merge)
            t_W = _merged(q_MW, other, span.teacher, method.spans.merge)
            total = total + what.scale * _distance(s_V, t_W, what, shared)
    loss = total / tokens
    loss.backward()
    return loss.item(), torch.cat([p.grad.ravel() for p in models[0].parameters()])


def _logits(model: PreTrainedModel, row: Encoded) -> Tensor:
    whole = model(input_ids=torch.tensor([row.ids])).logits[0]
    return whole[[i - 1 for i in row.scored]]


def _merged(p_NV: Tensor, ids: Tensor, at: tuple[int, int], merge: str) -> Tensor:
    """Return the masses of a span, [V]."""
    first, stop = at
    one = first if merge == "observed" else stop - 1
    others = [p_NV[i, ids[i]] for i in range(first, stop) if i != one]
    return p_NV[one] * math.prod(others, start=torch.ones((), dtype=p_NV.dtype))


def _distance(s_V: Tensor, t_W: Tensor, what: Any, shared: Vocabularies) -> Tensor:
    """Return what a span is charged, its scale left out."""
    total = 0.0
    if what.divergence is not None:
        pair = s_V[shared.ours_S].log(), t_W[shared.theirs_S].log()
        total = shared.weight * what.divergence(*pair, what.parameter)[0].sum()
    left, right = s_V[shared.only_ours], t_W[shared.only_theirs]
    most = max(len(left), len(right))
    ranked = (functional.pad(x.sort(descending=True).values, (0, most - len(x)))
              for x in (left, right))  # fmt: skip
    return total + (1 - shared.weight) * torch.sub(*ranked).abs().sum()
