"""Dropout whose mask is drawn faster on a CPU, where torch's takes a seventh of a LoRA step.

torch draws a number for every element; here one draw of 64 bits decides four. The probability is
rounded to a multiple of 1/65,536, and what is kept is scaled by that one, so the mean is exact.
"""

import torch
from torch import Tensor, nn

_LEVELS = 2**16


class Dropout(nn.Dropout):
    """As `nn.Dropout`, from torch's own generator, so that a checkpoint's state resumes it."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu":
            return super().forward(input)
        dropped = round(self.p * _LEVELS)
        if dropped in (0, _LEVELS):
            return super().forward(input)
        kept = _draws(input.numel()) >= dropped - _LEVELS // 2
        scale = _LEVELS / (_LEVELS - dropped)
        return input * (kept.to(input.dtype) * scale).view(input.shape)


def quicken(model: nn.Module) -> None:
    """Replace the dropout of a model, its adapters' included, wherever it is torch's."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                parent.add_module(name, Dropout(child.p).train(child.training))


def _draws(number: int) -> Tensor:
    """Return numbers uniform over all of int16."""
    words = torch.empty((number + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:number]
