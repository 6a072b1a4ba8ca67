"""A model cut in depth: some of its layers in their order, and a configuration that says so."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdstudy.errors import InputError
from kdstudy.models import layers as depths
from kdstudy.models.parts import name, trial_logits

KEPT = "kept_layers"
"""Field of a cut model's configuration: the numbers that its layers had in the whole model."""

# What a layer calls its own number.
_NUMBERS = ("layer_idx", "layer_id", "layer_number")
# Lists of the configuration that are not one entry a layer, however long they are.
_OTHER = ("token_id", "token_ids", "architectures", "bad_words_ids")
# Lists of numbers of layers; and how many layers from the first on are of another kind.
_CHOICES = ("mlp_only_layers", "moe_layers", "full_attn_idxs")
_FIRST = ("first_k_dense_replace", "max_window_layers")
# What a class raises that is built from a configuration it cannot use.
_UNBUILT = (ValueError, TypeError, IndexError, KeyError, AttributeError)
# Moves while a model runs, and is no setting.
_MOVES = ("training", "max_seq_len_cached")


def shorten(model: PreTrainedModel, wanted: int | Sequence[int]) -> list[int]:
    """Take layers out of a model and have its configuration say so; return those that are kept.

    Nothing is copied and nothing is computed: a model on the meta device will do.

    Args:
        model: A plain causal LM; changed in place.
        wanted: How many layers to keep, or which (`layers.chosen`).

    Raises:
        InputError: There are not so many, or one does not see where the model has its layers.
    """
    config = model.config.get_text_config(decoder=True)
    body, attribute, stack = _stack(model)
    kept = depths.chosen(wanted, len(stack), name(model))
    setattr(body, attribute, nn.ModuleList(stack[i] for i in kept))
    _say(config, kept, len(stack))
    return kept


def cut(model: PreTrainedModel, wanted: int | Sequence[int]) -> PreTrainedModel:
    """Return the model with some of its layers; as `shorten`, and tried.

    Raises:
        InputError: As `shorten`; or a layer computes with its own number; or a model that is built
            anew from the configuration would have other layers.
    """
    shorten(model, wanted)
    before_LV = _tried(model)
    for place, layer in enumerate(layers_of(model)):
        for module in layer.modules():
            for number in _NUMBERS:
                if isinstance(getattr(module, number, None), int):
                    setattr(module, number, place)
    after_LV = _tried(model)
    if before_LV is not None and not torch.equal(before_LV, after_LV):
        raise _refusal(model, "its layers compute with their own number, which a cut changes")
    if difference := rebuilt_otherwise(model):
        raise _refusal(model, f"its configuration cannot say which layers are left: {difference}")
    return model


def _tried(model: PreTrainedModel) -> Tensor | None:
    """Return logits of a short row; None where a layer's number is out of its place."""
    try:
        return trial_logits(model)
    except IndexError:
        return None


def _refusal(model: PreTrainedModel, why: str) -> InputError:
    return InputError(
        f"layers: {name(model)} cannot be cut",
        why=why,
        remedy="leave layers out, or cut a model of another architecture",
    )


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a plain causal LM.

    Raises:
        InputError: One does not see where it has them.
    """
    return _stack(model)[2]


def _stack(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    """Return the module that holds the list of layers, its name there, and the list."""
    config = model.config.get_text_config(decoder=True)
    body, of = model.get_decoder(), getattr(config, "num_hidden_layers", None)
    found = [
        (child_name, child)
        for child_name, child in body.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == of
    ]
    if len(found) != 1 or config is not model.config:
        raise _refusal(
            model,
            f"{'none' if not found else len(found)} of its body's parts is a list of {of} layers",
        )
    return body, *found[0]


def _say(config: PreTrainedConfig, kept: Sequence[int], of: int) -> None:
    """Have a configuration describe the layers that are kept, each entry in its layer's place."""
    for field, value in list(vars(config).items()):
        if field.startswith("_") or field.endswith(_OTHER):
            continue
        if isinstance(value, list | tuple) and len(value) == of:
            setattr(config, field, [value[i] for i in kept])
        elif field in _CHOICES and isinstance(value, list | tuple):
            setattr(config, field, [place for place, i in enumerate(kept) if i in value])
        elif field in _FIRST and isinstance(value, int):
            setattr(config, field, sum(i < value for i in kept))
    config.num_hidden_layers = len(kept)
    if not hasattr(config, KEPT):
        setattr(config, KEPT, list(kept))


def rebuilt_otherwise(model: PreTrainedModel) -> str:
    """Return in what layers differ that are built from the configuration as a file has it."""
    _, attribute, stack = _stack(model)
    try:
        config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(config)
        theirs = dict(getattr(twin.get_decoder(), attribute).named_modules())
    except (*_UNBUILT, StrictDataclassError) as e:
        return str(e).splitlines()[0] if str(e) else type(e).__name__
    ours = dict(stack.named_modules())
    for place in sorted(ours.keys() | theirs.keys()):
        if place not in ours or place not in theirs:
            return f"{place} is only in one of the two"
        if _settings(ours[place]) != _settings(theirs[place]):
            changed = _settings(ours[place]).items() ^ _settings(theirs[place]).items()
            return f"{place} has another {min(changed)[0]}"
    return ""


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module is and is set to: its class, its plain attributes, its shapes."""
    plain = {
        k: v
        for k, v in vars(module).items()
        if isinstance(v, int | float | str | None) and not k.startswith("_") and k not in _MOVES
    }
    shapes = {k: str(tuple(p.shape)) for k, p in module.named_parameters(recurse=False)}
    return {"class": type(module).__name__} | plain | shapes
