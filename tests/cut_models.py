"""Small models of several architectures, and a folder with one of them cut."""

import json

import tiny_models as tiny
import torch
from study_folder import write_folder
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
)

IDS = torch.arange(24)[None] * 3 % tiny.VOCABULARY
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 6, "max_position_embeddings": 64,
         "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 2}  # fmt: skip


def model(kind, config, **fields):
    fields = SIZES | fields if kind is not GPT2LMHeadModel else fields
    return tiny._seeded(kind, config(vocab_size=tiny.VOCABULARY, **fields), 3, 4.0)


def gpt2(**fields):
    return model(GPT2LMHeadModel, GPT2Config, n_embd=16, n_layer=6, n_head=2, n_positions=64,
                 bos_token_id=1, eos_token_id=1, **fields)  # fmt: skip


@torch.no_grad()
def logits(made, ids=IDS, **settings):
    return made.eval()(input_ids=ids, **settings).logits


def cut_folder(folder, *, depths=(), **others):
    """A study's folder whose models say how many layers they have."""
    write_folder(folder)
    for name in ("big", "small", "medium"):
        config = {"model_type": "qwen2", "of": name, "num_hidden_layers": 8}
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder
