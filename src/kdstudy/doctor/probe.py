"""Short measurements of a loaded model: a step, a forward pass, some tokens, some losses.

Nothing is trained: the optimizer's learning rate is 0.
"""

import contextlib
import dataclasses
import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, cache
from kdstudy.distill.batches import Weighing
from kdstudy.distill.model import DistillModel
from kdstudy.distill.schedule import study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.doctor.patient import Losses, Speed
from kdstudy.doctor.text import decode
from kdstudy.models import load, memory, packing, parts
from kdstudy.models.sample import sample

Result = TypeVar("Result")

LOSS_ROWS = 32
# Seconds after which a measurement has seen enough, and within which it is repeated.
_ENOUGH, _AGAIN = 1.0, 0.5
_NEW_TOKENS = 8
_TOGETHER = (8, 128)
# Side of a product that shows how fast a machine multiplies, and the share of that a model reaches.
_SIDE, _EFFICIENCY = 1024, 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class States:
    """A teacher's cached states on the probe's rows, and its head."""

    head: parts.Head
    states: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """One model and what it is probed with.

    Attributes:
        local: From `resolve.Resolved.local`.
        rows: Training rows as it reads them, in the order of training.
        held_out: Validation rows as it reads them.
        prompts: Token ids of test items' prompts; the corpus's own where there are none.
        trains: The study trains it.
        teaches: The study distils from it.
        teachers: States of the teachers that it can learn from, by name.
    """

    local: Mapping[str, object]
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Encoded]
    held_out: Sequence[Encoded]
    prompts: Sequence[Sequence[int]]
    trains: bool
    teaches: bool
    teachers: Mapping[str, States]


@dataclasses.dataclass(kw_only=True)
class Measured:
    """What a probe has found so far: one that is stopped leaves what it had.

    Attributes:
        losses: On held-out rows.
        states: What students learn from, if it teaches.
        speed: How fast it is.
    """

    losses: Losses | None = None
    states: States | None = None
    speed: Speed | None = None


def probe(study: schema.Study, subject: Subject, found: Measured) -> None:
    """Load a model and measure it.

    Args:
        study: Says how the model is used.
        subject: The model.
        found: Filled as the probe goes.

    Raises:
        InputError: The model, its adapter or the study's LoRA layers do not fit each other.
    """
    started = time.perf_counter()
    model = load.open_model(subject.local, study.train.precision)
    loading = time.perf_counter() - started
    ids = [row.ids for row in (*subject.rows, *subject.held_out)]
    parts.require_room(model, max(map(len, ids)), max(map(max, ids)))
    found.losses = _losses(model, subject)
    micro = _micro(study, subject.rows, packed=packing.enable(model))
    some = _some(subject.rows, study.train.batch_size, micro)
    weighing = Weighing(loss_tokens=study.train.loss_tokens)
    states, seconds = _fastest(lambda: _states(model, some, weighing, micro))
    forward = seconds / len(some)
    found.states = states if subject.teaches else None
    prompt, token, together = _generating(model, subject, study.generation)
    if study.train.lora is None and subject.trains and model.dtype != torch.float32:
        # Weights that are trained are float32; what is read and written above is not.
        del model
        forget()
        model = load.open_model(subject.local, "float32")
    step = _Step(study, model, subject, some, micro) if subject.trains else None
    found.speed = Speed(
        micro=micro,
        train=step.seconds() if step else 0.0,
        memory=step.peak if step else None,
        distil={n: step.seconds(t) for n, t in subject.teachers.items()} if step else {},
        forward=forward,
        prompt=prompt,
        token=token,
        together=together,
        load=loading,
    )


def seconds_needed(study: schema.Study, parameters: int, tokens: float, teachers: int) -> float:
    """Return about how many seconds `probe` takes, from how fast this machine multiplies.

    Args:
        study: Says how many rows a step has.
        parameters: Of the model; a token costs two operations with each, three times that with a
            backward pass.
        tokens: Mean tokens of a row.
        teachers: How many teachers' states it is stepped with.
    """
    rows = study.train.batch_size
    passes = LOSS_ROWS + rows + 2 * _TOGETHER[0]  # losses, states, two passes over prompts
    # The peak's pass, one alone, and with each teacher one to warm up and one to measure.
    passes += 3 * rows * (2 + 2 * teachers)
    return 2.0 * parameters * tokens * passes / (_EFFICIENCY * _multiplications())


def _multiplications() -> float:
    """Return this device's operations per second in a product of matrices."""
    left = torch.randn(_SIDE, _SIDE, device=load.device())
    _, seconds = _fastest(lambda: left @ left)
    return 2.0 * _SIDE**3 / seconds


def warm_up() -> None:
    """Pay for what the first step of a process imports, so that no probe is charged for it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.sum().backward()
    torch.optim.AdamW([weight], lr=0.0).step()


def forget() -> None:
    """Give back the memory of models that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Step:
    """One optimizer step of a student on the same rows, alone or with a teacher's states."""

    def __init__(
        self,
        study: schema.Study,
        model: parts.Model,
        subject: Subject,
        rows: Sequence[Encoded],
        micro: int,
    ):
        self._weighing = Weighing(loss_tokens=study.train.loss_tokens)
        self._rows, self._micro = rows, micro
        lora = study.train.lora
        self._student = model if lora is None else load.add_adapter(model, lora, seed=0)
        trained = [p for p in self._student.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=0.0)
        self._device = load.device()
        self._narrow = load.dtype(study.train.precision) == torch.bfloat16
        longest = sorted(subject.rows, key=lambda row: -len(row.ids))[:micro]
        with _peak() as peak:
            self._run(DistillModel(self._student, methods.Sft().recipe()), [longest])
        self.peak: int | None = peak[0] if peak else None

    def seconds(self, teacher: States | None = None) -> float:
        """Return seconds per row, with KL to a teacher where there is one."""
        method = (methods.WordKD() if teacher else methods.Sft()).recipe()
        cached = None
        if teacher is not None:
            width = min(len(teacher.head.weight), len(parts.head(self._student).weight))
            cached = cache.CachedTeacher(
                teacher.states, teacher.head, width, self._weighing.loss_tokens
            )
        model = DistillModel(self._student, method, cached)
        groups = batches.by_length(
            [len(row.ids) for row in self._rows], -(-len(self._rows) // self._micro)
        )
        groups = [[self._rows[i] for i in group] for group in groups]
        if teacher is not None:
            # The first pass pays for what is paid once, as compiling on a GPU.
            self._run(model, groups[:1])
        done, seconds = _fastest(lambda: self._run(model, groups))
        return seconds / done

    def _run(self, model: DistillModel, groups: Sequence[Sequence[Encoded]]) -> int:
        """Run forward and backward passes until there is no more or it was enough; count rows."""
        model.train()
        started, done = time.perf_counter(), 0
        for group in groups:
            batch = batches.collate(group, self._weighing, self._device)
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._narrow):
                (loss,) = model(batch, num_items_in_batch=max(1, len(batch.targets_N)))
            loss.backward()
            done += len(group)
            if time.perf_counter() - started > _ENOUGH:
                break
        torch.nn.utils.clip_grad_norm_(
            [p for g in self._optimizer.param_groups for p in g["params"]], 1.0
        )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return done


def _micro(study: schema.Study, rows: Sequence[Encoded], *, packed: bool) -> int:
    """Return the micro-batch that the study's training would choose."""
    config = study_config(study.train, methods.Sft(), rows, Path("probe"), seed=0, packed=packed)
    return config.per_device_train_batch_size


def _some(rows: Sequence[Encoded], batch_size: int, micro: int) -> list[Encoded]:
    """Return the rows of one optimizer step, or of as many micro-batches as there are rows for."""
    together = min(batch_size, len(rows))
    return list(rows[: max(together - together % micro, min(micro, together))])


@torch.no_grad()
def _losses(model: parts.Model, subject: Subject) -> Losses:
    scoring = DistillModel(model, methods.Sft().recipe()).eval()
    weighing, started = Weighing(), time.perf_counter()
    nats, characters = [], []
    for row in subject.held_out[:LOSS_ROWS]:
        _, entropy = scoring(batches.collate([row], weighing, load.device()))
        nats.append(float(entropy))
        characters.append(len(decode(subject.tokenizer, row.ids[row.prompt_length :])))
        if time.perf_counter() - started > _ENOUGH:
            break
    return Losses(nats=tuple(nats), characters=tuple(characters))


def _states(model: parts.Model, rows: Sequence[Encoded], weighing: Weighing, micro: int) -> States:
    live = LiveTeacher(model, len(parts.head(model).weight))
    states = cache.in_memory(live, rows, weighing.loss_tokens, rows_per_pass=2 * micro)
    # The student whose turn it is may be this very model, with an adapter.
    model.requires_grad_(True)
    return States(head=live.head, states=states)


def _generating(
    model: parts.Model, subject: Subject, settings: schema.Generation
) -> tuple[float, float, int]:
    """Return seconds per prompt, seconds per token, and the rows decoded together."""
    longest = max(map(len, subject.prompts))
    most = settings.batch_size or memory.rows_together(model, longest, settings.max_new_tokens)
    answering = load.merge(model).eval()
    prompt = token = 0.0
    together = 0
    for rows in dict.fromkeys(min(n, most, len(subject.prompts)) for n in _TOGETHER):
        times = []
        for new in (1, 1 + _NEW_TOKENS):
            settled = {
                "max_new_tokens": new,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "seeds": range(rows),
                "eos_ids": (),
                "pad_id": subject.tokenizer.pad_token_id,
            }
            prompts = subject.prompts[:rows]
            _, seconds = _fastest(lambda p=prompts, s=settled: sample(answering, p, **s))
            times.append(seconds)
        first, whole = times
        prompt, together = first / rows, rows
        token = max(whole - first, 0.1 * whole) / (rows * _NEW_TOKENS)
        if whole > _ENOUGH / 2:
            break
    return prompt, token, together


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """Give the most bytes held during the block, weights included; nothing where none can tell."""
    found: list[int] = []
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(torch.cuda.max_memory_allocated())
        return
    counter = Path("/proc/self/clear_refs")
    try:
        counter.write_text("5")  # Linux: start the peak anew
        known = True
    except OSError:
        known = False
    yield found
    if known:
        line = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        found += [1024 * int(line[1])] if line else []


def _fastest(function: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a function returns, and the seconds of its fastest call of up to three.

    Other work on the machine makes a call slower and never faster.
    """
    times: list[float] = []
    while not times or (len(times) < 3 and sum(times) < _AGAIN):
        _finish()
        started = time.perf_counter()
        result = function()
        _finish()
        times.append(time.perf_counter() - started)
    return result, min(times)


def _finish() -> None:
    """Wait for the GPU, whose work is not done when a call returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
