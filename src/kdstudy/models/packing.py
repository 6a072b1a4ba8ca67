"""Rows of unlike length through a model's body, one behind the other, without padding.

Linear layers, norms and element-wise products treat every token alike; attention alone must know
where a row ends. Where a model's attention is plain and causal it is taken a row at a time, so that
no position is computed for nothing. Every other model reads rows padded to one length.

Shapes: B rows, L positions of the longest, T tokens of all rows, N scored tokens, H hidden width.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kdstudy.errors import InputError
from kdstudy.models import memory, parts
from kdstudy.models.cut import layers_of

ATTENTION = "kdstudy_rows"
"""Name of the attention that `enable` gives a model: torch's own, told where rows end."""

# Lengths of a trial's rows: alike and unlike, and a single token.
_TRIAL = (9, 1, 26, 9, 14)
# What configurations call a reach of attention that is shorter than the text, and a choice of keys:
# neither shows in a trial of short rows.
_REACH = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")
_CHOICE = ("index_topk", "index_topk_blocks")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where rows end, for a model's attention.

    Attributes:
        lengths: Tokens of each row.
        padded_T: Each token's place among rows padded to one length.
        layers: Layers whose attention has been asked.
        seen: Of rows with branches, which tokens each token sees, [length, length]; empty else.
        stem: Length of the stem, which is the first row; 0 where there is none.
    """

    lengths: tuple[int, ...]
    padded_T: Tensor
    layers: set[int] = dataclasses.field(default_factory=set)
    seen: tuple[Tensor, ...] = ()
    stem: int = 0

    @functools.cached_property
    def seen_side_by_side(self) -> Tensor | None:
        """`seen` of rows padded to one length, [B, 1, L, L]; padding sees itself."""
        if not self.seen:
            return None
        longest = max(self.lengths)
        eye = torch.eye(longest, dtype=torch.bool, device=self.padded_T.device)
        wide = eye.repeat(len(self.lengths), 1, 1)
        for mask, seen, n in zip(wide, self.seen, self.lengths, strict=True):
            mask[:n, :n] = seen
        if self.stem:
            wide = torch.cat([wide.new_ones(*wide.shape[:2], self.stem), wide], -1)
            wide[0, :, : self.stem] = False  # its own keys stand in its row
        return wide[:, None]


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
        return packed_hidden(base, ids_T, lengths)[places_N]
    padded_T = padded(lengths, ids_T.device)
    ids_BL = ids_T.new_zeros(len(lengths), max(lengths))
    ids_BL.view(-1)[padded_T] = ids_T
    # No mask: attention is causal, and padding stands behind every real token.
    return _hidden(base, input_ids=ids_BL).flatten(0, 1)[padded_T[places_N]]


def scored_states(
    model: parts.Model,
    ids_T: Tensor,
    lengths: Sequence[int],
    places_N: Tensor,
    layers: Sequence[int],
) -> list[Tensor]:
    """Return the final hidden states at the scored places, and those that `layers` leave, [N, H].

    The last layer's states are the final ones: they have passed the norm before the head.

    Args:
        model: As for `scored_hidden`, which the others are too.
        ids_T: Token ids.
        lengths: Tokens of each row.
        places_N: Places.
        layers: Numbers of layers, from 0.

    Raises:
        InputError: The model does not show its layers; or a layer's states have no gradient while
            the final ones have.
    """
    base, left = parts.plain(model), {}
    blocks = layers_of(base) if layers else ()
    inner = {n for n in layers if n != len(blocks) - 1}

    def keep(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            left[number] = out[0] if isinstance(out, tuple) else out

        return hook

    handles = [blocks[number].register_forward_hook(keep(number)) for number in sorted(inner)]
    try:
        final_NH = scored_hidden(model, ids_T, lengths, places_N)
    finally:
        for handle in handles:
            handle.remove()
    at_N = places_N if enabled(base) else padded(lengths, ids_T.device)[places_N]
    for number, states in left.items():
        if final_NH.requires_grad and not states.requires_grad:
            raise InputError(
                f"the states of layer {number} have no gradient",
                why="nothing up to it is trained, so that comparing them would teach nothing",
                remedy="choose higher layers",
            )
        left[number] = states.flatten(0, -2)[at_N]
    return [final_NH, *(left.get(number, final_NH) for number in layers)]


def packed_hidden(
    base: PreTrainedModel,
    ids_T: Tensor,
    lengths: Sequence[int],
    rows: Rows | None = None,
    positions_T: Tensor | None = None,
) -> Tensor:
    """Return the final hidden states of all tokens, [T, H].

    Args:
        base: With `ATTENTION`.
        ids_T: Token ids of all rows, one row behind the other.
        lengths: Tokens of each row.
        rows: What is to be known of them; from their lengths where left out.
        positions_T: Each token's; they begin anew in each row where left out.
    """
    rows = rows or Rows(tuple(lengths), padded(lengths, ids_T.device))
    if positions_T is None:
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


def padded(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return each token's place among rows padded to one length, [T]."""
    longest = max(lengths)
    return torch.cat([torch.arange(n) + b * longest for b, n in enumerate(lengths)]).to(device)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    kdstudy_rows: Rows | None = None,
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
    module: nn.Module, states: Sequence[Tensor], rows: Rows, settings: dict[str, Any]
) -> Tensor:
    """Attend within one row after another: on a CPU a call costs less than padding does."""
    each = [*zip(*(x.split(rows.lengths, 2) for x in states), strict=True)]
    masks = [seen[None, None] for seen in rows.seen] or [None] * len(rows.lengths)
    if rows.stem:
        (_, *before), *others = each
        joined = [(q, *map(_behind, before, own)) for q, *own in others]
        each = [each[0], *joined]
        masks[1:] = [functional.pad(mask, (rows.stem, 0), value=True) for mask in masks[1:]]
    found = [
        sdpa_attention_forward(module, *row, mask, **settings)[0]
        for row, mask in zip(each, masks, strict=True)
    ]
    return torch.cat(found, 1)


def _behind(stem: Tensor, own: Tensor) -> Tensor:
    """Return keys, or values, of the stem and then a row's own."""
    return torch.cat([stem.expand(len(own), -1, -1, -1), own], 2)


def _side_by_side(
    module: nn.Module, states: Sequence[Tensor], rows: Rows, settings: dict[str, Any]
) -> Tensor:
    """Attend within rows padded to one length: on a GPU three copies cost less than many calls."""
    wide = [_spread(x, rows) for x in states]
    if rows.stem:
        wide[1:] = [_behind(x[:1, :, : rows.stem], x) for x in wide[1:]]
    found = sdpa_attention_forward(module, *wide, rows.seen_side_by_side, **settings)[0]
    return found.flatten(0, 1)[rows.padded_T][None]


def _spread(states: Tensor, rows: Rows) -> Tensor:
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
    rows = Rows(_TRIAL, padded(_TRIAL, ids_T.device))
    try:
        apart = torch.cat([_hidden(base, input_ids=row[None])[0] for row in ids_T.split(_TRIAL)])
        base.set_attn_implementation(ATTENTION)
        together = packed_hidden(base, ids_T, _TRIAL, rows)
    except Exception as e:
        if memory.ran_out(e):
            raise
        return False  # this model takes no rows, or no positions
    # A layer that does not ask may mix tokens in a way of its own.
    asked = len(rows.layers) == base.config.get_text_config(decoder=True).num_hidden_layers
    return asked and parts.alike(apart, together)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
