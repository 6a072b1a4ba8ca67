"""The distance of a student's final hidden states from its teacher's, as a module with a loss.

Imported when a method that has it is trained: the only file here that needs torch.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn


class HiddenLoss(nn.Module):
    """weight * distance(W h_S, h_T), summed over tokens.

    W is bias-free, there only where the widths differ, and trained with the student; it is no part
    of what is saved as the student.

    Args:
        student: Width of the student's final hidden states, H_S.
        teacher: Of the teacher's, H_T.
        weight: Factor on the distance.
        distance: `mse`: squared differences, a mean over H_T. `cosine`: 1 - cosine.
        normalise: Divide each state by its root mean square first, so that a few massive
            dimensions do not make up the whole.
    """

    def __init__(
        self,
        student: int,
        teacher: int,
        *,
        weight: float,
        distance: Literal["mse", "cosine"],
        normalise: bool,
    ):
        super().__init__()
        self.weight, self.distance, self.normalise = weight, distance, normalise
        self.projection = None
        if student != teacher:
            # A generator of its own: no other draw of the run is moved by it.
            drawn = torch.randn(teacher, student, generator=torch.Generator().manual_seed(0))
            self.projection = nn.utils.skip_init(nn.Linear, student, teacher, bias=False)
            self.projection.weight = nn.Parameter(drawn / math.sqrt(student))

    def forward(self, student_NH: Tensor, teacher_NH: Tensor, weights_N: Tensor) -> Tensor:
        """Return the weighted sum over tokens, in float32 at least.

        Args:
            student_NH: [N, H_S], with a gradient.
            teacher_NH: [N, H_T].
            weights_N: Weight of each token in the step's sum, [N].
        """
        with torch.autocast(student_NH.device.type, enabled=False):
            wide = torch.promote_types(student_NH.dtype, torch.float32)
            s_NH, t_NH = student_NH.to(wide), teacher_NH.detach().to(wide)
            if self.projection is not None:
                s_NH = nn.functional.linear(s_NH, self.projection.weight.to(wide))
            if self.distance == "cosine":
                apart_N = 1 - nn.functional.cosine_similarity(s_NH, t_NH, dim=-1)
            else:
                if self.normalise:
                    s_NH, t_NH = _unit(s_NH), _unit(t_NH)
                apart_N = (s_NH - t_NH).square().mean(-1)
            return self.weight * (apart_N * weights_N.to(wide)).sum()


def _unit(states_NH: Tensor) -> Tensor:
    return states_NH * states_NH.square().mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()
