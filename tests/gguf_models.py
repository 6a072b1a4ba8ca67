"""Tiny models as GGUF files, written as llama.cpp's converter does, and what is in them."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END = 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = [
    "Anna has 12 apples and  3 pears.  How many fruits are there?\n\n  12 +  3 = 15\n",
    "A train goes 120 miles in 2 hours; it's 60 miles an hour, isn't it?\n    return x  1\n",
    "Über naïve café 99 bottles,  7  8   9\n",
]
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
# By the file's name for it; the second is what Llama 3's tokenizer.json has.
RULES = {
    "smollm": [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False, use_regex=True)],
    "gpt-2": [pre_tokenizers.ByteLevel(False, use_regex=True)],
    "llama-bpe": [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ],
}


def words(rule: str = "smollm") -> Tokenizer:
    """A byte-level BPE tokenizer, its merges learned from text under a rule."""
    found = Tokenizer(BPE(ignore_merges=rule == "llama-bpe"))
    found.pre_tokenizer = pre_tokenizers.Sequence(RULES[rule])
    trainer = BpeTrainer(
        vocab_size=317,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(_TEXT * 3, trainer)
    return found


def model(architecture: str = "llama", *, tied: bool = True, seed: int = 0) -> PreTrainedModel:
    """A random model; its sizes are odd wherever blocks of 32 allow it."""
    config, kind = _CLASSES[architecture]
    torch.manual_seed(seed)
    return kind(
        config(
            vocab_size=317,
            hidden_size=96,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            # transformers reads no other width of Qwen3 from GGUF.
            head_dim=128 if architecture == "qwen3" else 32,
            max_position_embeddings=257,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e5},
            tie_word_embeddings=tied,
            eos_token_id=END,
        )
    ).eval()


def write(
    file: Path,
    whole: PreTrainedModel,
    types: str | dict[str, str] = "Q4_1",
    *,
    tokenizer: Tokenizer | None = None,
    says: dict | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> dict[str, tuple[str, np.ndarray]]:
    """Write a model as GGUF; return each tensor's type and bytes, by its name in the file.

    Args:
        file: Where.
        whole: The model.
        types: GGUF type of every matrix, or by ending of its name in the file (else F32).
        tokenizer: Its words; those of `words()` if left out.
        says: Further settings, or others than usual; None takes one out.
        more: Further tensors.
    """
    config, kind = whole.config, whole.config.model_type
    name_map = gguf.get_tensor_name_map(
        next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == kind), config.num_hidden_layers
    )
    written: dict[str, tuple[str, np.ndarray]] = {}
    for name, value in whole.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        base, _, suffix = name.rpartition(".")
        place = f"{name_map.get_name(base)}.{suffix}"
        array = value.float().numpy()
        if kind == "llama" and (".attn_q." in place or ".attn_k." in place):
            array = paired(array, config.head_dim)
        stored = "F32" if array.ndim == 1 else _type_of(place, types)
        packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType[stored])
        written[place] = (stored, packed)
    for name, array in (more or {}).items():
        written[name] = ("F32", array)
    writer = gguf.GGUFWriter(file, kind)
    for key, value in (_settings(whole, tokenizer or words()) | (says or {})).items():
        if value is not None:
            _add(writer, key, value)
    for name, (stored, packed) in written.items():
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[stored])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def paired(array: np.ndarray, width: int) -> np.ndarray:
    """Return the rows as llama.cpp wants a rotated head's: those of a pair side by side."""
    half = width // 2
    rows = [
        head + place + half * second
        for head in range(0, len(array), width)
        for place in range(half)
        for second in (0, 1)
    ]
    return array[rows]


def unpaired(array: np.ndarray, width: int) -> np.ndarray:
    """Return the rows as transformers has them; undoes `paired`, one row at a time."""
    found = np.empty_like(array)
    for row, source in enumerate(paired(np.arange(len(array))[:, None], width)[:, 0]):
        found[source] = array[row]
    return found


def numbers(stored: str, packed: np.ndarray) -> np.ndarray:
    """Return what blocks stand for, in float64: by the format's definition, not by a library."""
    if stored == "F32":
        return packed.astype(np.float64)
    raw = np.ascontiguousarray(packed)
    if stored == "F16":
        return raw.view(np.float16).astype(np.float64).reshape(len(raw), -1)
    size = {"Q4_1": 20, "Q8_0": 34}[stored]
    blocks = raw.view(np.uint8).reshape(-1, size)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    if stored == "Q8_0":
        values = scale * blocks[:, 2:].copy().view(np.int8)
    else:
        least = blocks[:, 2:4].copy().view(np.float16).astype(np.float64)
        low, high = blocks[:, 4:] & 15, blocks[:, 4:] >> 4
        values = scale * np.concatenate([low, high], axis=1) + least
    return values.reshape(len(packed), -1)


def _type_of(place: str, types: str | dict[str, str]) -> str:
    if isinstance(types, str):
        return types
    return next((t for end, t in types.items() if place.endswith(end)), "F32")


def _settings(whole: PreTrainedModel, tokenizer: Tokenizer) -> dict:
    config, inner = whole.config, json.loads(tokenizer.to_str())
    kind = config.model_type
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    names = {"llama": ["rope.dimension_count"], "qwen2": []}
    names["qwen3"] = ["attention.key_length", "attention.value_length"]
    widths = {f"{kind}.{name}": config.head_dim for name in names[kind]}
    return widths | {
        "general.name": "a tiny model",
        "general.license": "apache-2.0",
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{kind}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(vocabulary) - len(SPECIAL)),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in inner["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
