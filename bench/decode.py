"""Decoding at temperature 1; peer: transformers' `generate` with the same model and prompts.

Shapes: B rows, L prompt length, T new tokens, V vocabulary entries.

Tokens are those up to a row's end. `generate` goes on computing a row that has ended until the
whole batch has; ours drops it. One case therefore has no ends at all.
"""

import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gpu
import numpy as np
import torch
from measure import interleaved
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, Qwen2Config

from kdstudy.config import schema
from kdstudy.evaluation.vllm import Vllm
from kdstudy.models import load
from kdstudy.models.sample import draw, sample
from kdstudy.models.zoo import path

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A model's shape and a batch.

    Attributes:
        budget: New tokens.
        ends: One vocabulary entry in how many ends a text; 0 for none.
        prompt: Tokens of every prompt.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    rows: int
    budget: int
    dtype: torch.dtype = torch.float32
    ends: int = 40
    prompt: int = 56

    def __str__(self) -> str:
        """Return what tells this case from the others."""
        ends = f"1 token in {self.ends} ends a text" if self.ends else "no text ends"
        return (
            f"hidden {self.hidden}, {self.layers} layers, vocabulary {self.vocabulary}, "
            f"{str(self.dtype).removeprefix('torch.')}, {self.rows} rows, "
            f"{self.prompt} + {self.budget} tokens, {ends}"
        )


CASES = [
    Case(64, 192, 3, 4, 2048, 64, 100),
    Case(64, 192, 3, 4, 2048, 256, 100),
    Case(128, 384, 4, 4, 2048, 64, 100),
    Case(128, 384, 4, 4, 2048, 256, 100),
    Case(64, 192, 2, 4, 152064, 64, 20),
    # The shape of Qwen2.5-0.5B.
    Case(896, 4864, 24, 14, 151936, 64, 64, torch.bfloat16, prompt=16),
    Case(896, 4864, 24, 14, 151936, 64, 64, torch.bfloat16, ends=0, prompt=16),
]


TINY = Case(64, 192, 2, 4, 500, 4, 8)
ROWS_OF_A_GPU = 64


def on_a_gpu(tiny: bool) -> list[dict[str, float | str]]:
    """Return rows of a part of `gpu`: a 0.5B shape, in which no text ends, and its checks."""
    check_greedy_texts()
    if tiny:
        return [_row(TINY, 1)]
    check_draws()
    return [_row(CASES[-1], 2), _row(dataclasses.replace(CASES[-1], rows=4 * ROWS_OF_A_GPU), 1)]


def against_vllm(tiny: bool) -> list[dict[str, float | str]]:
    """Return the row of the same texts' length from vLLM, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        raise gpu.Missing("vLLM is not installed")
    if tiny:
        raise gpu.Missing("vLLM is not started for a tiny run")
    case = CASES[-1]
    model, prompts_BL, _ = _setting(case)
    prompts = prompts_BL.tolist()
    write = _ours(model, prompts_BL, [], case.budget, temperature=1.0)
    write()
    started = time.perf_counter()
    tokens = sum(map(len, write()))
    ours = tokens / (time.perf_counter() - started)
    settings = schema.Generation(max_new_tokens=case.budget, temperature=1.0)
    with tempfile.TemporaryDirectory() as folder:
        model.cpu().save_pretrained(folder)
        load.load_tokenizer(path("zoo-m")).save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        engine = Vllm(folder=Path(folder), adapter=None, ends=(), dtype="bfloat16")
        engine.write(prompts, range(len(prompts)), settings)  # starts it
        started = time.perf_counter()
        tokens = sum(len(text.ids) for text in engine.write(prompts, range(len(prompts)), settings))
        theirs = tokens / (time.perf_counter() - started)
        engine.close()
    return [
        {
            "case": str(case),
            "peer": "vLLM",
            "peer_tokens_per_second": theirs,
            "tokens_per_second": ours,
            "ratio": ours / theirs,
        }
    ]


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return tokens per second of both and their ratio, one row for each case."""
    check_greedy_texts()
    check_draws()
    return [_row(case, repeats) for case in CASES]


def check_greedy_texts() -> None:
    """Check that both sides write the same texts when nothing is drawn."""
    case = Case(64, 192, 2, 4, 500, 8, 30)
    model, prompts_BL, ends = _setting(case)
    theirs = _peer(model, prompts_BL, ends, case.budget, do_sample=False)().tolist()
    ours = _ours(model, prompts_BL, ends, case.budget, temperature=0)()
    for their, mine in zip(theirs, ours, strict=True):
        if their[: len(mine)] != mine or any(their[len(mine) :]):
            raise SystemExit("decode: greedy texts differ; the speeds would mean nothing")


def check_draws(rows: int = 2_000, vocabulary: int = 151_936) -> None:
    """Check that a draw is the float64 inverse CDF of the softmax, up to float32's rounding."""
    logits_V = 3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    u_B = np.random.default_rng(0).random(rows)
    got_B = draw(logits_V.expand(rows, -1), torch.from_numpy(u_B), 1.0).numpy()
    cdf_V = torch.softmax(logits_V.double(), -1).cumsum(-1).numpy()
    below_B = np.append(0, cdf_V)[got_B]
    if not ((below_B - 1e-6 <= u_B) & (u_B <= cdf_V[got_B] + 1e-6)).all():
        raise SystemExit("decode: draws do not follow the softmax; the speeds would mean nothing")


def _setting(case: Case) -> tuple[PreTrainedModel, Tensor, list[int]]:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=case.intermediate,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=2,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=case.dtype).eval()
    ends = list(range(1, case.vocabulary // case.ends)) if case.ends else []
    prompts_BL = torch.randint(len(ends) + 1, case.vocabulary, (case.rows, case.prompt)).to(DEVICE)
    return model, prompts_BL, ends


def _peer(
    model: PreTrainedModel, prompts_BL: Tensor, ends: list[int], budget: int, *, do_sample: bool
) -> Callable[[], Tensor]:
    settings = GenerationConfig(
        max_new_tokens=budget, do_sample=do_sample, top_k=0 if do_sample else None,
        pad_token_id=0, eos_token_id=ends or None,
    )  # fmt: skip
    mask_BL = torch.ones_like(prompts_BL)
    return lambda: model.generate(
        input_ids=prompts_BL, attention_mask=mask_BL, generation_config=settings
    )[:, prompts_BL.shape[1] :]


def _ours(
    model: PreTrainedModel, prompts_BL: Tensor, ends: list[int], budget: int, *, temperature: float
) -> Callable[[], list[list[int]]]:
    prompts = prompts_BL.tolist()
    return lambda: [
        list(text.ids)
        for text in sample(
            model, prompts, max_new_tokens=budget, temperature=temperature,
            seeds=range(len(prompts)), eos_ids=ends, pad_id=0,
        )
    ]  # fmt: skip


def _row(case: Case, repeats: int) -> dict[str, float | str]:
    model, prompts_BL, ends = _setting(case)
    ends_E = torch.tensor(ends, dtype=torch.long, device=DEVICE)
    # The first calls pay for threads and memory.
    _peer(model, prompts_BL, ends, 2, do_sample=True)()
    _ours(model, prompts_BL, ends, 2, temperature=1.0)()
    generate = _peer(model, prompts_BL, ends, case.budget, do_sample=True)
    write = _ours(model, prompts_BL, ends, case.budget, temperature=1.0)

    def useful() -> int:
        ended_BT = torch.isin(generate(), ends_E).long()
        return int((ended_BT.cumsum(1) - ended_BT == 0).sum())

    timed = interleaved(useful, lambda: sum(map(len, write())), repeats)
    return {
        "case": str(case),
        "peer": "transformers generate",
        "peer_tokens_per_second": 1 / timed.peer,
        "tokens_per_second": 1 / timed.ours,
        "ratio": timed.ratio,
    }
