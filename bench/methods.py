"""One training step of every method, relative to word_kd's in the same run.

Forward, loss and backward with a cached teacher, LoRA, random weights: what a method adds to a
step. Student text is not sampled here: what sampling costs is decode's matter, and the same for
all. On a CPU times are the process's own, so that neighbours count less, and weights float32.

`atkd, first pass` also asks the teacher about each row, as a run does once for each.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import peak_allocated
from shapes import DEVICE, lora, qwen, vocabulary

from kdstudy.data.alignment import Alignment, Span
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, cache, token_difficulty
from kdstudy.distill.aligned import AlignedTeacher, Pair
from kdstudy.distill.model import DistillModel
from kdstudy.distill.pacing import Pacing
from kdstudy.distill.span_loss import Vocabularies
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods import METHODS
from kdstudy.methods.objective import Recipe

BASE = "word_kd"
# Student, teacher, rows, tokens of a row, tokens of its prompt.
TINY = ("tiny", "small", 2, 24, 8)
CASES = {
    "cpu": [("zoo-m", "zoo-l", 16, 110, 60), ("135M", "135M", 2, 110, 30)],
    "cuda": [("0.5B", "1.5B", 16, 256, 100)],
}
Step = Callable[[], float]


def run(repeats: int) -> list[dict[str, Any]]:
    """Return a row for each size and method."""
    return [row for case in CASES[DEVICE] for row in rows_of(repeats, *case)]


def rows_of(repeats: int, student: str, teacher: str, *shape: int) -> list[dict[str, Any]]:
    """Return a row for each method: its time and memory over those of word_kd.

    Args:
        repeats: Steps of each, in turn.
        student: Size of the student.
        teacher: Size of the teacher.
        shape: Rows, tokens of a row, tokens of its prompt.
    """
    steps, tokens = _steps(student, teacher, *shape)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(repeats + 1):
        for name, step in steps.items():
            started = _clock()
            step()
            if i:  # the first round warms up
                seconds[name].append(_clock() - started)
    memory = {name: peak_allocated(step) for name, step in steps.items()}
    ratio = {
        name: statistics.median(a / b for a, b in zip(mine, seconds[BASE], strict=True))
        for name, mine in seconds.items()
    }
    return [
        {
            "case": f"{name}, {student} from {teacher}, {shape[0]} x {shape[1]}, {DEVICE}",
            "peer": BASE,
            "time_ratio": ratio[name],
            # Above models, optimizer and cached states; gradients are among it.
            "memory_ratio": memory[name] / memory[BASE],
            "tokens_per_second": tokens / statistics.median(mine),
        }
        for name, mine in seconds.items()
    ]


def _clock() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _steps(
    student: str, teacher: str, rows: int, length: int, prompt: int
) -> tuple[dict[str, Step], int]:
    """Return every method's step by name, and the scored tokens of one."""
    learner, other = lora(qwen(student, seed=0), dropout=0.0), qwen(teacher, seed=1)
    if DEVICE == "cpu":
        learner, other = learner.float(), other.float()
    live = LiveTeacher(other, vocabulary(student))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary(student), (rows, length), generator=generator).tolist()
    text = [Encoded(tuple(row), prompt) for row in ids]
    batch = batches.collate(text, batches.Weighing(), torch.device(DEVICE))
    states = cache.in_memory(live, text, "response", rows_per_pass=rows)
    cached = cache.CachedTeacher(states, live.head, live.width, "response")
    steps: dict[str, Step] = {}
    for name, cls in METHODS.items():
        method = cls().recipe()
        taught = cached if method.spans is None else _unlike(cached, text, method)
        model = DistillModel(learner, method, taught).to(DEVICE)
        asked = token_difficulty.of_method(method, cached, batches.Weighing())
        sampled = method.lmbda > 0
        objective = Pacing(method, list, lambda x: x).objective(1, 2, sampled)
        told = dataclasses.replace(batch, sampled=sampled, objective=objective)
        steps[name] = _step(model, told, lambda asked=asked: asked)
        if asked is not None:

            def anew(method: Any = method) -> token_difficulty.Doubts | None:
                return token_difficulty.of_method(method, cached, batches.Weighing())

            steps[f"{name}, first pass"] = _step(model, told, anew)
    return steps, batch.targets_N.numel()


def _unlike(teacher: cache.CachedTeacher, text: list[Encoded], method: Recipe) -> AlignedTeacher:
    """Return the teacher as one of other tokens: three of four entries are shared, as SmolLM2 and
    GPT-2 share theirs, and of three spans one has two tokens of the student's, one two of its."""
    width, pairs = teacher.width, {}
    for row in text:
        spans = [Span((n, n + 1), (n, n + 1), True, 1) for n in range(len(row.scored))]
        for n in range(0, len(spans) - 3, 4):
            spans[n + 1] = Span((n + 1, n + 3), (n + 1, n + 2), True, 1)
            spans[n + 2] = Span((n + 3, n + 4), (n + 2, n + 4), True, 1)
            spans[n + 3] = Span((n + 4, n + 4), (n + 4, n + 4), False)
        pairs[row] = Pair(row, Alignment(tuple(spans), len(spans)))
    ids = torch.arange(width, device=DEVICE)
    both, others = ids[: 3 * width // 4], ids[3 * width // 4 :]
    share = 0.0 if method.objective.divergence is None else 0.75
    if not share:
        both, others = ids[:0], ids
    shared = Vocabularies(
        ours_S=both, theirs_S=both, only_ours=others, only_theirs=others, weight=share
    )
    merge = method.spans.merge
    return AlignedTeacher(teacher, pairs, width=width, vocabularies=shared, merge=merge)


def _step(
    model: DistillModel, batch: batches.Batch, asked: Callable[[], token_difficulty.Doubts | None]
) -> Step:
    tokens = batch.targets_N.numel()

    def step() -> float:
        model.zero_grad()
        found = asked()
        made = [batch] if found is None else found.told_apart([batch], lambda matrix: matrix)
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DEVICE == "cuda"):
            (loss,) = model(made[0], num_items_in_batch=tokens)
        loss.backward()
        assert loss.isfinite(), loss
        return loss.item()

    return step
