"""What a student is charged per token: cross-entropy and divergences from the teacher, in float32.

Shapes: N scored tokens, V vocabulary entries that student and teacher share. Every function maps
logits to one loss per token and takes no mean: that waits until the optimizer step's token count
is known.

With T and S the distributions softmax(logits / temperature) of teacher and student, every
divergence is multiplied by temperature**2, so that its gradient keeps the scale it has at
temperature 1 (Hinton et al. 2015, section 2.1).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(student_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return -log S(target), [N] (the paper's Eq. 1 when a teacher wrote the targets)."""
    return F.cross_entropy(_wide(student_NV), targets_N, reduction="none")


def forward_kl(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(T || S) in nats times temperature**2, [N] (Hinton et al. 2015)."""
    s_NV, t_NV = _log_softmax(student_NV, temperature), _log_softmax(teacher_NV, temperature)
    return _kl(t_NV, s_NV) * temperature**2


def reverse_kl(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(S || T) in nats times temperature**2, [N] (the paper's Eq. 2)."""
    s_NV, t_NV = _log_softmax(student_NV, temperature), _log_softmax(teacher_NV, temperature)
    return _kl(s_NV, t_NV) * temperature**2


def jsd(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0, *, beta: float) -> Tensor:
    """Return the generalised Jensen-Shannon divergence times temperature**2, [N].

    The paper's Eq. 3-4 (Agarwal et al. 2024, Eq. 1): with M = beta * T + (1 - beta) * S,
    beta * KL(T || M) + (1 - beta) * KL(S || M). Divided by beta it tends to KL(T || S) as beta
    goes to 0, and divided by 1 - beta to KL(S || T) as beta goes to 1.

    Args:
        student_NV: Student logits.
        teacher_NV: Teacher logits.
        temperature: Softens both distributions.
        beta: Weight of the teacher in the mixture, strictly between 0 and 1.
    """
    s_NV, t_NV = _log_softmax(student_NV, temperature), _log_softmax(teacher_NV, temperature)
    # The mixture is formed in log space: a sum of probabilities would lose tokens that both
    # models find impossible, and log(0) with them.
    m_NV = torch.logaddexp(t_NV + math.log(beta), s_NV + math.log1p(-beta))
    return (beta * _kl(t_NV, m_NV) + (1 - beta) * _kl(s_NV, m_NV)) * temperature**2


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities, [N]."""
    return F.kl_div(q_NV, p_NV, reduction="none", log_target=True).sum(-1)


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(_wide(logits_NV) / temperature, dim=-1)


def _wide(logits_NV: Tensor) -> Tensor:
    # A bfloat16 log-softmax over a large vocabulary is off by several percent.
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
