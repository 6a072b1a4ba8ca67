"""Tiny random models and a character tokenizer, made in a moment and the same every time."""

import os
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kdstudy.data.prompts import Encoded

# The same numbers on every machine.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(1)

SPECIAL = ["<unk>", "</s>", "<pad>"]
EOS = 1
CHARACTERS = "\n :?.,+-*=()'0123456789QAabcdefghijklmnopqrstuvwxyz"
TEMPLATE = "Q: {instruction}\nA: "


def tokenizer(extra: str = "", **special: str) -> PreTrainedTokenizerFast:
    """One token per character; `extra` characters come last."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS, *extra])}
    inner = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    special = special or {"eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)


VOCABULARY = len(SPECIAL) + len(CHARACTERS)


def qwen(
    seed: int = 0, *, width: int = 16, vocabulary: int = VOCABULARY, scale: float = 4.0
) -> PreTrainedModel:
    """A random Qwen2; `scale` makes its distributions far from uniform."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return _seeded(Qwen2ForCausalLM, config, seed, scale)


def llama(
    seed: int = 0, *, width: int = 16, vocabulary: int = VOCABULARY, scale: float = 4.0
) -> PreTrainedModel:
    """A random Llama with an untied head."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    return _seeded(LlamaForCausalLM, config, seed, scale)


def _seeded(kind: type, config, seed: int, scale: float) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
    return model


def widen(model: PreTrainedModel, extra: int) -> PreTrainedModel:
    """Return the model with more vocabulary entries, whose weights are loud."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.vocab_size += extra
    wide = type(model)(config).eval()
    state = wide.state_dict()
    for name, value in model.state_dict().items():
        if state[name].shape != value.shape:
            value = torch.cat([value, torch.full((extra, value.shape[1]), 3.0)])
        state[name].copy_(value)
    return wide


def save(folder: Path, model: PreTrainedModel, tok: PreTrainedTokenizerFast | None = None) -> Path:
    """Write model and tokenizer as a Hugging Face folder."""
    model.save_pretrained(folder)
    (tok or tokenizer()).save_pretrained(folder)
    return folder


def rows(number: int, seed: int = 0, *, prompt: int = 4, longest: int = 20) -> list[Encoded]:
    """Random rows of different lengths that end with EOS."""
    rng = random.Random(seed)
    made = []
    for _ in range(number):
        length = rng.randrange(prompt + 2, longest)
        ids = (*(rng.randrange(3, VOCABULARY) for _ in range(length)), EOS)
        made.append(Encoded(ids, rng.randrange(1, prompt + 1)))
    return made
