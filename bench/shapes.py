"""Random models of real shapes, made directly in bfloat16, and what both sides train on."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 151_936
# hidden, intermediate, layers, heads, key-value heads
QWEN = {
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
    # SmolLM2's, with a vocabulary of its own.
    "135M": (576, 1536, 30, 9, 3),
    "zoo-l": (128, 352, 8, 4, 2),
    "zoo-m": (128, 352, 4, 4, 2),
    # To keep a bench alive where no real size is in reach.
    "tiny": (32, 64, 2, 2, 1),
    "small": (64, 128, 2, 4, 2),
}


def qwen(size: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of a Qwen2.5 size with random bfloat16 weights, on the GPU if there is one."""
    hidden, intermediate, layers, heads, kv_heads = QWEN[size]
    config = Qwen2Config(
        vocab_size=vocabulary(size),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=size != "7B",
        # Narrow models of small weights have distributions that only rounding tells apart.
        initializer_range=0.02 if size.endswith("B") else 0.3,
    )
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):  # billions of random numbers take a CPU minutes
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model


def vocabulary(size: str) -> int:
    """Return the vocabulary of a size: Qwen2.5's, but for the small ones."""
    return VOCABULARY if size.endswith("B") else {"135M": 49_152}.get(size, 2000)


def gib(size: str) -> float:
    """Return the GiB of a size's bfloat16 weights, roughly."""
    hidden, intermediate, layers, _, _ = QWEN[size]
    heads = vocabulary(size) * hidden * (2 if size == "7B" else 1)
    return 2 * (heads + layers * hidden * (3 * intermediate + 3 * hidden)) / 2**30


def lora(model: PreTrainedModel, dropout: float) -> PeftModel:
    """Return the model with the paper's adapter, in training mode.

    Its second matrix, which starts at zero, is made random: a step then moves every gradient.
    """
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=dropout,
        target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
    )
    adapted = get_peft_model(model, config).train()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    return adapted
