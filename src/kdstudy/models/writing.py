"""A model as it writes texts fastest: with its adapter merged, where the merge loses nothing.

An adapter in place costs every layer that has one three more products and as many additions at
every token. What is trained keeps its adapter: it is merged in a copy.
"""

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from weakref import WeakSet

import torch
from peft import PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudy.errors import InputError
from kdstudy.models import parts, selfcheck
from kdstudy.models.adapters import adapted_layers, merge
from kdstudy.models.parts import Model

# Below float32 a merged weight is rounded to the base's type, and a small update may be rounded
# away. What that does to the logits may be this share of what the adapter does to them, both as
# root mean squares over the trial's positions and entries.
SHARE = 0.1
_ROWS, _LENGTH = 2, 24

_told: WeakSet[PreTrainedModel] = WeakSet()


@contextlib.contextmanager
def writing(model: Model) -> Iterator[Model]:
    """Give what writes the model's texts, in eval mode, while open; the model stays as it is.

    A model without an adapter writes itself. Else a copy does that shares all weights but the
    adapted ones, which are merged anew each time; where it cannot be made or is not faithful, the
    model writes with its adapter in place, and that is logged once.
    """
    training = model.training
    model.eval()
    try:
        writer, why = (model, "") if not isinstance(model, PeftModel) else _merged_copy(model)
        if why and parts.plain(model) not in _told:
            _told.add(parts.plain(model))
            logging.getLogger(__name__).warning("the student writes unmerged for now: %s", why)
        yield writer
    finally:
        model.train(training)


def opened_to_write(opened: Callable[[], Model]) -> tuple[Model, str]:
    """Return a model that only writes, its adapter merged; or as it is, and why.

    Args:
        opened: Opens it in eval mode; called again where it cannot be merged faithfully, as a merge
            writes to the weights.
    """
    model = opened()
    if not isinstance(model, PeftModel):
        return model, ""
    merged, why = _merged(model)
    return (opened(), why) if why else (merged, "")


def _merged_copy(model: PeftModel) -> tuple[Model, str]:
    """Return a merged copy in eval mode, or the model itself and why."""
    trained = {p: p.requires_grad for p in model.parameters()}
    try:
        merged, why = _merged(_sharing(model))
    except InputError as e:
        why = e.what
    finally:
        # PEFT turns adapters off and on together with their gradients, and these are shared.
        for parameter, grad in trained.items():
            parameter.requires_grad_(grad)
    if why:
        return model, why
    selfcheck.as_known(merged, model)
    return merged, ""


def _sharing(model: PeftModel) -> PeftModel:
    """Return a copy with the model's own weights, but for those that a merge writes to.

    Raises:
        InputError: The adapter changes what this does not know how to copy.
    """
    if any(isinstance(module, TrainableTokensLayer) for module in model.modules()):
        raise InputError("single rows of its embedding are trained")
    if getattr(parts.plain(model), "is_quantized", False):
        raise InputError("its weights are quantised")
    written = {
        id(p) for layer in adapted_layers(model) for p in layer.get_base_layer().parameters()
    }
    memo = {
        id(p): nn.Parameter(p.detach().clone(), p.requires_grad) if id(p) in written else p
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _merged(model: PeftModel) -> tuple[PreTrainedModel, str]:
    """Merge an adapter in place; return the model and why it may not be used, or ''."""
    try:
        if model.dtype == torch.float32:
            return merge(model).eval(), ""  # which compares logits
        wanted = _logits(model)
        with model.disable_adapter():
            bare = _logits(model)
        merged = merge(model).eval()
    except InputError as e:
        return parts.plain(model), e.what
    lost, done = (_rms(logits - wanted) for logits in (_logits(merged), bare))
    if lost <= SHARE * done:
        return merged, ""
    return merged, (
        f"in {str(merged.dtype).removeprefix('torch.')} merged weights are rounded, which changes "
        f"the logits by {lost:.2g}, where the adapter changes them by {done:.2g}"
    )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@torch.no_grad()
def _logits(model: Model) -> Tensor:
    base = parts.plain(model)
    entries = base.get_input_embeddings().weight.shape[0]
    length = min(_LENGTH, parts.room(base).most or _LENGTH)
    generator = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(entries, (_ROWS, length), generator=generator)
    return parts.logits(base, ids_BL.to(base.device)).float()
