"""Divergences in float64 numpy, and the logits that tests try them on."""

import numpy as np
import torch
from scipy.special import rel_entr

from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.methods.objective import Objective
from kdstudy.models.parts import Head


def charged(s: torch.Tensor, t: torch.Tensor, what: Objective, targets=None) -> torch.Tensor:
    """Return the loss of each row of logits."""
    eye = Head(weight=torch.eye(s.shape[1], dtype=s.dtype))
    teacher = TeacherSide(hidden=t, head=eye) if what.divergence else None
    targets = torch.zeros(len(s), dtype=torch.long) if targets is None else targets
    return torch.stack(
        [
            head_loss(
                s[i : i + 1],
                eye,
                targets[i : i + 1],
                torch.ones(1),
                what,
                teacher and TeacherSide(hidden=t[i : i + 1], head=eye),
            )[0]
            for i in range(len(s))
        ]
    )


def logits(n: int, v: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed)) * scale


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return rel_entr(p, q).sum(-1)
