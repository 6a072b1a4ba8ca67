"""Rows of unlike length through a model's body, one behind the other, without padding.

Linear layers, norms and element-wise products treat every token alike; attention alone must know
where a row ends. Where a model's attention is plain and causal it is taken a row at a time, so that
no position is computed for nothing. Every other model reads rows padded to one length.

Shapes: B rows, L positions of the longest, T tokens of all rows, N scored tokens, H hidden width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kdstudy.models import memory, parts

ATTENTION = "kdstudy_rows"
"""Name of the attention that `enable` gives a model: torch's own, told where rows end."""

# Lengths of a trial's rows: alike and unlike, and a single token.
_TRIAL = (9, 1, 26, 9, 14)
# What configurations call a reach of attention that is shorter than the text, and a choice of keys:
# neither shows in a trial of short rows.
_REACH = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")
_CHOICE = ("index_topk", "index_topk_blocks")


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Where rows end, for a model's attention.

    Attributes:
        lengths: Tokens of each row.
        padded_T: Each token's place among rows padded to one length.
        layers: Layers whose attention has been asked.
    """

    lengths: tuple[int, ...]
    padded_T: Tensor
    layers: set[int] = dataclasses.field(default_factory=set)


def enable(model: parts.Model) -> bool:
    """Have `scored_hidden` run a model without padding, if a trial shows that it is right.

    From then on the model's attention is `ATTENTION`, which for anybody else is torch's. Nothing
    of that is saved with the model.

    Args:
        model: Plain or PEFT causal LM.

    Returns:
        Whether it does.
    """
    base, training = parts.plain(model), model.training
    if not _may_pack(base):
        return enabled(model)
    model.eval()
    try:
        if not _packs(base):
            base.set_attn_implementation("sdpa")
    finally:
        model.train(training)
    return enabled(model)


def enabled(model: parts.Model) -> bool:
    """Whether `scored_hidden` runs the model without padding."""
    return parts.plain(model).config._attn_implementation == ATTENTION


def positions(model: parts.Model, lengths: Sequence[int]) -> int:
    """Return how many positions a body computes for rows, padding included."""
    return sum(lengths) if enabled(model) else len(lengths) * max(lengths)


def scored_hidden(
    model: parts.Model, ids_T: Tensor, lengths: Sequence[int], places_N: Tensor
) -> Tensor:
    """Return the final hidden states at the scored places, [N, H].

    Args:
        model: Plain or PEFT causal LM.
        ids_T: Token ids of all rows, one row behind the other.
        lengths: Tokens of each row.
        places_N: Place in `ids_T` whose output predicts each scored token.
    """
    base = parts.plain(model)
    if enabled(base):
        return _together(base, ids_T, lengths)[places_N]
    padded_T = _padded(lengths, ids_T.device)
    ids_BL = ids_T.new_zeros(len(lengths), max(lengths))
    ids_BL.view(-1)[padded_T] = ids_T
    # No mask: attention is causal, and padding stands behind every real token.
    return _hidden(base, input_ids=ids_BL).flatten(0, 1)[padded_T[places_N]]


def _together(
    base: PreTrainedModel, ids_T: Tensor, lengths: Sequence[int], rows: _Rows | None = None
) -> Tensor:
    """Return the final hidden states of all tokens, [T, H]."""
    rows = rows or _Rows(tuple(lengths), _padded(lengths, ids_T.device))
    positions_T = torch.cat([torch.arange(n) for n in lengths]).to(ids_T.device)
    return _hidden(
        base,
        input_ids=ids_T[None],
        position_ids=positions_T[None],
        # transformers passes a mask of four dimensions on as it is, and makes none. Whatever
        # attends without knowing of rows fails on this one, and does not look over their borders.
        attention_mask=torch.zeros(1, 1, 0, 0, dtype=torch.bool, device=ids_T.device),
        kdstudy_rows=rows,
    )[0]


def _hidden(base: PreTrainedModel, **inputs: Any) -> Tensor:
    return parts.body(base)(use_cache=False, **inputs).last_hidden_state


def _padded(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return each token's place among rows padded to one length, [T]."""
    longest = max(lengths)
    return torch.cat([torch.arange(n) + b * longest for b, n in enumerate(lengths)]).to(device)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kdstudy_rows: _Rows | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' sdpa does; within rows where there are some."""
    if kdstudy_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    kdstudy_rows.layers.add(id(module))
    states = (query, key, value)
    attend = _row_by_row if query.device.type == "cpu" else _side_by_side
    return attend(module, states, kdstudy_rows, settings), None


def _row_by_row(
    module: nn.Module, states: Sequence[Tensor], rows: _Rows, settings: dict[str, Any]
) -> Tensor:
    """Attend within one row after another: on a CPU a call costs less than padding does."""
    each = zip(*(x.split(rows.lengths, 2) for x in states), strict=True)
    return torch.cat([sdpa_attention_forward(module, *row, None, **settings)[0] for row in each], 1)


def _side_by_side(
    module: nn.Module, states: Sequence[Tensor], rows: _Rows, settings: dict[str, Any]
) -> Tensor:
    """Attend within rows padded to one length: on a GPU three copies cost less than many calls."""
    wide = [_spread(x, rows) for x in states]
    found = sdpa_attention_forward(module, *wide, None, **settings)[0]
    return found.flatten(0, 1)[rows.padded_T][None]


def _spread(states: Tensor, rows: _Rows) -> Tensor:
    """Return states of packed tokens, [1, heads, T, width], as [B, heads, L, width]."""
    longest, (_, heads, _, width) = max(rows.lengths), states.shape
    flat = states.new_zeros(len(rows.lengths) * longest, heads, width)
    flat = flat.index_copy(0, rows.padded_T, states[0].transpose(0, 1))
    return flat.view(-1, longest, heads, width).transpose(1, 2)


def _may_pack(base: PreTrainedModel) -> bool:
    """Whether nothing but plain attention, as far as one can see, mixes a model's tokens."""
    config = base.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    shorter = [*_CHOICE, *(() if kinds else _REACH)]
    return (
        base.config._attn_implementation == "sdpa"
        and base._can_set_attn_implementation()
        and all(kind == "full_attention" for kind in kinds or ())
        and not any(getattr(config, name, None) for name in shorter)
        and not any(isinstance(module, nn.Conv1d) for module in base.modules())
    )


@torch.no_grad()
def _packs(base: PreTrainedModel) -> bool:
    """Try rows together and apart; the model is left with `ATTENTION`."""
    entries = base.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    ids_T = torch.randint(entries, (sum(_TRIAL),), generator=generator).to(base.device)
    rows = _Rows(_TRIAL, _padded(_TRIAL, ids_T.device))
    try:
        apart = torch.cat([_hidden(base, input_ids=row[None])[0] for row in ids_T.split(_TRIAL)])
        base.set_attn_implementation(ATTENTION)
        together = _together(base, ids_T, _TRIAL, rows)
    except Exception as e:
        if memory.ran_out(e):
            raise
        return False  # this model takes no rows, or no positions
    # A layer that does not ask may mix tokens in a way of its own.
    asked = len(rows.layers) == base.config.get_text_config(decoder=True).num_hidden_layers
    return asked and parts.alike(apart, together)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
