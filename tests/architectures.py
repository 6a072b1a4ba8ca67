"""Small random models of every causal architecture that transformers builds from plain numbers."""

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61
_MOST_WEIGHTS = 5_000_000
# Each configuration takes what it knows of these.
_SMALL = {
    **{"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **{"num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4, "moe_intermediate_size": 16},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "mamba_expand": 2},
    **{"state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}
_LATENT = {"head_dim": None, "num_key_value_heads": 4}  # None: leave it to the configuration
_FOUR = {"num_hidden_layers": 4}  # every fourth layer attends
_OWN = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "minicpm3", "glm4_moe_lite", "youtu"), _LATENT),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "lfm3", "bailing_hybrid"), _FOUR),
    "jamba": {"num_hidden_layers": 9},
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention", "mamba", "attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "falcon": {"head_dim": None, "alibi": True, "new_decoder_architecture": False},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_groups": 1, "mamba_n_heads": 8, "mamba_d_head": 8},
    "mpt": {"n_heads": 4},
}


def build(kind: str, **fields) -> PreTrainedModel:
    """Return a model of a `model_type`, in eval mode, the same every time.

    Raises whatever its configuration or its class raises; ValueError where it is too large.
    """
    (config_class, *_) = [c for c in MODEL_FOR_CAUSAL_LM_MAPPING if c.model_type == kind]
    given = {k: v for k, v in (_SMALL | _OWN.get(kind, {}) | fields).items() if v is not None}
    config = config_class(**given)
    # On the meta device first: some configurations ignore these numbers and mean gigabytes.
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_WEIGHTS:
        raise ValueError(f"{size} weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
    return model


def kinds() -> list[str]:
    """Return every `model_type` that has a causal language model."""
    return sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})
