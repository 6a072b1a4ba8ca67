"""A causal LM as body and head, so that only scored positions ever meet the vocabulary.

Shapes: B rows, L positions, N scored tokens, H hidden width, V vocabulary entries.
"""

import dataclasses
import re

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from kdstudy.errors import InputError
from kdstudy.models import checkpoint
from kdstudy.models.checkpoint import Room

Model = PreTrainedModel | PeftModel

# What transformers' models call a learned table of positions.
_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """What turns a final hidden state h into logits: cap(scale * (weight @ h + bias)).

    Attributes:
        weight: [V, H].
        bias: [V], or None.
        scale: Factor on the logits (Cohere, Granite, Falcon-H1); 1 elsewhere.
        softcap: Logits become softcap * tanh(logits / softcap) (Gemma 2, RecurrentGemma); None for
            none.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def narrowed(self, width: int) -> "Head":
        """Return the head of the first `width` vocabulary entries; nothing is copied."""
        bias = None if self.bias is None else self.bias[:width]
        return dataclasses.replace(self, weight=self.weight[:width], bias=bias)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Return the logits of all entries at once, [N, V], in the weight's type."""
        logits_NV = nn.functional.linear(hidden_NH.to(self.weight.dtype), self.weight, self.bias)
        logits_NV = logits_NV * self.scale
        if self.softcap is None:
            return logits_NV
        return self.softcap * torch.tanh(logits_NV / self.softcap)


def plain(model: Model) -> PreTrainedModel:
    """Return the transformers model; adapter layers stay in it and stay active."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def count(model: Model) -> int:
    """Return the number of a model's parameters, its adapter left out."""
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


def head(model: Model, *, adapted: bool = True) -> Head:
    """Return the model's head.

    Args:
        model: Plain or PEFT causal LM.
        adapted: As an adapter trains it; False: as it was before.

    Raises:
        InputError: It is no linear layer, or carries an adapter.
    """
    base = plain(model)
    layer = base.get_output_embeddings()
    if isinstance(layer, ModulesToSaveWrapper):
        own = layer.modules_to_save[layer.active_adapters[0]]
        layer = own if adapted else layer.original_module
    if not isinstance(layer, nn.Linear) or isinstance(layer, BaseTunerLayer):
        raise InputError(
            f"{name(base)}: its output layer is {type(layer).__name__}",
            why="the loss is computed in chunks from a plain weight matrix",
            remedy="put no adapter on the output layer; to train it whole, name it in PEFT's "
            "modules_to_save",
        )
    scale, softcap = after_head(base.config.get_text_config(decoder=True))
    return Head(weight=layer.weight, bias=layer.bias, scale=scale, softcap=softcap)


def after_head(config: PreTrainedConfig) -> tuple[float, float | None]:
    """Return what a model's configuration says happens to its logits: scale and soft cap."""
    scale = 1.0
    for factor in ("logit_scale", "lm_head_multiplier"):
        scale *= getattr(config, factor, None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return scale, next((cap for cap in caps if cap is not None), None)


def body(model: PreTrainedModel) -> nn.Module:
    """Return what turns token ids into final hidden states."""
    none = (None, model, model.get_output_embeddings())
    # Some families call their output layer a decoder, or the whole (Llama 4).
    known = (model.get_decoder(), model.base_model, getattr(model, "model", None))
    return next((module for module in known if module not in none), model)


@torch.no_grad()
def trial_logits(model: Model) -> Tensor:
    """Return the logits of one short row of tokens from all over the vocabulary, [L, V]."""
    base, training = plain(model), model.training
    last = base.get_input_embeddings().weight.shape[0] - 1
    ids_L = torch.linspace(0, last, min(8, last + 1), dtype=torch.float64).long()
    model.eval()
    logits_LV = model(input_ids=ids_L.to(base.device)[None], use_cache=False).logits[0]
    model.train(training)
    return logits_LV


def require_known_head(model: Model) -> None:
    """Refuse a model whose logits are not its `Head` applied to its last hidden state.

    Raises:
        InputError: A trial run differs or gives no finite numbers, or a later token changes an
            earlier one's logits.
    """
    base = plain(model)
    training = model.training
    model.eval()
    with torch.no_grad():
        require_causal(base)
        ids_BL = _trial(base)[:, :4]
        whole_NV = logits(base, ids_BL)[0]
        try:
            hidden_NH = body(base)(input_ids=ids_BL, use_cache=False).last_hidden_state[0]
        except (AttributeError, TypeError, ValueError) as e:
            raise InputError(
                f"{name(base)}: its hidden states cannot be asked for apart from its logits "
                f"({type(e).__name__}: {e})",
                why="the loss is computed from them in chunks",
                remedy="choose a decoder-only model whose body gives last_hidden_state",
            ) from e
        split_NV = head(model).logits(hidden_NH)
    model.train(training)
    require_finite(base, whole_NV)
    if not alike(whole_NV, split_NV):
        gap = (whole_NV.float() - split_NV.float()).abs().max()
        raise InputError(
            f"{name(base)}: its logits differ from its output layer's by up to {gap:.3g}",
            why="the model changes them after its output layer in a way that its configuration "
            "does not say, and the loss would miss that",
            remedy="choose a model whose logits come from its output layer, scaled or soft-capped "
            "at most",
        )


def require_finite(model: Model, logits: Tensor) -> None:
    """Refuse a model that gave these logits, if any of them is NaN or infinite.

    Raises:
        InputError: One is.
    """
    if not logits.isfinite().all():
        raise InputError(
            f"{name(model)}: its logits are not finite numbers",
            why="a weight of it is broken, or too large for its type",
            remedy="download or save the model again",
        )


def logits(model: PreTrainedModel, ids_BL: Tensor) -> Tensor:
    """Return the logits of rows without padding, [B, L, V], without a cache."""
    return model(input_ids=ids_BL, use_cache=False).logits


def require_causal(model: PreTrainedModel) -> None:
    """Refuse a model, in eval mode, in which a token changes the logits before it.

    Raises:
        InputError: A trial run shows it.
    """
    ids_BL = _trial(model)
    other_BL = ids_BL.clone()
    entries = model.config.get_text_config(decoder=True).vocab_size
    other_BL[0, -2:] = (other_BL[0, -2:] + 1) % entries
    one, other = (logits(model, ids)[0, :-2] for ids in (ids_BL, other_BL))
    # A broken weight is another fault than a look ahead.
    if one.isfinite().all() and not alike(one, other):
        raise InputError(
            f"{name(model)}: a later token changes an earlier one's logits",
            why="it attends in both directions, so that it is told what it is to predict",
            remedy="choose a causal language model, or its causal configuration",
        )


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether logits differ by no more than rounding in their type explains."""
    tolerance = 1e-4 if a.dtype == torch.float32 else 5e-2
    gap = (a.float() - b.float()).abs().max()
    return bool(gap <= tolerance * (1 + a.float().abs().max()))


def require_room(model: Model, longest: int, highest: int) -> None:
    """Refuse texts that a model has no positions or no embeddings for.

    Args:
        model: Plain or PEFT causal LM.
        longest: Tokens of the longest text, those that are still to be written included.
        highest: The highest token id that occurs.

    Raises:
        InputError: The text is longer than a learned table of positions, or an id is none of the
            model's.
    """
    base = plain(model)
    entries = base.get_input_embeddings().weight.shape[0]
    if highest >= entries:
        raise InputError(
            f"{name(base)}: token {highest} is none of the model's {entries}",
            why="its tokenizer has more tokens than the model has embeddings",
            remedy="give the tokenizer that the model was made with, or "
            "model.resize_token_embeddings(len(tokenizer))",
        )
    checkpoint.require_room(room(base), longest, name(base))


def room(model: PreTrainedModel) -> Room:
    """Return how long a text a model can read: by its table of positions, else as it names it."""
    tables = [
        module.num_embeddings - getattr(module, "offset", 0)
        for place, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and place.rsplit(".", 1)[-1] in _TABLES
        # A picture's positions are none of the text's.
        and not re.search("vision|visual|image|audio", place)
    ]
    named = checkpoint.room(model.config.get_text_config(decoder=True).to_dict())
    return Room(most=min(tables), fixed=True) if tables else named


def _trial(model: PreTrainedModel) -> Tensor:
    """Return a few ids of the model's vocabulary, [1, L]."""
    entries = model.config.get_text_config(decoder=True).vocab_size
    return torch.arange(12, device=model.device)[None] % entries


def name(model: PreTrainedModel) -> str:
    """Return what messages call a model that was opened: its architecture."""
    return getattr(model.config, "model_type", type(model).__name__)
