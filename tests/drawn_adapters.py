"""Adapters with weights that are not zero."""

import random

import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
)


def loud(model: PeftModel, seed: int) -> PeftModel:
    """Give every weight that would be trained another value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def drawn(rng: random.Random):
    """Draw a kind of adapter, on which layers."""
    body = rng.sample(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"], 2)
    kind = rng.choice(["lora", "lora", "lora", "dora", "rslora", "lokr", "loha", "ia3"])
    saved = rng.choice([None, None, ["lm_head"], ["embed_tokens"]])
    if kind == "ia3":
        config = IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        )
    elif kind in ("lokr", "loha"):
        config = {"lokr": LoKrConfig, "loha": LoHaConfig}[kind](r=2, alpha=4, target_modules=body)
    else:
        extra = [] if kind == "dora" or saved else rng.choice([[], ["embed_tokens"], ["lm_head"]])
        config = LoraConfig(
            r=rng.choice([1, 3]),
            lora_alpha=rng.choice([2, 5]),
            target_modules=body + extra,
            use_dora=kind == "dora",
            use_rslora=kind == "rslora",
        )
    config.task_type, config.modules_to_save = "CAUSAL_LM", saved
    return config
