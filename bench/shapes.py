"""Random models of real shapes, made directly in bfloat16, and what both sides train on."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 151_936
# hidden, intermediate, layers, heads, key-value heads
QWEN = {
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "7B": (3584, 18944, 28, 28, 4),
}


def qwen(size: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of a Qwen2.5 size with random bfloat16 weights, on the GPU if there is one."""
    hidden, intermediate, layers, heads, kv_heads = QWEN[size]
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=size in ("0.5B", "1.5B"),
    )
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


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
