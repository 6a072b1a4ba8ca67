"""Hugging Face models, tokenizers and LoRA adapters: load, check, save, merge."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as progress

from kdstudy.errors import InputError, StageError
from kdstudy.models import checkpoint
from kdstudy.models.parts import Model, plain
from kdstudy.models.resolve import fetch
from kdstudy.study import schema

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    return _DTYPES[precision]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer, with an end-of-sequence and a padding token.

    A missing padding token becomes the end-of-sequence token: the vocabulary stays as it is, and
    no mask of this package looks at padding ids.

    Raises:
        InputError: There is no tokenizer, or it has no end-of-sequence token.
    """
    _require_folder(folder)
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise InputError(
            f"{folder}: its tokenizer cannot be loaded ({_first_line(e)})",
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        ) from e
    require_eos(tokenizer, str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_eos(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer without an end-of-sequence token, with an InputError."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{name}: the tokenizer has no end-of-sequence token",
            why="a student could neither learn to stop nor be told apart from a truncated one",
            remedy="set eos_token (in tokenizer_config.json) to a token of the vocabulary",
        )


def eos_ids(model: Model, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every id that ends a completion: the tokenizer's, then the generation config's."""
    config = getattr(plain(model), "generation_config", None)
    more = getattr(config, "eos_token_id", None)
    more = [] if more is None else [more] if isinstance(more, int) else list(more)
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *more]))


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
        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype(precision),
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except ImportError as e:
        raise InputError(
            f"{folder}: the model needs a package that is not here ({_first_line(e)})",
            remedy="install that package, then run again",
        ) from e
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise InputError(
            f"{folder}: the model cannot be loaded ({_first_line(e)})",
            remedy="download or save it again: a file may be cut short",
        ) from e
    if info["missing_keys"]:
        raise InputError(
            f"{folder}: no weights for {min(info['missing_keys'])} "
            f"({len(info['missing_keys'])} missing)",
            why="they would be random numbers",
            remedy="save or download the model again, complete",
        )
    model = model.to(device())
    if adapter is not None:
        model = put_adapter(model, adapter)
    model.eval()
    assert not any(module.training for module in model.modules()), "eval mode reaches every layer"
    return model


def require_causal_lm(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a folder that is no causal LM with safetensors weights.

    Raises:
        InputError: It lacks a configuration or weights, or holds another kind of model.
    """
    _require_folder(folder)
    checkpoint.check_folder(folder, trust_remote_code=trust_remote_code)
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{folder}: config.json cannot be used ({_first_line(e)})") from e


def put_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return the model with a saved PEFT adapter, frozen and in eval mode.

    Every weight of the file is compared with the model's: PEFT itself only warns about weights
    that did not load, and the base model would then answer in the adapter's name.

    Raises:
        InputError: The folder holds no adapter, or one made for another model.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: has no adapter_config.json",
            remedy="give the folder that PEFT's save_pretrained wrote",
        )
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{adapter}: has no adapter_model.safetensors",
            why="other weight files are pickles, which can run code",
            remedy="save the adapter again with PEFT's save_pretrained",
        )
    try:
        with _quiet():
            loaded = PeftModel.from_pretrained(model, adapter, is_trainable=False)
    except (RuntimeError, ValueError, TypeError, KeyError, json.JSONDecodeError) as e:
        raise InputError(
            f"{adapter}: does not fit this model ({_first_line(e)})",
            why="it was made for another base model",
            remedy="load it on the base model it was trained on",
        ) from e
    _require_loaded(loaded, load_file(weights), adapter)
    return loaded.eval()


def open_tokenizer(local: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model as a study names it (`resolve.Resolved.local`).

    Raises:
        InputError: As `load_tokenizer` does.
    """
    return load_tokenizer(fetch(local), local["trust_remote_code"])


def open_model(
    local: Mapping[str, Any], precision: str = "auto", finished: Path | None = None
) -> Model:
    """Return a model as a study names it, or as a finished train stage left it.

    A user's adapter is merged first: it is part of the model that the study starts from.

    Args:
        local: From `resolve.Resolved.local`; a Hub model is downloaded.
        precision: `auto`, `float32` or `bfloat16`.
        finished: Folder of a train stage (`adapter/` or `model/`), or None.

    Raises:
        InputError: As `load_model` does.
    """
    trust = local["trust_remote_code"]
    if finished is not None and (finished / "model").is_dir():
        return load_model(finished / "model", precision=precision, trust_remote_code=trust)
    given = Path(local["adapter"]) if local["adapter"] else None
    model = load_model(fetch(local), adapter=given, precision=precision, trust_remote_code=trust)
    model = merge(model)
    return model if finished is None else put_adapter(model, finished / "adapter")


def add_adapter(model: PreTrainedModel, lora: schema.Lora, seed: int) -> PeftModel:
    """Return the model with fresh, trainable LoRA layers; its own weights are frozen.

    Args:
        model: A plain causal LM.
        lora: Rank, scale, dropout and which layers.
        seed: Seed of the layers' initial weights.

    Raises:
        InputError: A target module is not a linear layer of this model.
    """
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    }
    unknown = [name for name in lora.target_modules if name not in names]
    if unknown:
        raise InputError(
            f"train.lora.target_modules: {', '.join(unknown)} is no linear layer of "
            f"{model.config.model_type}",
            why=f"its linear layers are {', '.join(sorted(names))}",
            remedy="name some of these",
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type=TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merge(model: Model) -> PreTrainedModel:
    """Return a plain model with the adapter added into its weights; a plain model as it is."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def ready_to_answer(model: Model) -> tuple[Model, int]:
    """Return the model as it generates fastest, and its number of parameters without adapter.

    In float32 an adapter is merged, which is exact to rounding and saves its extra passes; in
    bfloat16 merging would round most of a small update away.
    """
    if model.dtype == torch.float32:
        model = merge(model)
    return model, sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


def save(model: Model, out: Path, tokenizer: PreTrainedTokenizerBase, base: str = "") -> None:
    """Write an adapter (PEFT) or a whole model, with the tokenizer, as safetensors.

    Args:
        model: What to save.
        out: Folder to fill.
        tokenizer: Saved beside it.
        base: What an adapter names as its base, not the folder that was loaded: a Hub id.
    """
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        config.base_model_name_or_path = base
        if isinstance(config.target_modules, set):  # would be written in the order of hashes
            config.target_modules = sorted(config.target_modules)
        card = out / "README.md"
        before = card.read_bytes() if card.is_file() else None
        # Without "False" PEFT asks the Hub whether the base's vocabulary has grown.
        model.save_pretrained(out, save_embedding_layers=False)
        # PEFT's model card repeats the folder the base was loaded from.
        card.unlink(missing_ok=True) if before is None else card.write_bytes(before)
    else:
        with _quiet():
            # One file: a checkpoint is read back whole.
            model.save_pretrained(out, max_shard_size="1TB")
    tokenizer.save_pretrained(out)


def restore(model: Model, folder: Path) -> None:
    """Put the weights that `save` wrote back into the model they came from.

    Raises:
        StageError: The folder holds the weights of another model.
    """
    adapted = isinstance(model, PeftModel)
    saved = load_file(folder / ("adapter_model.safetensors" if adapted else "model.safetensors"))
    own = model.state_dict()
    if adapted:
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
    strangers = [n for n, v in saved.items() if n not in own or own[n].shape != v.shape]
    # A tied output layer is not in the file.
    tied = set() if adapted else set(plain(model).all_tied_weights_keys)
    if strangers or own.keys() - saved.keys() - tied:
        raise StageError(
            f"{folder}: was made by another training (its parameters have other names or shapes)",
            remedy="delete the folder and train again",
        )
    if adapted:
        set_peft_model_state_dict(model, saved)
    else:
        model.load_state_dict(saved, strict=False)


def _tokenizer_class(folder: Path) -> type:
    """Return AutoTokenizer, or the class that follows tokenizer.json where Auto would not.

    For some architectures (qwen2 among them) transformers 5 distrusts the class a folder names
    and puts its own splitting rules in place of tokenizer.json's, without a word.
    """
    config = folder / "tokenizer_config.json"
    if not config.is_file() or not (folder / "tokenizer.json").is_file():
        return AutoTokenizer
    named = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
    generic = ("TokenizersBackend", "PreTrainedTokenizerFast")
    return PreTrainedTokenizerFast if named in generic else AutoTokenizer


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such model folder", remedy="check the path")


def _require_loaded(model: PeftModel, expected: dict[str, torch.Tensor], adapter: Path) -> None:
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            problem = "is not in the file" if name in found else "is not a weight of the model"
        elif expected[name].shape != found[name].shape:
            problem = f"is {tuple(expected[name].shape)}, not {tuple(found[name].shape)}"
        elif not torch.equal(expected[name].to(found[name]), found[name]):
            problem = "differs between file and model"
        else:
            continue
        raise InputError(
            f"{adapter}: did not load, {name} {problem}",
            why="the base model would be used in the adapter's name",
            remedy="load it on the base model it was trained on",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, and warnings whose causes are checked here and raised as errors."""
    bars = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            progress.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
