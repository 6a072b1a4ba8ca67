"""Answering one synthetic benchmark with the zoo's largest model, greedy, 256 new tokens at most.

Peers, both transformers' `generate`: `arrival` takes items as they come, 16 at a time, with a
key-value cache; `released` does as the study's released code does, one item at a time without a
cache (in greedy decoding here, so that texts can be compared; the released code samples). The
latter answers a part of the items, every 12th by length, whose number of tokens is given beside
that of all. Ours: `evaluation.generate`, batch size found by itself, tokenisation included.
"""

import statistics
from typing import Any

import torch
from measure import interleaved
from transformers import GenerationConfig

from kdstudy.config import schema
from kdstudy.data.prompts import encode_prompt
from kdstudy.data.synthetic import benchmark_rows
from kdstudy.evaluation.generate import generate
from kdstudy.models import load
from kdstudy.models.zoo import path
from kdstudy.records import Example

MODEL, BENCHMARK, ITEMS, EVERY = "zoo-l", "synth_threestep", 300, 12
SETTINGS = schema.Generation(max_new_tokens=256, temperature=0)


def run(repeats: int) -> list[dict[str, Any]]:
    """Return one row for each peer."""
    model = load.load_model(path(MODEL), precision="float32")
    tokenizer = load.load_tokenizer(path(MODEL))
    rows = benchmark_rows(BENCHMARK, n=ITEMS, seed=0)
    items = [Example(id=str(i), instruction=r["instruction"]) for i, r in enumerate(rows)]
    by_length = sorted(items, key=lambda e: len(_prompt(tokenizer, e)))
    texts: dict[str, dict[str, str]] = {}

    def ours() -> int:
        texts["ours"] = _ours(model, tokenizer, items)
        return len(items)

    def arrival() -> int:
        texts["arrival"] = _peer(model, tokenizer, items, batch=16, cache=True)
        return len(items)

    def released() -> int:
        part = by_length[EVERY // 2 :: EVERY]
        texts["released"] = _peer(model, tokenizer, part, batch=1, cache=False)
        return len(part)

    ours()  # the first call pays for threads and memory
    found = []
    for name, peer in (("arrival", arrival), ("released", released)):
        timed = interleaved(peer, ours, repeats)
        same = [texts["ours"][item] == text for item, text in texts[name].items()]
        # Rounding differs with a batch's shape; a tie between two tokens may fall otherwise.
        if statistics.mean(same) < 0.98:
            raise SystemExit("evaluate: texts differ; the speeds would mean nothing")
        found.append(
            {
                "case": f"{MODEL}, {BENCHMARK}, {ITEMS} items, {torch.get_num_threads()} threads",
                "peer": f"transformers generate, {name}",
                "ratio": timed.ratio,
                "items_per_second": 1 / timed.ours,
                "items_per_second_peer": 1 / timed.peer,
                "equal_texts": f"{sum(same)} of {len(same)}",
                "tokens_per_item": _tokens(tokenizer, texts["ours"]),
                "tokens_per_item_peer": _tokens(tokenizer, texts[name]),
            }
        )
    return found


def _prompt(tokenizer: Any, item: Example) -> tuple[int, ...]:
    return encode_prompt(tokenizer, "alpaca", item.instruction)


def _ours(model: Any, tokenizer: Any, items: list[Example]) -> dict[str, str]:
    named = [(BENCHMARK, item) for item in items]
    batches = generate(model, tokenizer, named, "alpaca", SETTINGS)
    return {row.example_id: row.completion for batch in batches for row in batch}


def _peer(
    model: Any, tokenizer: Any, items: list[Example], *, batch: int, cache: bool
) -> dict[str, str]:
    settings = GenerationConfig(
        max_new_tokens=SETTINGS.max_new_tokens,
        do_sample=False,
        use_cache=cache,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = {}
    for start in range(0, len(items), batch):
        group = items[start : start + batch]
        prompts = [_prompt(tokenizer, item) for item in group]
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        ids = [
            [tokenizer.pad_token_id] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)
        ]
        made = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=(torch.arange(width) >= torch.tensor(pads)[:, None]).to(model.device),
            generation_config=settings,
        )[:, width:]
        for item, row in zip(group, made.tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            texts[item.id] = tokenizer.decode(row[:end], skip_special_tokens=True)
    return texts


def _tokens(tokenizer: Any, texts: dict[str, str]) -> float:
    return statistics.mean(len(tokenizer(text)["input_ids"]) for text in texts.values())
