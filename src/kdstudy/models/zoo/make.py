"""Build the zoo from nothing: tokenizer, pretraining tokens, models, cards.

    python -m kdstudy.models.zoo.make --models zoo-xs zoo-s --out my-zoo

The schedule follows the clock: the learning rate reaches zero when a model's minutes are over,
so a slower machine trains on fewer tokens but still ends with an annealed model.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from kdstudy.data.synthetic import BENCHMARKS, benchmark_rows
from kdstudy.models.zoo.cards import EOS, EVALUATION_ITEMS, GIVEN_WEIGHT, PAD, card_text
from kdstudy.models.zoo.documents import PROMPT, documents

VOCABULARY = 2048
TOKENIZER_DOCUMENTS = 40_000
HELD_OUT_TOKENS = 100_000
WORKED = 1 << 15


@dataclass(frozen=True)
class Recipe:
    """Shape and training budget of one zoo model.

    With `grown_from`, training starts from that model, every layer followed by new ones.
    """

    width: int
    layers: int
    heads: int
    groups: int
    inner: int
    rate: float
    minutes: float
    windows: int = 16
    window: int = 192
    grown_from: str = ""


RECIPES = {
    "zoo-xs": Recipe(32, 2, 2, 1, 64, 1e-2, 6, 8, 192),
    "zoo-s": Recipe(64, 3, 2, 1, 176, 6e-3, 12, 8, 192),
    "zoo-m": Recipe(128, 4, 4, 2, 352, 4e-3, 22, 8, 192),
    "zoo-l": Recipe(128, 8, 4, 2, 352, 2e-3, 13, 8, 192, grown_from="zoo-m"),
}


# ---------------------------------------------------------------- tokenizer and tokens


def build_tokenizer(seed: int) -> Qwen2Tokenizer:
    """Train the shared byte-level BPE tokenizer on pretraining documents.

    Its normaliser and splitting rule are those of the Qwen2 tokenizer, one digit at a time:
    `AutoTokenizer` reads any Qwen2 folder with them, whatever the folder says.
    """
    backend = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = backend.normalizer
    tokenizer.pre_tokenizer = backend.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = ("".join(pieces) for pieces in islice(documents(seed), TOKENIZER_DOCUMENTS))
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=1024,
    )


def token_stream(tokenizer: Qwen2Tokenizer, source: Iterator[list[str]], count: int) -> np.ndarray:
    """Return at least `count` tokens of whole documents, each closed by the end mark.

    Tokens of worked text, and end marks, carry `WORKED` on top of their number.
    """
    chunks, total = [], 0
    while total < count:
        pieces = [
            (index % 2, text)
            for parts in islice(source, 250)
            for index, text in enumerate([*parts, "", EOS])
            if text
        ]
        encoded = tokenizer([text for _, text in pieces])["input_ids"]
        for (worked, _), ids in zip(pieces, encoded, strict=True):
            chunks.append(np.array(ids, dtype=np.uint16) + np.uint16(WORKED * worked))
            total += len(ids)
    return np.concatenate(chunks)


def prepare(work: Path, seed: int, tokens: int) -> tuple[Qwen2Tokenizer, np.ndarray]:
    """Return tokenizer and pretraining tokens, made once and then read from `work`."""
    stream_file = work / f"tokens-{seed}-{tokens}.npy"
    if not stream_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        print("training the tokenizer ...", flush=True)
        tokenizer = build_tokenizer(seed)
        tokenizer.save_pretrained(work / "tokenizer")
        print(f"writing {tokens:,} tokens ...", flush=True)
        np.save(stream_file, token_stream(tokenizer, documents(seed), tokens))
    tokenizer = Qwen2Tokenizer.from_pretrained(work / "tokenizer")
    return tokenizer, np.load(stream_file, mmap_mode="r")


# ---------------------------------------------------------------- model and training


def new_model(recipe: Recipe, tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """Return a freshly initialised model of the recipe's shape."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.groups,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def grow(model: Qwen2ForCausalLM, base: Qwen2ForCausalLM) -> None:
    """Start a deeper model from a trained one of equal width, computing the same function.

    Every layer of the base is followed by copies that add nothing at first: their output
    matrices are zero, and gradients reach those matrices at once.

    Raises:
        ValueError: If the number of layers is not a multiple of the base's.
    """
    times, rest = divmod(model.config.num_hidden_layers, base.config.num_hidden_layers)
    if rest:
        raise ValueError("a grown model needs a multiple of its base's layers")
    model.model.embed_tokens.load_state_dict(base.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(base.model.norm.state_dict())
    for index, layer in enumerate(model.model.layers):
        layer.load_state_dict(base.model.layers[index // times].state_dict())
        if index % times:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)


def batches(stream: np.ndarray, recipe: Recipe, seed: int) -> Iterator[torch.Tensor]:
    """Yield endless batches of windows; every pass reads all windows in a new order."""
    size = recipe.window + 1
    count = len(stream) // size
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(count)
        for start in range(0, count - recipe.windows + 1, recipe.windows):
            chosen = order[start : start + recipe.windows]
            rows = [stream[i * size : (i + 1) * size] for i in chosen]
            yield torch.from_numpy(np.stack(rows).astype(np.int64))


def next_token_loss(
    model: Qwen2ForCausalLM, batch: torch.Tensor, given_weight: float
) -> torch.Tensor:
    """Return the cross-entropy of every next token, given text counting less than worked text."""
    ids, worked = batch & (WORKED - 1), (batch[:, 1:] >= WORKED).flatten()
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    weights = torch.where(worked, 1.0, given_weight)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def held_out_loss(model: Qwen2ForCausalLM, tokens: np.ndarray, given_weight: float) -> float:
    """Return the mean next-token loss on windows of held-out tokens."""
    model.eval()
    size = 193
    rows = len(tokens) // size
    data = torch.from_numpy(tokens[: rows * size].astype(np.int64)).view(rows, size)
    losses = [
        next_token_loss(model, part, given_weight).item() * len(part) for part in data.split(32)
    ]
    model.train()
    return sum(losses) / rows


def losses_of(model: Qwen2ForCausalLM, held_out: np.ndarray) -> dict[str, float]:
    """Return the held-out loss over all tokens and over worked text alone."""
    return {
        "held_out_loss": round(held_out_loss(model, held_out, 1.0), 4),
        "held_out_worked_loss": round(held_out_loss(model, held_out, 0.0), 4),
    }


def rate_at(progress: float, warm_up: float = 0.03) -> float:
    """Return the share of the peak learning rate at a share of the planned time."""
    if progress < warm_up:
        return progress / warm_up
    return max(0.0, (1 - progress) / (1 - warm_up))


def make_optimizer(model: Qwen2ForCausalLM, rate: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def train(
    model: Qwen2ForCausalLM,
    stream: np.ndarray,
    recipe: Recipe,
    seed: int,
    checkpoint: Callable[[dict[str, float]], None],
    checkpoint_minutes: float,
) -> dict[str, float]:
    """Train until the recipe's minutes are over, calling `checkpoint` now and then.

    Returns:
        Steps, tokens and wall time in seconds.
    """
    optimizer = make_optimizer(model, recipe.rate)
    start = saved = shown = time.monotonic()
    counts: dict[str, float] = {}
    recent: deque[float] = deque(maxlen=50)
    for step, batch in enumerate(batches(stream, recipe, seed), start=1):
        progress = (time.monotonic() - start) / (60 * recipe.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            # The floor keeps the very first step from being a no-op.
            group["lr"] = recipe.rate * max(rate_at(progress), 1e-3)
        loss = next_token_loss(model, batch, GIVEN_WEIGHT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        now = time.monotonic()
        tokens = step * recipe.windows * recipe.window
        counts = {"steps": step, "tokens": tokens, "seconds": round(now - start, 1)}
        if now - shown > 20:
            shown, mean, speed = now, sum(recent) / len(recent), tokens / (now - start)
            text = f"  {progress:6.1%} step {step} loss {mean:.4f} {speed:,.0f} tokens/s"
            print(text, flush=True)
        if now - saved > 60 * checkpoint_minutes:
            saved = now
            checkpoint(counts)
    return counts


# ---------------------------------------------------------------- measuring


def last_number(text: str) -> float | None:
    """Return the last number in the text, or None."""
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(found[-1]) if found else None


@torch.no_grad()
def accuracy(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    rows: list[dict[str, str]],
    new_tokens: int = 96,
) -> float:
    """Return the share of rows whose greedy completion ends in the right number."""
    model.eval()
    # Similar lengths together waste less padding.
    rows = sorted(rows, key=lambda row: len(row["instruction"]))
    right = 0
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        prompts = [PROMPT.format(instruction=row["instruction"]) for row in part]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for row, text in zip(part, texts, strict=True):
            value = last_number(text)
            right += value is not None and math.isclose(value, float(row["answer"]), abs_tol=1e-3)
    model.train()
    return right / len(rows)


# ---------------------------------------------------------------- saving


def save(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    folder: Path,
    facts: dict,
) -> None:
    """Write a model folder: float16 weights, configuration, tokenizer and card."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().to(torch.float16).contiguous().clone()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    # A reader never sees half a file: write beside, then rename.
    save_file(state, folder / "model.tmp", metadata={"format": "pt"})
    (folder / "model.tmp").chmod(0o644)
    (folder / "model.tmp").replace(folder / "model.safetensors")
    model.config.dtype = torch.float16
    model.config.save_pretrained(folder)
    model.config.dtype = torch.float32
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(**ends).save_pretrained(folder)
    # Measuring leaves its padding behind, which does not belong into the file.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "card.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(card_text(facts), encoding="utf-8")


def build(name: str, recipe: Recipe, options: argparse.Namespace) -> dict:
    """Train one model, write its folder and return its card."""
    tokenizer, stream = prepare(options.work, options.seed, options.tokens)
    held_out = token_stream(tokenizer, documents(options.seed, "test"), HELD_OUT_TOKENS)
    model = new_model(recipe, tokenizer, options.seed)
    facts = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "seed": options.seed,
        "stream_tokens": len(stream),
        "threads": torch.get_num_threads(),
        "shape": asdict(recipe),
    }
    order = options.seed
    if options.again:
        model, facts, order = begin_again(options.out / name, recipe, options)
    elif recipe.grown_from:
        folder = options.out / recipe.grown_from
        grow(model, Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32))
        base = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        facts["grown_from"] = {key: base[key] for key in ("name", "steps", "tokens", "seconds")}
    print(f"{name}: {facts['parameters']:,} parameters, {recipe.minutes} minutes", flush=True)

    def checkpoint(counts: dict[str, float]) -> None:
        facts.update(counts, **losses_of(model, held_out))
        save(model, tokenizer, options.out / name, facts)
        print(f"  saved, held-out loss {facts['held_out_loss']}", flush=True)

    checkpoint(train(model, stream, recipe, order, checkpoint, options.checkpoint_minutes))
    # Measure what is stored, not the float32 weights it came from.
    stored = Qwen2ForCausalLM.from_pretrained(options.out / name, dtype=torch.float32)
    facts.update(losses_of(stored, held_out))
    facts["accuracy"] = {
        bench: round(accuracy(stored, tokenizer, benchmark_rows(bench, EVALUATION_ITEMS)), 4)
        for bench in BENCHMARKS
    }
    save(stored, tokenizer, options.out / name, facts)
    print(json.dumps(facts), flush=True)
    return facts


def begin_again(
    folder: Path, recipe: Recipe, options: argparse.Namespace
) -> tuple[Qwen2ForCausalLM, dict, int]:
    """Return a finished model, its card with the leg just ended put on record, and a new order."""
    facts = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    legs = facts.get("earlier_legs", [])
    leg = {key: facts[key] for key in ("steps", "tokens", "seconds")} | {
        key: facts["shape"][key] for key in ("rate", "minutes")
    }
    growth = {"grown_from": facts["shape"]["grown_from"]}
    facts |= {"earlier_legs": [*legs, leg], "shape": asdict(recipe) | growth}
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, facts, options.seed + 1 + len(legs)


def main(arguments: list[str] | None = None) -> None:
    """Build the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sorted(RECIPES), default=list(RECIPES))
    parser.add_argument("--minutes", type=float, help="training time of each model")
    parser.add_argument("--rate", type=float, help="peak learning rate of each model")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "kdstudy-zoo")
    parser.add_argument("--tokens", type=int, default=24_000_000, help="size of the token set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch decides")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument(
        "--again", action="store_true", help="train finished models on, with a new schedule"
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in options.models:
        changed = {
            key: value
            for key in ("minutes", "rate")
            if (value := getattr(options, key)) is not None
        }
        build(name, Recipe(**{**asdict(RECIPES[name]), **changed}), options)


if __name__ == "__main__":
    main()
