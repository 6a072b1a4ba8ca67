"""One training step, forward and backward: Qwen2.5-0.5B student, 1.5B teacher, LoRA, JSD(0.5).

Four rows of 256 tokens, 100 of them prompt, random weights, bfloat16. Peer: TRL's
`GKDTrainer.compute_loss` on the same models and rows, with or without autocast, whichever is
faster. Ours: `DistillModel` under autocast, as the trainer runs it, with the live teacher and with
the teacher cache.

`memory_ratio`: our peak above the weights over the peer's, each in a process of its own.
`limit_share`: the cached step's matrix products (counted by torch's FlopCounterMode) at the
machine's measured bfloat16 peak, over the step's time.
"""

import contextlib
import gc
import importlib.util
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import gpu
import torch
from measure import peak_during, printed_by
from shapes import DEVICE, gib, lora, qwen, vocabulary
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdstudy import methods
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, cache
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.models import parts

ROWS, LENGTH, PROMPT = 4, 256, 100
Step = Callable[[], float]


# bfloat16 TFLOP/s that the makers name, without sparsity; what MFU is a share of.
NOMINAL = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0}


def run(repeats: int) -> list[dict[str, Any]]:
    """Return one row: speed, memory and distance from the limit."""
    return [_row(repeats, ("0.5B", "7B") if DEVICE == "cuda" else ("0.5B", "1.5B"))]


def on_a_gpu(tiny: bool, teacher: str = "1.5B") -> list[dict[str, Any]]:
    """Return rows of a part of `gpu`: few rows, as everywhere, and as many as fill a GPU."""
    if tiny:
        return [_row(1, ("tiny", "small"))]
    needed = gib("0.5B") + gib(teacher) + 20
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < needed:
        raise gpu.Missing(f"{needed:.0f} GiB are needed, {free:.0f} are free")
    return [_row(5, ("0.5B", teacher)), _row(3, ("0.5B", teacher), rows=16)]


def on_a_gpu_7b(tiny: bool) -> list[dict[str, Any]]:
    """As `on_a_gpu`, from a teacher of 7B."""
    if tiny:
        raise gpu.Missing("a tiny run has one size")
    return on_a_gpu(tiny, "7B")


def _row(repeats: int, sizes: tuple[str, str], rows: int = ROWS) -> dict[str, Any]:
    sides = Sides(dropout=0.0, sizes=sizes, rows=rows)
    error = sides.check()
    seconds = sides.time(repeats)
    work, peak = sides.matrix_work(), matrix_peak(quick=not sizes[0].endswith("B"))
    tokens = rows * (LENGTH - PROMPT)
    memory = {}
    if DEVICE == "cuda":
        for name, step in sides.steps().items():
            memory[name] = peak_during(lambda step=step: (step(), step()))
    del sides
    if DEVICE == "cpu" and sizes[0].endswith("B"):
        names = ("peer", "live", "cached")
        memory = {name: printed_by(__file__, name) for name in names}
    found: dict[str, Any] = {
        "case": f"{sizes[0]} student, {sizes[1]} teacher, {rows} x {LENGTH}, bf16, LoRA, "
        f"{'GPU' if DEVICE == 'cuda' else 'CPU'}",
        "peer": "TRL GKDTrainer.compute_loss",
    }
    peers = [s for name, s in seconds.items() if name.startswith("peer")]
    if peers:
        found["ratio_live"] = min(peers) / seconds["live"]
        found["ratio_cached"] = min(peers) / seconds["cached"]
    else:
        found["peer"] += ": TRL is not installed"
    found["cached_against_live"] = seconds["live"] / seconds["cached"]
    if "peer" in memory:
        found["memory_ratio"] = memory["live"] / memory["peer"]
        found["memory_ratio_cached"] = memory["cached"] / memory["peer"]
    found["limit_share"] = work / peak / seconds["cached"]
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    for kind, tflops in NOMINAL.items():
        if kind in name:
            found["mfu_cached"] = work / (tflops * 1e12) / seconds["cached"]
    return {
        **found,
        **{f"tokens_per_second_{name}": tokens / s for name, s in seconds.items()},
        **{f"gib_above_weights_{name}": b / 2**30 for name, b in memory.items()},
        "matrix_peak_tflops": peak / 1e12,
        "step_tflop": work / 1e12,
        **error,
    }


class Sides:
    """The same models and rows, three ways.

    Args:
        dropout: Of the adapter.
        only: Leave out what this side does not need: `peer`, `live` or `cached`.
        sizes: Of student and teacher.
        rows: Rows of the step.
    """

    def __init__(
        self,
        dropout: float,
        only: str = "",
        sizes: tuple[str, str] = ("0.5B", "1.5B"),
        rows: int = ROWS,
    ):
        self.student = lora(qwen(sizes[0], seed=0), dropout)
        width = vocabulary(sizes[0])
        teacher = qwen(sizes[1], seed=1).eval().requires_grad_(False)
        self.device = parts.plain(self.student).device
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(width, (rows, LENGTH), generator=generator)
        self.rows = [Encoded(tuple(row), PROMPT) for row in ids.tolist()]
        self.batch = batches.collate(self.rows, batches.Weighing(), self.device)
        self.ids = ids.to(self.device)
        method = methods.GKD(lmbda=0).recipe()
        if only == "peer":
            self.teacher = teacher
            return
        live = LiveTeacher(teacher, width)
        self.live = DistillModel(self.student, method, live)
        if only == "live":
            return
        states = cache.in_memory(live, self.rows, "response", rows_per_pass=rows)
        head = live.head
        if only == "cached":
            # The body leaves the memory; what remains is a copy of the head.
            head = parts.Head(weight=head.weight.clone())
            del self.live, live
            gc.collect()
        cached = cache.CachedTeacher(states, head, width, "response")
        self.cached = DistillModel(self.student, method, cached)
        self.teacher = None if only else teacher

    def steps(self) -> dict[str, Step]:
        """Return every side's step by name; each returns its loss."""
        found: dict[str, Step] = {}
        installed = importlib.util.find_spec("trl") is not None
        if installed and getattr(self, "teacher", None) is not None:
            found["peer"] = self._peer(contextlib.nullcontext)
            found["peer_autocast"] = self._peer(self._autocast)
        for name in ("live", "cached"):
            if hasattr(self, name):
                found[name] = self._ours(getattr(self, name))
        return found

    def time(self, repeats: int) -> dict[str, float]:
        """Return the median seconds of every side's step, one after another in turn."""
        steps = self.steps()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for i in range(repeats + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if i:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
        return {name: statistics.median(s) for name, s in seconds.items()}

    def check(self) -> dict[str, float]:
        """Fail unless every side computes the loss of the models' own logits; return the gaps."""
        dense = self._dense()
        gaps = {f"{n}_loss_error": abs(s() / dense - 1) for n, s in self.steps().items()}
        # Autocast rounds the student's adapter, which the dense logits above do not.
        limits = {"live_loss_error": 2e-3, "cached_loss_error": 2e-3, "peer_loss_error": 0.2}
        for name, limit in limits.items():
            assert gaps.get(name, 0.0) < limit, (name, gaps)
        return gaps

    def matrix_work(self) -> float:
        """Return the floating-point operations of the cached step's matrix products."""
        counter = FlopCounterMode(display=False)
        with counter:
            self._ours(self.cached)()
        return float(counter.get_total_flops())

    def _ours(self, model: DistillModel) -> Step:
        tokens = self.batch.targets_N.numel()

        def step() -> float:
            self.student.zero_grad()
            with self._autocast():
                (loss,) = model(self.batch, num_items_in_batch=tokens)
            loss.backward()
            return loss.item()

        return step

    def _peer(self, precision: Callable) -> Step:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from trl.experimental.gkd import GKDTrainer
        trainer = types.SimpleNamespace(
            teacher_model=self.teacher,
            beta=0.5,
            generalized_jsd_loss=GKDTrainer.generalized_jsd_loss,
        )
        labels = self.ids.clone()
        labels[:, :PROMPT] = -100
        inputs = {
            "input_ids": self.ids,
            "attention_mask": torch.ones_like(self.ids),
            "labels": labels,
        }

        def step() -> float:
            self.student.zero_grad()
            with precision():
                loss = GKDTrainer.compute_loss(trainer, self.student, inputs)
            loss.backward()
            return loss.item()

        return step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def _dense(self) -> float:
        """Return the loss from whole rows of the models' own logits, in float64."""
        total = 0.0
        self.student.eval()
        for row in self.ids:
            s_LV, t_LV = (
                F.log_softmax(m(input_ids=row[None]).logits[0, PROMPT - 1 : -1].double(), -1)
                for m in (self.student, self.teacher)
            )
            m_LV = torch.logaddexp(s_LV, t_LV) - torch.tensor(2.0).log()
            kls = F.kl_div(m_LV, t_LV, log_target=True, reduction="none")
            kls += F.kl_div(m_LV, s_LV, log_target=True, reduction="none")
            total += kls.sum().item() / 2
        self.student.train()
        return total / self.batch.targets_N.numel()


def matrix_peak(quick: bool = False) -> float:
    """Return the most bfloat16 operations a second of several large products, or of one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = 0.0
    shapes = [(1024, 1024, 4864), (2048, 2048, 2048), (1024, 4864, 1024), (4096,) * 3]
    for n, k, m in shapes[: 1 if quick else None]:
        a = torch.randn(n, k, device=device, dtype=torch.bfloat16)
        b = torch.randn(k, m, device=device, dtype=torch.bfloat16)
        for _ in range(10):
            started = time.perf_counter()
            _ = a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2.0 * n * k * m / (time.perf_counter() - started))
    return best


def peak_above_weights(side: str) -> int:
    """Return the most bytes that two steps need on top of the weights."""
    step = Sides(dropout=0.0, only=side).steps()["peer_autocast" if side == "peer" else side]
    return peak_during(lambda: (step(), step()))


if __name__ == "__main__":
    print(peak_above_weights(sys.argv[1]))
