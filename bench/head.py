"""The head alone: 624 rows, widths 896 and 1536, vocabulary 151,936, bfloat16, JSD(0.5).

Hidden states and heads in, loss and hidden-state gradient out. Peer: liger-kernel's chunked JSD,
compiled and eager. `products` is what the three matrix products alone take.

Values are compared with float64 softmax and sums of the very logits that a bfloat16 head gives.
"""

import dataclasses
import importlib.util
import sys
from typing import Any

import torch
from measure import interleaved, peak_during, printed_by
from torch import Tensor
from torch.nn import functional as F

from kdstudy.distill.fused import TeacherSide, head_loss
from kdstudy.methods.gkd import jsd
from kdstudy.methods.objective import Objective
from kdstudy.models.parts import Head

# Rows, widths of student and teacher, vocabulary.
SHAPE, TINY = (624, 896, 1536, 151_936), (30, 16, 32, 2000)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
JSD = Objective(divergence=jsd, parameter=0.5)


@dataclasses.dataclass
class Inputs:
    """Random hidden states and heads."""

    student: Tensor
    teacher: Tensor
    student_head: Tensor
    teacher_head: Tensor
    targets: Tensor

    def ours(self) -> tuple[float, Tensor]:
        """Return the sum of the losses and the gradient."""
        loss, _ = head_loss(
            self.student,
            Head(weight=self.student_head),
            self.targets,
            torch.ones(len(self.targets), dtype=torch.float64, device=DEVICE),
            JSD,
            TeacherSide(hidden=self.teacher, head=Head(weight=self.teacher_head)),
        )
        return loss.item(), torch.autograd.grad(loss, self.student)[0]

    def liger(self, compiled: bool) -> tuple[float, Tensor]:
        """Return the same of liger-kernel."""
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=compiled
        )(self.student, self.student_head, self.teacher, self.teacher_head, self.targets)
        gradient = torch.autograd.grad(loss, self.student)[0]
        return loss.item() * len(self.targets), gradient * len(self.targets)

    def products(self) -> None:
        """The matrix products that nobody can avoid, in chunks as ours are."""
        with torch.no_grad():
            for h, k in zip(self.student.split(104), self.teacher.split(104), strict=True):
                logits = h @ self.student_head.T
                _ = k @ self.teacher_head.T
                _ = logits @ self.student_head

    @torch.no_grad()
    def exact(self) -> tuple[float, Tensor]:
        """Return loss and gradient in float64 from bfloat16 logits, row by row."""
        total, gradients = 0.0, []
        for h, k in zip(self.student.split(8), self.teacher.split(8), strict=True):
            s, t = (
                F.log_softmax((x @ w.T).double(), -1)
                for x, w in ((h, self.student_head), (k, self.teacher_head))
            )
            m = torch.logaddexp(s, t) - torch.tensor(2.0).double().log()
            to_teacher, to_student = ((p.exp() * (p - m)).sum(-1) for p in (t, s))
            total += (to_teacher + to_student).sum().item() / 2
            slope = s.exp() * (s - m - to_student[:, None]) / 2
            gradients.append(slope.float() @ self.student_head.float())
        return total, torch.cat(gradients)


def inputs(shape: tuple[int, int, int, int] = SHAPE) -> Inputs:
    """Return random inputs whose distributions are as peaked as a real model's."""
    rows, student, teacher, vocabulary = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).bfloat16().to(DEVICE)

    return Inputs(
        student=draw(rows, student).requires_grad_(),
        teacher=draw(rows, teacher),
        student_head=draw(vocabulary, student, scale=0.08),
        teacher_head=draw(vocabulary, teacher, scale=0.06),
        targets=torch.randint(vocabulary, (rows,), generator=generator).to(DEVICE),
    )


def run(repeats: int) -> list[dict[str, Any]]:
    """Return one row."""
    return [_row(repeats, SHAPE)]


def on_a_gpu(tiny: bool) -> list[dict[str, Any]]:
    """Return rows of a part of `gpu`."""
    return [_row(1, TINY)] if tiny else run(5)


def _row(repeats: int, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    data = inputs(shape)
    value, gradient = data.exact()

    def gaps(found: tuple[float, Tensor]) -> tuple[float, float]:
        distance = (found[1].float() - gradient).norm() / gradient.norm()
        return abs(found[0] / value - 1), distance.item()

    mine = gaps(data.ours())
    assert mine[0] < 1e-6 and mine[1] < 5e-3, mine
    rows, student, teacher, vocabulary = shape
    found: dict[str, Any] = {
        "case": f"{rows} rows, {student} and {teacher} wide, vocabulary {vocabulary}, bf16",
        "peer": "liger-kernel chunked JSD, compiled",
    }
    if importlib.util.find_spec("liger_kernel") is None:
        own = interleaved(_once(data.products), _once(data.ours), repeats)
        found["peer"] = "the three products alone: liger-kernel is not installed"
        found |= {"seconds": own.ours, "seconds_products": own.peer}
    else:
        theirs = gaps(data.liger(compiled=True))
        timed = interleaved(_once(data.liger, True), _once(data.ours), repeats)
        eager = interleaved(_once(data.liger, False), _once(data.products), min(repeats, 2))
        found |= {
            "ratio": timed.ratio,
            "seconds": timed.ours,
            "seconds_peer": timed.peer,
            "seconds_peer_eager": eager.peer,
            "seconds_products": eager.ours,
            "value_error_peer": theirs[0],
            "gradient_error_peer": theirs[1],
        }
    found |= {"value_error": mine[0], "gradient_error": mine[1]}
    if shape == SHAPE:
        del data
        sides = ("ours", "liger") if "ratio" in found else ("ours",)
        found |= {f"gib_{side}": printed_by(__file__, side) / 2**30 for side in sides}
    return found


def _once(work: Any, *args: Any) -> Any:
    def timed() -> int:
        work(*args)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return 1

    return timed


def _peak_here(side: str) -> int:
    """Return the peak of a second call."""
    data = inputs()
    work = data.ours if side == "ours" else lambda: data.liger(compiled=True)
    work()
    return peak_during(work)


if __name__ == "__main__":
    print(_peak_here(sys.argv[1]))
