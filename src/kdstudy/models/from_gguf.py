"""A GGUF file as an ordinary model folder: its weights as numbers, its tokenizer, its template.

transformers reads the file; what it would read wrongly without a word is read here or refused:
rules for splitting text that it does not know, settings and tensors that it passes over.
"""

import dataclasses
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kdstudy.errors import InputError, first_line
from kdstudy.models import checkpoint, gguf_file, load, memory
from kdstudy.models.adapters import quiet

# Architectures whose settings and tensors are all accounted for below.
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_TOKENS = "tokenizer.ggml.tokens"
_INSTEAD = "give the model it was made from, as save_pretrained writes it"
# Settings that transformers reads of these architectures, and ones that change no number.
_READ = frozenset({
    *("context_length", "block_count", "feed_forward_length", "embedding_length"),
    *("rope.freq_base", "attention.head_count", "attention.head_count_kv"),
    *("attention.layer_norm_rms_epsilon",),
})  # fmt: skip
# Settings that say again what follows from others: what they must be, of a configuration.
_IMPLIED = {
    "vocab_size": lambda c: c.vocab_size,
    "rope.dimension_count": lambda c: _width(c),
    "attention.key_length": lambda c: _width(c),
    "attention.value_length": lambda c: _width(c),
    "rope.scaling.type": lambda c: "none",
    "expert_count": lambda c: 0,
    "expert_used_count": lambda c: 0,
}
# How byte-level vocabularies split text, by the file's name for it: a rule, or one of these words.
_DIGITS, _GPT2 = "digits", "gpt2"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "jais", "trillion"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
}
# Where a word that is a token stays whole, whether merges lead to it or not.
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")
# Whose own tokenizer composes characters first; the file does not say so.
_COMPOSED = ("qwen2",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
    """What a file says of its model.

    Attributes:
        says: Its settings by name; of lists only those that are asked for.
        types: How many tensors there are of each GGUF type.
        numbers: How many numbers all tensors hold.
        tensors: Their names.
        tokens: How many tokens there are.
    """

    says: Mapping[str, Any]
    types: Mapping[str, int]
    numbers: int
    tensors: frozenset[str]
    tokens: int

    @property
    def architecture(self) -> str:
        return str(self.says.get("general.architecture"))


def write(file: Path, out: Path, sha256: str) -> dict[str, Any]:
    """Fill a folder with a file's model: float32 safetensors, tokenizer, template, settings.

    `config.json` says under `gguf_file.MARK` what the weights were made from, and README.md in
    words. The folder is loaded again and compared with what was in memory.

    Args:
        file: A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
        out: An empty folder.
        sha256: Of the file's bytes, in hexadecimal.

    Returns:
        What the mark says.

    Raises:
        InputError: It is no GGUF file, the package `gguf` is missing, or the model is one that
            would not become what the file says.
        StageError: What was written is another model when it is loaded again.
    """
    gguf_file.require_gguf(file)
    _require_package(file)
    header = _header(file)
    _require_known(file, header)
    tokenizer = _tokenizer(file, header)
    model = _model(file, header, tokenizer)
    mark = {"file": file.name, "sha256": sha256, "types": dict(header.types)}
    setattr(model.config, gguf_file.MARK, mark)
    load.save(model, out, tokenizer, shard="5GB")
    load.require_same(model, out, lambda: load.load_model(out, precision="float32"))
    (out / "README.md").write_text(_card(file, header, model.config.to_dict()), encoding="utf-8")
    return mark


def _require_package(file: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{file}: reading GGUF needs the package gguf, which is not here",
            remedy="pip install 'kdstudy[gguf]'",
        )


def _header(file: Path) -> _Header:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        scalars = (n for n, f in reader.fields.items() if len(f.data) == 1)
        says = {name: reader.fields[name].contents() for name in scalars}
    # The reader of a damaged file may fail in any way.
    except Exception as e:
        raise InputError(
            f"{file}: cannot be read as GGUF ({first_line(e)})",
            remedy="download it again: it may be cut short",
        ) from e
    return _Header(
        says=says,
        types=Counter(t.tensor_type.name for t in reader.tensors),
        numbers=sum(int(t.n_elements) for t in reader.tensors),
        tensors=frozenset(t.name for t in reader.tensors),
        tokens=len(reader.fields[_TOKENS].data) if _TOKENS in reader.fields else 0,
    )


def _require_known(file: Path, header: _Header) -> None:
    """Refuse a file whose model is of another architecture, in parts, or has no usable words."""
    if header.architecture not in _ARCHITECTURES:
        raise InputError(
            f"{file}: is a {header.architecture} model, which cannot be imported from GGUF",
            why=f"{', '.join(_ARCHITECTURES)} are read and checked number by number",
            remedy=_INSTEAD,
        )
    if header.says.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"{file}: is one of {header.says['split.count']} parts of a model",
            remedy="join them first (llama-gguf-split --merge)",
        )
    if "rope_freqs.weight" in header.tensors:
        raise InputError(
            f"{file}: scales its positions by a table (rope_freqs, as Llama 3.1 and later)",
            why="transformers passes over that table: the model would be another one",
            remedy=_INSTEAD,
        )
    kind, rule = header.says.get("tokenizer.ggml.model"), header.says.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise InputError(
            f"{file}: its tokenizer is of the kind {kind!r}; byte-level BPE (gpt2) is read",
            remedy=_INSTEAD,
        )
    if rule not in _SPLITS:
        raise InputError(
            f"{file}: splits text by the rule {rule!r}, which is not known here"
            if rule
            else f"{file}: does not say by which rule it splits text (tokenizer.ggml.pre)",
            why="by another rule the same text would have other ids than the model was trained on",
            remedy=_INSTEAD,
        )


def _tokenizer(file: Path, header: _Header) -> PreTrainedTokenizerFast:
    """Return the file's tokenizer, splitting text by the file's rule."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as e:
        raise InputError(
            f"{file}: its tokenizer cannot be read ({first_line(e)})", remedy=_INSTEAD
        ) from e
    load.require_eos(tokenizer, str(file))
    inner = _without_more(tokenizer.backend_tokenizer, header.tokens)
    rule = str(header.says["tokenizer.ggml.pre"])
    split = _SPLITS[rule]
    first = {
        _GPT2: [],
        _DIGITS: [pre_tokenizers.Digits(individual_digits=True)],
    }.get(split, [pre_tokenizers.Split(Regex(split), behavior="isolated")])
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (_GPT2, _DIGITS))
    inner.pre_tokenizer = pre_tokenizers.Sequence([*first, by_bytes])
    if rule in _COMPOSED:
        inner.normalizer = normalizers.NFC()
    bpe = inner.model
    assert isinstance(bpe, models.BPE), "the kind gpt2 is BPE"
    bpe.ignore_merges = rule in _WHOLE_WORDS
    inner.model = bpe
    special = tokenizer.special_tokens_map.items()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        chat_template=tokenizer.chat_template,
        **{name: token for name, token in special if inner.token_to_id(str(token)) is not None},
    )


def _without_more(tokenizer: tokenizers.Tokenizer, tokens: int) -> tokenizers.Tokenizer:
    """Return a tokenizer without what transformers added to a file's tokens: GPT-2's own end."""
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [t for t in said["added_tokens"] if t["id"] < tokens]
    return tokenizers.Tokenizer.from_str(json.dumps(said))


def _model(file: Path, header: _Header, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return the file's model in float32, once every number of the file is in it."""
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype="float32", output_loading_info=True
            )
    except Exception as e:  # a type of blocks that is not known, a shape that does not fit
        if memory.ran_out(e):
            raise
        raise InputError(
            f"{file}: the model cannot be loaded ({first_line(e)})", remedy=_INSTEAD
        ) from e
    config = model.config
    checkpoint.check_config({"model_type": config.model_type}, str(file), trust_remote_code=False)
    # Read, the weights are numbers like any others.
    del config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    config._name_or_path = ""
    config.__dict__.pop("_model_name_or_path", None)
    _require_settings(file, header, config)
    held = sum(p.numel() for p in model.parameters())
    lost = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if held != header.numbers or lost:
        raise InputError(
            f"{file}: holds {header.numbers:,} numbers, and the model that transformers makes of "
            f"it {held:,}",
            why="some of its tensors have no place in the model, or parts of the model would be "
            "random",
            remedy=_INSTEAD,
        )
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        raise InputError(f"{file}: its tokenizer has more tokens than the model", remedy=_INSTEAD)
    # Written with 32 bits, read with 64: the number that was meant is the shortest.
    config.rms_norm_eps = float(str(np.float32(config.rms_norm_eps)))
    ends = (config.eos_token_id, header.says.get("tokenizer.ggml.eot_token_id"))
    ends = [*dict.fromkeys(e for e in ends if e is not None)]
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    return model.eval()


def _require_settings(file: Path, header: _Header, config: Any) -> None:
    """Refuse a file with a setting that would not be part of the model."""
    prefix = f"{header.architecture}."
    for name, value in header.says.items():
        setting = name.removeprefix(prefix)
        if not name.startswith(prefix) or setting in _READ:
            continue
        if setting not in _IMPLIED or _IMPLIED[setting](config) != value:
            raise InputError(
                f"{file}: sets {setting} to {value!r}, which transformers passes over",
                why="the model would be another one than the file's",
                remedy=_INSTEAD,
            )


def _width(config: Any) -> int:
    """Return how many numbers wide an attention head is."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _card(file: Path, header: _Header, config: Mapping[str, Any]) -> str:
    licence = header.says.get("general.license")
    front = f"---\nlicense: {licence}\n---\n" if licence and str(licence).isprintable() else ""
    types = ", ".join(f"{t} ({n} tensors)" for t, n in header.types.items())
    return (
        f"{front}# {gguf_file.name_of(file.name)}\n\n{gguf_file.origin(config)}.\n\n"
        f"Its tensors were stored as {types}. They are float32 here; "
        "what quantising lost is lost.\n"
    )
