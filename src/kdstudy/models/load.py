"""Hugging Face models, tokenizers and LoRA adapters: load, check, save, merge."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdstudy.artifacts import Trained
from kdstudy.errors import InputError, first_line
from kdstudy.models import checkpoint, memory
from kdstudy.models.adapters import (
    add_adapter,
    linear_layers,
    merge,
    put_adapter,
    quiet,
    require_supported,
)
from kdstudy.models.cut import cut, layers_of
from kdstudy.models.fetch import fetch
from kdstudy.models.narrow import narrow
from kdstudy.models.parts import Model, trial_logits
from kdstudy.models.save import align, eos_ids, home_of, require_same, restore, save
from kdstudy.models.tokenizer import (
    load_tokenizer,
    read_otherwise,
    replaced_class,
    require_eos,
)

# The one door to a model's files: adapters, tokenizers and saving lie behind it.
__all__ = [
    "DTYPES",
    "add_adapter",
    "align",
    "cut",
    "device",
    "dtype",
    "eos_ids",
    "home_of",
    "linear_layers",
    "load_model",
    "load_tokenizer",
    "merge",
    "meta_model",
    "open_model",
    "open_tokenizer",
    "put_adapter",
    "read_otherwise",
    "ready_to_answer",
    "replaced_class",
    "require_causal_lm",
    "require_eos",
    "require_same",
    "require_supported",
    "restore",
    "save",
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(precision: str) -> torch.dtype:
    """Return the type of `auto`, `float32` or `bfloat16` on this machine.

    `auto` is float32 on a CPU: bfloat16 is many times slower there for small models.
    """
    if precision == "auto":
        supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if supported else torch.float32
    return DTYPES[precision]


def load_model(
    folder: Path,
    *,
    adapter: Path | None = None,
    precision: str = "auto",
    trust_remote_code: bool = False,
) -> Model:
    """Return a causal LM in eval mode on the device.

    Args:
        folder: A Hugging Face model folder with safetensors weights.
        adapter: Folder of a PEFT adapter to put on it; every weight of it is checked.
        precision: `auto`, `float32` or `bfloat16`.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        InputError: The folder is no causal LM, weights are missing, or the adapter did not load.
    """
    require_causal_lm(folder, trust_remote_code)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype(precision),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except ImportError as e:
        raise InputError(
            f"{folder}: the model needs a package that is not here ({first_line(e)})",
            remedy="install that package, then run again",
        ) from e
    except Exception as e:  # a wrong configuration ends in any error
        if memory.ran_out(e):
            raise
        raise InputError(
            f"{folder}: the model cannot be loaded ({_said(e)})",
            remedy="download or save it again: a file may be cut short, or edited",
        ) from e
    if info["missing_keys"]:
        raise InputError(
            f"{folder}: no weights for {min(info['missing_keys'])} "
            f"({len(info['missing_keys'])} missing)",
            why="they would be random numbers",
            remedy="save or download the model again, complete",
        )
    model = _text_model(model, folder).to(device())
    if adapter is not None:
        model = put_adapter(model, adapter)
    model.eval()
    assert not any(module.training for module in model.modules()), "eval mode reaches every layer"
    return model


def meta_model(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """Return a causal LM on the meta device: it has names and shapes and takes no memory.

    Raises:
        InputError: The folder is no causal LM.
    """
    require_causal_lm(folder, trust_remote_code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _text_model(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the language model of one that reads pictures or sound as well (Gemma 3).

    Raises:
        InputError: It cannot be taken out.
    """
    config = model.config.get_text_config(decoder=True)
    if type(config) is type(model.config):
        return model
    refusal = InputError(
        f"{folder}: {model.config.model_type} reads more than text, and its language model cannot "
        "be taken out",
        remedy="choose a model of text alone",
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal
    with torch.device("meta"):
        text = AutoModelForCausalLM.from_config(config)
    body = model.get_decoder()
    if type(body) is not type(text.get_decoder()):
        raise refusal
    setattr(text, text.base_model_prefix, body)
    text.set_output_embeddings(model.get_output_embeddings())
    text.generation_config = model.generation_config
    text.config._name_or_path = model.config._name_or_path
    if any(p.is_meta for p in text.parameters()) or not torch.equal(
        trial_logits(model), trial_logits(text)
    ):
        raise refusal
    return text.eval()


def require_causal_lm(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a folder that is no causal LM with safetensors weights.

    Raises:
        InputError: It lacks a configuration or weights, or holds another kind of model.
    """
    checkpoint.require_folder(folder)
    checkpoint.check_folder(folder, trust_remote_code=trust_remote_code)
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as e:
        raise InputError(
            f"{folder}: config.json cannot be used ({_said(e)})",
            remedy="correct it, or save or download the model again",
        ) from e


def open_tokenizer(local: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model as a study names it (`resolve.Resolved.local`).

    Raises:
        InputError: As `load_tokenizer` does.
    """
    return load_tokenizer(fetch(local), local["trust_remote_code"])


def open_model(
    local: Mapping[str, Any], precision: str = "auto", trained: Trained | None = None
) -> Model:
    """Return a model as a study names it, or as a finished train stage left it.

    A user's adapter is merged first, then the model is cut: both are part of what the study starts
    from. A cut by importance is none here, but one of that size: the stage `cut` measures first.

    Args:
        local: From `resolve.Resolved.local`; a Hub model is downloaded.
        precision: `auto`, `float32` or `bfloat16`.
        trained: What a train stage left of it, or None.

    Raises:
        InputError: As `load_model` does.
    """
    trust = local["trust_remote_code"]
    if trained is not None and trained.whole:
        return load_model(trained.model, precision=precision, trust_remote_code=trust)
    given = Path(local["adapter"]) if local["adapter"] else None
    model = load_model(fetch(local), adapter=given, precision=precision, trust_remote_code=trust)
    model = merge(model)
    if local.get("layers") is not None:
        model = cut(model, local["layers"])
    if local.get("intermediate") is not None:
        model = narrow(model, [range(local["intermediate"])] * len(layers_of(model)))
    return model if trained is None else put_adapter(model, trained.adapter)


def ready_to_answer(model: Model) -> Model:
    """Return the model as its distributions are asked for.

    In float32 an adapter is merged, which is exact to rounding and saves its extra passes; in
    bfloat16 it stays in place: what the model writes may be rounded (`writing.opened_to_write`),
    what it is measured by is not.
    """
    return merge(model) if model.dtype == torch.float32 else model


def _said(error: Exception) -> str:
    """Return what a library says of a file."""
    said = first_line(error)
    return said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"
