"""A model's head without its body, and the width that two heads share."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdstudy.artifacts import Trained
from kdstudy.errors import InputError
from kdstudy.models import load, parts, vocabulary
from kdstudy.models.fetch import fetch


def load_head(
    local: Mapping[str, Any], precision: str = "auto", trained: Trained | None = None
) -> parts.Head:
    """Return the head of the model that `load.open_model` would return, bit for bit.

    Only its own tensors are read. The whole model is loaded for a moment in one case: the head
    cannot be told from the files, as when a user's adapter changes it.

    Args:
        local: From `resolve.Resolved.local`.
        precision: `auto`, `float32` or `bfloat16`.
        trained: What a train stage left of it, or None.

    Raises:
        InputError: As `load.open_model` and `parts.head` do.
    """
    if trained is not None and trained.whole:
        folder, adapters = trained.model, []
    else:
        folder, adapters = fetch(local), [local["adapter"], trained and trained.adapter]
    head = _stored(folder, [Path(a) for a in adapters if a], local["trust_remote_code"])
    if head is None:
        head = parts.head(load.open_model(local, precision, trained))
    place = {"device": load.device(), "dtype": load.dtype(precision)}
    bias = None if head.bias is None else head.bias.detach().to(**place)
    return dataclasses.replace(head, weight=head.weight.detach().to(**place), bias=bias)


def common_width(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student: parts.Head,
    teacher: parts.Head,
) -> int:
    """Return how many vocabulary entries student and teacher share.

    The token -> id maps must be equal; the models may pad their output layers differently
    (Qwen2.5: 151,936 and 152,064). The wider one is sliced. Padding the narrower one would give
    phantom tokens probability.

    Raises:
        InputError: The tokenizers differ, or an output layer is narrower than the vocabulary.
    """
    ours = student_tokenizer.get_vocab()
    vocabulary.require_same(ours, teacher_tokenizer.get_vocab())
    widths = {"the student": len(student.weight), "the teacher": len(teacher.weight)}
    for name, width in widths.items():
        vocabulary.require_entries(name, max(ours.values()) + 1, width)
    return min(widths.values())


def own_width(tokenizer: PreTrainedTokenizerBase, head: parts.Head, name: str) -> int:
    """Return how many of a head's entries are for its own tokenizer's tokens.

    Args:
        tokenizer: The model's.
        head: Its head.
        name: What messages call the model.

    Raises:
        InputError: The head is narrower than the vocabulary.
    """
    width = max(tokenizer.get_vocab().values()) + 1
    vocabulary.require_entries(name, width, len(head.weight))
    return width


def _stored(folder: Path, adapters: list[Path], trust_remote_code: bool) -> parts.Head | None:
    """Return the head as the checkpoint holds it, or None where the files do not tell."""
    meta = load.meta_model(folder, trust_remote_code)
    head = parts.head(meta)
    files = _files(folder)
    found: dict[str, Tensor | None] = {"weight": None, "bias": None}
    for part in found:
        shape = getattr(head, part)
        if shape is None:
            continue
        names = _names(meta, shape)
        touched = any(_mentions(adapter, names) for adapter in adapters)
        name = next((n for n in names if n in files), None)
        if touched or name is None:
            return None
        found[part] = _read(files[name], name)
        if found[part].shape != shape.shape:
            return None
    return dataclasses.replace(head, **found)


def _names(model: PreTrainedModel, parameter: Tensor) -> list[str]:
    """Return what a checkpoint may call a parameter of the head, the likeliest first.

    A tied head is stored under the input embedding's name. Where both names are stored, the
    head's own holds: transformers does not tie weights that differ.
    """
    layer = model.get_output_embeddings()
    own = next(name for name, module in model.named_modules() if module is layer)
    aliases = [n for n, p in model.named_parameters(remove_duplicate=False) if p is parameter]
    aliases.sort(key=lambda name: not name.startswith(f"{own}."))
    # Checkpoints saved from the body alone leave its prefix out (GPT-2 on the Hub).
    return aliases + [n.removeprefix(f"{model.base_model_prefix}.") for n in aliases]


def _mentions(adapter: Path, names: list[str]) -> bool:
    """Whether an adapter holds weights for one of the named parameters' modules."""
    modules = {name.rsplit(".", 1)[0] for name in names}
    with _open(adapter / "adapter_model.safetensors") as f:
        stored = [key.removeprefix("base_model.model.") for key in f.keys()]  # noqa: SIM118
    return any(key.startswith(f"{module}.") for key in stored for module in modules)


def _files(folder: Path) -> dict[str, Path]:
    """Return the file that holds each tensor of a checkpoint; transformers looks alike."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        with _open(single) as f:
            return dict.fromkeys(f.keys(), single)
    if not index.is_file():
        return {}
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return {name: folder / file for name, file in names.items()}


def _read(file: Path, name: str) -> Tensor:
    with _open(file) as f:
        return f.get_tensor(name)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as e:
        raise InputError(
            f"{file}: cannot be read ({e})",
            remedy="download or save the model again: a file may be cut short",
        ) from e
