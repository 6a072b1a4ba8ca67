"""What must be right on a device, against float64 on the CPU; rows for `gpu.py`.

Shapes: B rows, L positions, N scored tokens, V vocabulary entries.

Seeds are fixed. A right sampler, and right noise, fail with a probability of one in a million.
"""

import contextlib
import copy
import math
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu
import numpy as np
import torch
import torch.distributed as dist
from scipy.stats import chisquare, kstest
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from kdstudy import methods
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, compiled, token_difficulty
from kdstudy.distill import cache as teacher_cache
from kdstudy.distill.batches import Batch, Weighing
from kdstudy.distill.model import DistillModel
from kdstudy.distill.noise import Noise
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods import METHODS
from kdstudy.methods.objective import Recipe
from kdstudy.models.sample import draw, sample, seed_of

Row = dict[str, Any]
FALSE_ALARM = 1e-6
EOS = 1
# Relative distance of the loss, and of all gradients as one vector (norm of the difference). In
# float32 products are summed in another order; in bfloat16 every layer rounds to 8 bits.
LIMITS = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (2e-3, 5e-2)}


def device() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(tiny: bool) -> list[Row]:
    """Return what the numbers were measured on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "gpu": ", ".join(gpus),
            "system": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "torch": f"torch {torch.__version__}",
            "cuda": f"CUDA {torch.version.cuda}" if gpus else "",
        }
    ]


def row(case: str, passed: bool, found: str, limit: str) -> Row:
    """Return a row of the table of checks."""
    return {"case": case, "passed": bool(passed), "found": found, "limit": limit}


def model(seed: int, width: int, vocabulary: int, scale: float = 3.0) -> PreTrainedModel:
    """Return a random float32 model on the CPU whose distributions are far from uniform."""
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=None, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(seed)
    made = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return made


def texts(number: int, vocabulary: int, longest: int = 40) -> list[Encoded]:
    """Return random rows of unlike length."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 2, longest, number)
    return [Encoded(tuple(rng.integers(3, vocabulary, n).tolist()), 5) for n in lengths]


@contextlib.contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Compile on whatever device there is, or nowhere."""
    before = compiled.DEVICES
    compiled.DEVICES = frozenset({device().type}) if on else frozenset()
    try:
        yield
    finally:
        compiled.DEVICES = before


def losses(tiny: bool) -> list[Row]:
    """Loss and gradient of every method: on the device, in each type, compiled and not."""
    vocabulary = 300 if tiny else 20_011
    pair = [model(0, 32, vocabulary), model(1, 64, vocabulary)]
    rows = texts(4, vocabulary)
    found = []
    # A teacher with another tokenizer is no `LiveTeacher`: `gpu_spans.py` has these methods.
    for name in (name for name, cls in METHODS.items() if cls.teacher_gives != "spans"):
        for dtype in LIMITS:
            for on in (False, True):
                # A compiler for a CPU takes seconds for each form: one is enough to keep it alive.
                if tiny and on and (name != "word_kd" or dtype != torch.float32):
                    continue
                found.append(_loss_row(name, dtype, on, pair, rows))
    return found


def _loss_row(
    name: str, dtype: torch.dtype, on: bool, pair: list[PreTrainedModel], rows: list[Encoded]
) -> Row:
    taught = {"temperature": 1.5, "hard_label_weight": 0.2, "noise": 0.5}
    fields = set(METHODS[name].model_fields)
    plain = METHODS[name]().recipe()
    if plain.objective.easy_weight is not None or plain.source == "start":
        fields.discard("hard_label_weight")  # refused
    method = METHODS[name](**{k: v for k, v in taught.items() if k in fields}).recipe()
    narrow = [copy.deepcopy(m).to(dtype) for m in pair]
    want, gradient = _exact(method, [copy.deepcopy(m).double() for m in narrow], rows)
    student, teacher = (m.to(device()) for m in narrow)
    live = LiveTeacher(teacher, len(teacher.get_input_embeddings().weight))
    batch = _batch(rows, device())
    if (told := token_difficulty.of_method(method, live, Weighing())) is not None:
        (batch,) = told.told_apart([batch], lambda matrix: matrix)
    with compiling(on):
        (loss,) = DistillModel(student, method, live)(batch, batch.targets_N.numel())
        loss.backward()
    broken = on and any(kind == device().type for _, kind in compiled._broken)
    got = torch.cat([p.grad.double().cpu().ravel() for p in student.parameters()])
    gaps = abs(loss.item() / want - 1), ((got - gradient).norm() / gradient.norm()).item()
    limits = LIMITS[dtype]
    form = "compiled" if on else "not compiled"
    return row(
        f"{name}, {str(dtype).removeprefix('torch.')}, {form}",
        not broken and gaps[0] <= limits[0] and gaps[1] <= limits[1],
        f"loss {gaps[0]:.1e}, gradient {gaps[1]:.1e}{', could not be compiled' * broken}",
        f"{limits[0]:g}, {limits[1]:g}",
    )


def _batch(rows: list[Encoded], where: torch.device) -> Batch:
    return batches.collate(
        rows, Weighing(), where, noise_seeds=[i * 10**9 for i in range(len(rows))]
    )


def _read(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return a model's own logits and final states at the scored places, each row read alone."""
    rows = batch.ids_T.split(batch.lengths)
    read = [model(input_ids=ids[None], output_hidden_states=True) for ids in rows]
    states = torch.cat([out.hidden_states[-1][0] for out in read])
    return torch.cat([out.logits[0] for out in read])[batch.places_N], states[batch.places_N]


def _exact(
    method: Recipe, pair: list[PreTrainedModel], rows: list[Encoded]
) -> tuple[float, Tensor]:
    """Return loss and gradient in float64 from whole logits, by torch's own autograd."""
    batch, what = _batch(rows, torch.device("cpu")), method.objective
    (s_NV, s_NH), (t_NV, t_NH) = (_read(m, batch) for m in pair)
    logs_NV = torch.log_softmax(s_NV, -1)
    losses_N = what.hard_label_weight * -logs_NV.gather(-1, batch.targets_N[:, None])[:, 0]
    if what.divergence is not None:
        t_NV = t_NV.detach()
        clean_NV = t_NV.clone()
        if method.noise:
            t_NV = Noise(method.noise, batch.noise_seeds_N)(t_NV, slice(0, len(t_NV)))
        both = (torch.log_softmax(x / what.temperature, -1) for x in (s_NV, t_NV))
        s_NV, t_NV = both
        told = ()
        if what.easy_weight is not None:
            p_NV = (clean_NV / what.temperature).softmax(-1)
            doubt_N = 1 - p_NV.gather(-1, batch.targets_N[:, None])[:, 0]
            told = batch.targets_N, doubt_N >= doubt_N.quantile(0.5)
        value_NV, _ = what.divergence(s_NV, t_NV, what.parameter, *told)
        losses_N = losses_N + what.scale * value_NV.sum(-1)
        if told:
            easy, hard = losses_N[~told[1]].mean(), losses_N[told[1]].mean()
            losses_N = what.easy_weight * easy + (1 - what.easy_weight) * hard
    if method.selection is not None:
        losses_N = _of_chosen(method.selection.share, losses_N, logs_NV, rows)
    loss = losses_N.mean()
    if method.extra is not None:
        extra = method.extra(s_NH.shape[1], t_NH.shape[1]).double()
        loss = loss + extra(s_NH, t_NH, torch.ones(len(s_NH))) / len(s_NH)
    loss.backward()
    return loss.item(), torch.cat([p.grad.ravel() for p in pair[0].parameters()])


def _of_chosen(share: float, losses_N: Tensor, logs_NV: Tensor, rows: list[Encoded]) -> Tensor:
    """Return each row's mean over its tokens of highest entropy, once for each of its tokens."""
    entropies_N = -(logs_NV.exp() * logs_NV).sum(-1).detach()
    sizes = [len(Weighing().scored(row)) for row in rows]
    means = [
        losses_n[entropies_n.argsort(descending=True)[: math.ceil(share * len(losses_n))]].mean()
        for losses_n, entropies_n in zip(
            losses_N.split(sizes), entropies_N.split(sizes), strict=True
        )
    ]
    return torch.stack(means).repeat_interleave(torch.tensor(sizes))


def sampler(tiny: bool) -> list[Row]:
    """Goodness of fit of drawn tokens to the softmax, in float64."""
    draws = 20_000 if tiny else 1_000_000
    found = []
    for vocabulary in (7, 2597) if tiny else (7, 2597, 151_936):
        for dtype in (torch.float32, torch.bfloat16):
            generator = torch.Generator().manual_seed(vocabulary)
            logits_V = (2 * torch.randn(vocabulary, generator=generator)).to(dtype).to(device())
            u = torch.from_numpy(np.random.default_rng(0).random(draws)).to(device())
            counts = torch.zeros(vocabulary, dtype=torch.long)
            for u_A in u.split(2000):
                tokens_A = draw(logits_V.expand(len(u_A), -1), u_A, 0.8)
                counts += tokens_A.cpu().bincount(minlength=vocabulary)
            p_V = torch.softmax(logits_V.double().cpu() / 0.8, -1).numpy()
            p = _fit(counts.numpy(), p_V * draws)
            case = f"sampler, {vocabulary} tokens, {str(dtype).removeprefix('torch.')}"
            found.append(row(case, p > FALSE_ALARM, f"{draws:,} draws, p {p:.2g}", "p 1e-6"))
    return [*found, _sampled_text(draws // 5)]


def _sampled_text(draws: int) -> Row:
    """Whole texts of two tokens: the second's distribution given the first."""
    own = model(5, 32, 7, scale=2.0).to(device())
    made = sample(
        own, [[3, 4]] * draws, max_new_tokens=2, temperature=1.0, eos_ids=[], pad_id=0,
        seeds=[seed_of("gpu", i) for i in range(draws)],
    )  # fmt: skip
    with torch.no_grad():
        exact = own.double().cpu()
        first = exact(torch.tensor([[3, 4]])).logits[0, -1]
        second = exact(torch.tensor([[3, 4, t] for t in range(7)])).logits[:, -1]
    joint = torch.softmax(first, -1)[:, None] * torch.softmax(second, -1)
    counts = np.zeros((7, 7))
    np.add.at(counts, tuple(np.array([text.ids for text in made]).T), 1)
    p = _fit(counts.ravel(), joint.numpy().ravel() * draws)
    return row("sampler, texts of two tokens", p > FALSE_ALARM, f"p {p:.2g}", "p 1e-6")


def _fit(seen: np.ndarray, expected: np.ndarray) -> float:
    """Return the p-value of a chi-square test; classes that are too rare count as one."""
    likely = expected > 10
    both = [np.append(x[likely], x[~likely].sum()) for x in (seen, expected)]
    if both[1][-1] < 10:
        both = [np.append(x[:-2], x[-2:].sum()) for x in both]
    return float(chisquare(*both, sum_check=False).pvalue)


def noise(tiny: bool) -> list[Row]:
    """Noise on logits: normal, blind to cuts, and that of the CPU."""
    tokens, vocabulary = (50, 2049) if tiny else (400, 151_936)
    seeds_N = torch.arange(tokens) * 10**12
    far = Noise(1.0, seeds_N.to(device()))

    def drawn(made: Noise, at: slice, where: torch.device) -> Tensor:
        return made(torch.zeros(at.stop - at.start, vocabulary, device=where), at).cpu()

    few, whole = slice(0, 20), slice(0, tokens)
    with compiling(False):
        near = drawn(Noise(1.0, seeds_N), few, torch.device("cpu"))
    found = []
    # A tiny run compiles for the CPU in the losses' part.
    for on in (False,) if tiny else (False, True):
        with compiling(on):
            all_NV = drawn(far, whole, device())
            cut = torch.cat([drawn(far, slice(a, a + 5), device()) for a in range(0, 20, 5)])
        gap = (all_NV[few] - near).abs().max().item()
        p = float(kstest(all_NV.ravel()[:2_000_000].numpy(), "norm").pvalue)
        same = torch.equal(cut, all_NV[few])
        found.append(
            row(
                f"noise, {'compiled' if on else 'not compiled'}",
                gap < 2e-5 and p > FALSE_ALARM and same,
                f"from the CPU's {gap:.1e}, p {p:.2g}, cuts {'' if same else 'not '}the same",
                "2e-5, p 1e-6, the same bits",
            )
        )
    return found


def cache(tiny: bool) -> list[Row]:
    """The loss from cached states, in memory and on disk, is that of the live teacher."""
    vocabulary = 300 if tiny else 20_011
    rows, found = texts(6, vocabulary), []
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        student, teacher = (
            model(i, 32 * (i + 1), vocabulary).to(dtype).to(device()) for i in (0, 1)
        )
        live = LiveTeacher(teacher, vocabulary)
        origin = teacher_cache.Origin(
            teacher="t", finetuned="", template="", max_length=64, loss_tokens="response",
            dtype=str(dtype),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            teacher_cache.build(Path(folder), live, rows, origin, rows_per_pass=6)
            stored = teacher_cache.DiskStates(Path(folder), origin)
            kinds = {
                "on disk": (stored, 0.0),
                "in memory, other passes": (
                    teacher_cache.in_memory(live, rows, "response", rows_per_pass=1), limit,
                ),
            }  # fmt: skip
            # The longest first, as the cache reads them, so that one pass is the very same.
            batch = _batch(sorted(rows, key=lambda r: -len(r.ids)), device())
            method = methods.WordKD().recipe()
            want = _loss(student, method, live, batch)
            for kind, (states, most) in kinds.items():
                known = teacher_cache.CachedTeacher(states, live.head, vocabulary, "response")
                gap = abs(_loss(student, method, known, batch) / want - 1)
                case = f"cache {kind}, {str(dtype).removeprefix('torch.')}"
                found.append(row(case, gap <= most, f"loss {gap:.1e}", f"{most:g}"))
    return found


def _loss(student: PreTrainedModel, method: Recipe, teacher: Any, batch: Batch) -> float:
    with torch.no_grad():
        (loss,) = DistillModel(student, method, teacher)(batch, batch.targets_N.numel())
    return loss.item()


def generation(tiny: bool) -> list[Row]:
    """Texts do not depend on what else is in the batch: greedy ones, and drawn ones by seed."""
    vocabulary, number, length = (300, 5, 12) if tiny else (20_011, 24, 48)
    prompts = [list(text.ids) for text in texts(number, vocabulary, 20)]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        own = model(3, 64, vocabulary).to(dtype).to(device())
        for temperature in (0.0, 1.0):

            def write(at: range, own: Any = own, temperature: float = temperature) -> list:
                return sample(
                    own, [prompts[i] for i in at], max_new_tokens=length, temperature=temperature,
                    seeds=list(at), eos_ids=[EOS], pad_id=2,
                )  # fmt: skip

            together = write(range(number))
            alone = [write(range(i, i + 1))[0] for i in range(number)]
            same = sum(a == b for a, b in zip(together, alone, strict=True))
            # bfloat16 rounds otherwise in another shape of batch, and near ties fall otherwise:
            # most texts of such a model would differ if neighbours mattered.
            least = number if dtype == torch.float32 else number // 3
            name = str(dtype).removeprefix("torch.")
            case = f"texts alone and together, {name}, temperature {temperature:g}"
            found.append(row(case, same >= least, f"{same} of {number} equal", f"{least}"))
    return found


def ddp(tiny: bool) -> list[Row]:
    """Two devices' gradient is one device's: NCCL on two GPUs, gloo on two processes of a CPU."""
    gpus = torch.cuda.device_count()  # asks the driver, and starts nothing on it
    if gpus == 1 and not tiny:
        raise gpu.Missing("one GPU: NCCL needs two")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _one_of_two, args=(folder, gpus >= 2), nprocs=2, start_method="forkserver"
        )
        gap = torch.load(Path(folder, "gap.pt")).item()
    kind = "NCCL, two GPUs" if gpus >= 2 else "gloo, two processes"
    return [row(f"DDP, {kind}, gradient against one", gap < 1e-5, f"{gap:.1e}", "1e-5")]


def _one_of_two(rank: int, folder: str, nccl: bool) -> None:
    torch.set_num_threads(1)
    here = torch.device("cuda", rank) if nccl else torch.device("cpu")
    if nccl:
        torch.cuda.set_device(here)
    dist.init_process_group(
        "nccl" if nccl else "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    student, teacher = model(0, 32, 300).to(here), model(1, 64, 300).to(here)
    method = methods.WordKD().recipe()
    module = DistillModel(student, method, LiveTeacher(teacher, 300))
    rows = texts(6, 300)
    whole, part = _batch(rows, here), _batch(rows[rank::2], here)
    tokens = whole.targets_N.numel()
    module(whole, tokens)[0].backward()
    want = torch.cat([p.grad.ravel() for p in student.parameters()])
    module.zero_grad()
    shared = DistributedDataParallel(module)  # kept until the end: its hooks go with it
    shared(part, tokens)[0].backward()
    # DDP takes the mean over devices; the loss is a share of the whole step's.
    got = 2 * torch.cat([p.grad.ravel() for p in student.parameters()])
    if rank == 0:
        torch.save(((got - want).norm() / want.norm()).cpu(), Path(folder, "gap.pt"))
    dist.barrier()
    del shared
    dist.destroy_process_group()
