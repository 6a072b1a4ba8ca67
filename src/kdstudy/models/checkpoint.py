"""What kind of checkpoint a model's files are; kinds that cannot be used are refused in words.

Never imports torch for the families listed here: a plan that names others takes two seconds more.
"""

import dataclasses
import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kdstudy.errors import InputError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Families whose members are all decoders that transformers knows.
_COMMON = frozenset({
    *("bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2"),
    *("gpt_neo", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo"),
    *("olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
    *("stablelm", "starcoder2"),
})  # fmt: skip
_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
          "RewardModel", "ForMultipleChoice")  # fmt: skip
_OTHER_WEIGHTS = {
    ".gguf": "GGUF, the quantised format of llama.cpp",
    ".bin": "pickles of PyTorch (.bin)",
    ".pt": "pickles of PyTorch (.pt)",
    ".pth": "pickles of PyTorch (.pth)",
    ".ckpt": "pickles (.ckpt)",
    ".onnx": "ONNX",
    ".h5": "TensorFlow's (.h5)",
    ".msgpack": "Flax's (.msgpack)",
}
_SAVED = "give the folder that save_pretrained wrote, or the model's Hub id"
# Families with a table of positions, learnt or computed once: a text beyond it cannot be read.
_TABLED = frozenset({
    *("biogpt", "codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt", "openai-gpt"),
    "opt",
})  # fmt: skip
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_POINTER = b"version https://git-lfs"
_SETTINGS = "generation_config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How long a text a model can read, prompt and answer together.

    Attributes:
        most: Tokens; None where its configuration names no limit.
        fixed: No longer one can be read. Otherwise the model reads on, where it has learnt nothing.
    """

    most: int | None = None
    fixed: bool = False


NO_ROOM_NAMED = Room()
"""Of a model whose configuration names no limit, or is not here."""


def require_room(room: Room, longest: int, name: str) -> None:
    """Refuse a text that is longer than a table of positions, with an InputError."""
    if room.fixed and room.most is not None and longest > room.most:
        raise InputError(
            f"{name}: a text of {longest} tokens is longer than the model's {room.most} positions",
            why="prompt and answer together must fit; it has no others",
            remedy="lower max_length for training, max_new_tokens for answers, or choose a model "
            "for longer texts",
        )


def room(config: Mapping[str, Any]) -> Room:
    """Return the room that a configuration names.

    Args:
        config: config.json, or the configuration of transformers as a dictionary. Rotary positions
            that are scaled reach as far as the scaling says.
    """
    config = config.get("text_config") or config
    most = next((config[n] for n in _POSITIONS if isinstance(config.get(n), int)), None)
    if most is None or config.get("alibi"):
        return NO_ROOM_NAMED
    if config.get("model_type") in _TABLED:
        return Room(most=most, fixed=True)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # One for all layers, or one for each kind of layer.
    for rule in (scaling, *(v for v in scaling.values() if isinstance(v, dict))):
        base = rule.get("original_max_position_embeddings") or most
        most = max(most, int(base * (rule.get("factor") or 1)))
    return Room(most=most)


def entries(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a configuration says that the model has embeddings for, or None."""
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")


def require_folder(folder: Path) -> None:
    """Refuse a path that is no folder, with an InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such model folder", remedy="check the path")


def check_folder(folder: Path, *, trust_remote_code: bool) -> None:
    """Refuse a folder that is no causal LM in safetensors.

    Raises:
        InputError: It lacks a configuration or weights, or holds another kind of model.
    """
    # A folder or a pipe in the place of a file is not that file.
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    check_names(names, str(folder), str(folder))
    config = read_json(folder / "config.json")
    check_config(config, str(folder), trust_remote_code=trust_remote_code)
    _check_whole(folder, names)
    if _SETTINGS in names:
        _check_ends(read_json(folder / _SETTINGS).get("eos_token_id"), folder)


def check_adapter(folder: Path) -> None:
    """Refuse a folder that is no PEFT adapter, one of pickles, or one whose configuration is cut.

    Raises:
        InputError: What it is, why that cannot be used, what to do instead.
    """
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"adapter: {folder} holds no adapter_config.json", remedy="give a PEFT adapter's folder"
        )
    read_json(folder / "adapter_config.json")
    safe, pickled = (folder / f"adapter_model.{end}" for end in ("safetensors", "bin"))
    if pickled.is_file() and not safe.is_file():
        raise InputError(
            f"adapter: {folder} holds no {safe.name}, only {pickled.name}",
            why="other weight files are pickles, which can run code",
            remedy="save the adapter again with PEFT's save_pretrained",
        )


def check_names(names: Collection[str], what: str, source: str) -> None:
    """Refuse files that are no whole model.

    Args:
        names: Names of the files, folders of the repository before them.
        what: What the model is called in messages.
        source: What `from_pretrained` would be given.

    Raises:
        InputError: There is no configuration, or there are no safetensors weights.
    """
    if _WHOLE in names or _INDEX in names:
        if "config.json" in names:
            return
        raise InputError(f"{what}: holds no config.json", remedy=_SAVED)
    if "adapter_config.json" in names:
        raise InputError(
            f"{what}: is a PEFT adapter, not a model",
            why="an adapter is a change to a model, and there is no config.json and no whole model",
            remedy="give its base as `model` and this folder as `adapter`",
        )
    raise _no_weights(names, what, source)


def check_config(config: Mapping[str, Any], what: str, *, trust_remote_code: bool) -> None:
    """Refuse a configuration of a model that is quantised, unknown, or no causal LM.

    Args:
        config: `config.json`, or the part of it that the Hub tells; what is left out is not asked.
        what: What the model is called in messages.
        trust_remote_code: Its own Python code may run.

    Raises:
        InputError: What it is, why that cannot be used, what to do instead.
    """
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        method = method or ("bitsandbytes" if "load_in_4bit" in quantised else "")
        raise InputError(
            f"{what}: is quantised{f' ({method})' if method else ''}",
            why="distilling needs weights as numbers: packed integers are neither trained, nor "
            "merged with an adapter, nor is their output layer read",
            remedy="give the model it was made from, whose config.json has no quantization_config; "
            "to save memory set train.precision: bfloat16",
        )
    kind = config.get("model_type")
    own_code = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    _check_code(config, what, own_code, trust_remote_code)
    if own_code and trust_remote_code:
        return
    if not kind:
        raise InputError(f"{what}: config.json names no model_type", remedy=_SAVED)
    _check_heads(config, what)
    if kind not in _COMMON:
        _check_family(config, str(kind), what)


def _no_weights(names: Collection[str], what: str, source: str) -> InputError:
    """Return the refusal of files without weights that can be read, whatever else they are."""
    there = [end for end in _OTHER_WEIGHTS if any(name.endswith(end) for name in names)]
    if not there and "config.json" not in names:
        return InputError(f"{what}: holds no config.json", remedy=_SAVED)
    if not there:
        return InputError(
            f"{what}: holds no weights",
            why=f"there is no {_WHOLE} beside its config.json",
            remedy="copy the weights there, or give the model's Hub id",
        )
    found = f"{what}: holds no weights in safetensors, only {_said(there)}"
    if there == [".gguf"]:
        return InputError(
            found,
            why="such a file is a whole model of its own, and there may be several",
            remedy="name the file: model: ./FOLDER/FILE.gguf, or {model: HUB_ID, gguf: FILE}",
        )
    if "config.json" not in names:
        return InputError(
            found,
            why="that can be neither trained nor read as transformers' models are",
            remedy="give the model it was made from, as save_pretrained writes it",
        )
    convert = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"[x.from_pretrained({source!r}).save_pretrained('converted') for x in (M, T)]"
    )
    return InputError(
        found,
        why="pickles can run code, and other formats are not transformers'; neither is read",
        remedy=f"convert them, if you trust them: python -c {shlex.quote(convert)}",
    )


def _said(endings: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(_OTHER_WEIGHTS[end] for end in endings))


def _check_code(config: Mapping[str, Any], what: str, own_code: bool, trusted: bool) -> None:
    kind = config.get("model_type")
    if own_code and not trusted and not (kind in _COMMON or kind in _known()[0]):
        raise InputError(
            f"{what}: is a model of its own Python code ({kind or 'no model_type'})",
            why="transformers does not know it, and code that comes with a model can do whatever "
            "you can",
            remedy="read that code, then set trust_remote_code: true beside `model`",
        )


def _check_heads(config: Mapping[str, Any], what: str) -> None:
    made = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        raise _no_decoder(what, str(config.get("model_type")), "an encoder-decoder")
    if made and all(name.endswith(_HEADS) for name in made):
        raise _no_decoder(what, made[0], "a classifier, without a language-model head")


def _check_family(config: Mapping[str, Any], kind: str, what: str) -> None:
    known, causal, masked = _known()
    if kind not in known:
        from transformers import __version__ as version

        raise InputError(
            f"{what}: the model type {kind!r} is unknown to transformers {version}",
            why="it is newer than this transformers, or a private one",
            remedy="pip install --upgrade transformers; or, if it comes with Python code that you "
            "have read, set trust_remote_code: true beside `model`",
        )
    # A BERT loads as a decoder, and would read what it should predict.
    if kind in masked and not config.get("is_decoder"):
        raise _no_decoder(what, kind, "an encoder, which reads a text both ways")
    if kind not in causal:
        raise _no_decoder(what, kind, "another kind of model")


def _no_decoder(what: str, kind: str, found: str) -> InputError:
    return InputError(
        f"{what}: {kind} is not a causal language model",
        why=f"it is {found}; every method here predicts a token from those before it",
        remedy="choose a decoder-only model, such as one of the Qwen2 or Llama family",
    )


def _known() -> tuple[Collection[str], Collection[str], Collection[str]]:
    """Return the model types that transformers knows: all, causal LMs, and masked LMs."""
    from transformers.models.auto import configuration_auto, modeling_auto

    return (
        configuration_auto.CONFIG_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )


def _check_whole(folder: Path, names: Collection[str]) -> None:
    """Refuse shards that are missing, and pointers in the place of weights."""
    shards = {_WHOLE}
    if _WHOLE not in names:
        placed = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(n, str) for n in placed.values()):
            raise InputError(f"{folder}: {_INDEX} names no files of weights", remedy=_SAVED)
        shards = set(placed.values())
    missing = sorted(shards - set(names))
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of its {len(shards)} weight files are missing, the first is "
            f"{missing[0]}",
            remedy="download or copy the model again, complete",
        )
    for name in sorted(shards):
        with (folder / name).open("rb") as f:
            if f.read(len(_POINTER)) == _POINTER:
                raise InputError(
                    f"{folder}: {name} is a Git LFS pointer, not the weights",
                    why="the repository was cloned without its large files",
                    remedy=f"git -C {shlex.quote(str(folder))} lfs pull",
                )


def _check_ends(ends: Any, folder: Path) -> None:
    """Refuse end tokens that are no ids; transformers would go on without them, and never stop."""
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(token) is int for token in ids):
        raise InputError(
            f"{folder}: {_SETTINGS} names the end token {ends!r}, which is no id", remedy=_SAVED
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a model's folder.

    Raises:
        InputError: The file cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{path.parent}: {path.name} cannot be used (it is not JSON)", remedy=_SAVED
        ) from e
    if not isinstance(found, dict):
        raise InputError(
            f"{path.parent}: {path.name} cannot be used (it is no JSON object)", remedy=_SAVED
        )
    return found
