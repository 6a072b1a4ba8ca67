"""The forward passes of decoding: prompts read without waste, then one token a row and step.

`selfcheck.decoding` says which of the ways here is right for a model.

Shapes: B prompts, A prompts still being written, L padded length so far, V vocabulary entries.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kdstudy.models import packing, parts
from kdstudy.models.memory import room

How = Literal["shared", "padded", "kept", "alone"]
HOWS: tuple[How, ...] = ("shared", "padded", "kept", "alone")
"""Ways of decoding a batch, the fastest first.

`shared`: what all prompts begin with is read once, and finished rows are dropped. `padded`: padding
on the left. `kept`: so, and finished rows stay in the batch. `alone`: every row by itself, and
recomputed at every step, without a cache."""

# Prompt tokens read in one forward pass: enough to keep a machine busy, and few enough that rows
# of unlike length are not padded to one width. A GPU wants more of them.
_TOGETHER, _TOGETHER_CUDA = 1 << 10, 1 << 14
# Tokens that all prompts must begin with before these are read once and not row by row.
_WORTH_SHARING = 4


class BatchDecoder(Protocol):
    """The model's forward passes over a batch that shrinks.

    Attributes:
        logits_AV: Logits of each active row's next token.
    """

    logits_AV: Tensor

    def advance(self, next_A: Tensor, going: list[int]) -> None:
        """Append `next_A`, keep the rows `going`, in that order, and forget the others."""


def opened(
    model: parts.PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int, how: How
) -> BatchDecoder:
    """Read the prompts and return what decodes them.

    Args:
        model: A plain causal LM in eval mode.
        prompts: Token ids, each at least one.
        pad_id: Any id of the vocabulary.
        how: From `selfcheck.decoding`.
    """
    if how == "alone":
        return _Alone(model, prompts)
    cached = _Cached(model, prompts, pad_id, share=how == "shared")
    return _Kept(cached, pad_id) if how == "kept" else cached


class _Alone:
    """Every row by itself, from its start at every step: slow, and right for any causal model."""

    def __init__(self, model: parts.PreTrainedModel, prompts: Sequence[Sequence[int]]):
        self._model, self._texts = model, [list(prompt) for prompt in prompts]
        self._read()

    def advance(self, next_A: Tensor, going: list[int]) -> None:
        tokens = next_A.tolist()
        self._texts = [[*self._texts[a], tokens[a]] for a in going]
        self._read()

    def _read(self) -> None:
        rows = (torch.tensor([text], device=self._model.device) for text in self._texts)
        self.logits_AV = torch.cat([parts.logits(self._model, ids)[:, -1] for ids in rows])


class _Kept:
    """Rows that ended stay in the batch, for caches that cannot drop them."""

    def __init__(self, steps: "_Cached", pad_id: int):
        self._steps, self._pad_id = steps, pad_id
        self.logits_AV = steps.logits_AV
        self._at_A = torch.arange(len(steps.logits_AV), device=steps.logits_AV.device)

    def advance(self, next_A: Tensor, going: list[int]) -> None:
        whole = len(self._steps.logits_AV)
        tokens_B = torch.full((whole,), self._pad_id, dtype=next_A.dtype, device=next_A.device)
        tokens_B[self._at_A] = next_A
        self._at_A = self._at_A[torch.tensor(going, device=next_A.device)]
        self._steps.advance(tokens_B, list(range(whole)))
        self.logits_AV = self._steps.logits_AV[self._at_A]


class _Cached:
    """A batch with a key-value cache.

    Columns of the cache: the tokens that all prompts begin with, padding, the rest of a prompt, new
    tokens. So every row's next token stands in the same column.
    """

    def __init__(
        self,
        model: parts.PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        pad_id: int,
        *,
        share: bool,
    ):
        self._model, self._pad_id = model, pad_id
        self._cache = DynamicCache(config=model.config)
        # Layers of other kinds (a sliding window, a recurrent state) are left to the library.
        self._roomy = share and all(type(layer) is DynamicLayer for layer in self._cache.layers)
        sdpa = model.config._attn_implementation in ("sdpa", packing.ATTENTION)
        sdpa_on_cpu = model.device.type == "cpu" and sdpa
        self._grouped = self._roomy and sdpa_on_cpu
        shared = _shared(prompts) if self._roomy else 0
        self._length = max(map(len, prompts))
        pads_A1 = torch.tensor([[self._length - len(p)] for p in prompts], device=model.device)
        self._pads_A1, self._padded = pads_A1, bool(pads_A1.any())
        columns_L = torch.arange(self._length, device=model.device)
        self._mask_AL = (columns_L < shared) | (columns_L >= shared + pads_A1)
        if self._roomy:
            self._read(prompts, shared)
        else:
            self.logits_AV = self._read_group(prompts, 0, self._cache)

    def advance(self, next_A: Tensor, going: list[int]) -> None:
        if len(going) < len(next_A):
            keep = torch.tensor(going, device=next_A.device)
            next_A, self._pads_A1 = next_A[keep], self._pads_A1[keep]
            self._mask_AL = self._mask_AL[keep]
            self._keep(keep, going)
        self._mask_AL = pad(self._mask_AL, (0, 1), value=True)
        mask = None
        if self._grouped:
            # A mask of four dimensions makes transformers lay the query heads that share a key
            # along the query axis; without one, torch's CPU kernel takes seven times as long.
            mask = self._mask_AL[:, None, None]
        elif self._padded:
            mask = self._mask_AL.long()
        self.logits_AV = self._forward(
            next_A[:, None], self._length - self._pads_A1, mask, self._cache
        )
        self._length += 1

    def _read(self, prompts: Sequence[Sequence[int]], shared: int) -> None:
        """Read the prompts: what all begin with once, the rest a group of rows at a time."""
        prefix = DynamicCache(config=self._model.config)
        if shared:
            self._read_group([prompts[0][:shared]], 0, prefix)
        self._cache.layers = [_RoomyLayer() for _ in self._cache.layers]
        logits = []
        together = _TOGETHER_CUDA if self._model.device.type == "cuda" else _TOGETHER
        for rows in _groups(prompts, shared, together):
            cache = _repeated(prefix, rows.stop - rows.start)
            logits.append(self._read_group(prompts[rows], shared, cache))
            self._store(cache, rows, shared, len(prompts))
        self.logits_AV = torch.cat(logits)

    def _store(self, cache: DynamicCache, rows: slice, shared: int, total: int) -> None:
        """Copy the states of a group of rows to where they belong."""
        width = cache.get_seq_length() - shared
        for layer, part in zip(self._cache.layers, cache.layers, strict=True):
            if not part.is_initialized:
                continue  # it reads another layer's states
            if not layer.is_initialized:
                layer.open(part, total, self._length)
            for columns, source in (
                (slice(0, shared), slice(0, shared)),
                (slice(self._length - width, self._length), slice(shared, None)),
            ):
                layer.put(rows, columns, part.keys[:, :, source], part.values[:, :, source])

    def _read_group(
        self, prompts: Sequence[Sequence[int]], shared: int, cache: DynamicCache
    ) -> Tensor:
        """Read what follows the `shared` tokens that `cache` holds, and return logits, [A, V]."""
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        rest = zip(pads, prompts, strict=True)
        ids = [[self._pad_id] * pad + list(prompt[shared:]) for pad, prompt in rest]
        pads_A1 = torch.tensor(pads, device=self._model.device)[:, None]
        columns_L = torch.arange(longest, device=self._model.device)
        mask_AL = (columns_L < shared) | (columns_L >= shared + pads_A1)
        return self._forward(
            torch.tensor(ids, device=self._model.device),
            (columns_L[shared:] - pads_A1).clamp_min(0),
            mask_AL.long() if any(pads) else None,
            cache,
        )

    def _keep(self, keep: Tensor, going: list[int]) -> None:
        if not self._roomy:
            self._cache.batch_select_indices(keep)
            return
        to = torch.tensor(
            [a for a, row in enumerate(going) if a != row], dtype=torch.long, device=keep.device
        )
        source = keep[to]
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keep(len(going), to, source)

    def _forward(
        self, ids_AL: Tensor, positions_AL: Tensor, mask: Tensor | None, cache: DynamicCache
    ) -> Tensor:
        return self._model(
            input_ids=ids_AL,
            attention_mask=mask,
            position_ids=positions_AL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=_last(ids_AL),
        ).logits[:, -1]


class _RoomyLayer(DynamicLayer):
    """One layer's keys and values with room to grow; the base class copies them all at each step.

    `keys` and `values`, [A, heads, L, head width], are views of memory that is larger in L.
    """

    def open(self, like: DynamicLayer, rows: int, length: int) -> None:
        """Make room for `length` positions of `rows` rows, all zero, with `like`'s types."""
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        self._rooms = tuple(
            # Zero and not any number: what is masked is multiplied by 0, and NaN would survive.
            states.new_zeros(rows, states.shape[1], room(length), states.shape[3])
            for states in (like.keys, like.values)
        )
        self.keys, self.values = (memory[:, :, :length] for memory in self._rooms)

    def put(self, rows: slice, columns: slice, keys: Tensor, values: Tensor) -> None:
        """Write the states of some positions of some rows."""
        self.keys[rows, :, columns], self.values[rows, :, columns] = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the states of one position and return those of all positions."""
        before = self.get_seq_length()
        length = before + key_states.shape[2]
        if length > self._rooms[0].shape[2]:
            self._rooms = _room(self.keys, length), _room(self.values, length)
        rows = len(key_states)
        for memory, states in zip(self._rooms, (key_states, value_states), strict=True):
            memory[:rows, :, before:length] = states
        self.keys, self.values = (memory[:rows, :, :length] for memory in self._rooms)
        return self.keys, self.values

    def keep(self, rows: int, to: Tensor, source: Tensor) -> None:
        """Keep the first `rows` rows once rows `source` have been written over rows `to`."""
        if len(to):
            for states in (self.keys, self.values):
                states[to] = states[source]
        self.keys, self.values = self.keys[:rows], self.values[:rows]


def _room(states: Tensor, length: int) -> Tensor:
    """Return memory for more than `length` positions that begins with `states`."""
    rows, heads, held, width = states.shape
    roomy = states.new_empty(rows, heads, room(length), width)
    roomy[:, :, :held] = states
    return roomy


def _last(ids_AL: Tensor) -> int | Tensor:
    """Return what has a model compute the logits of the last position alone.

    A slice of the hidden states is not contiguous, and torch then multiplies each row with a copy
    of a frozen head's weights; an index gathers the states and leaves one product.
    """
    last = ids_AL.shape[1] - 1
    return torch.tensor([last], device=ids_AL.device) if last else 1


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with; each keeps at least one of its own."""
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    same = next((i for i in range(most) if first[i] != last[i]), most)
    return same if len(prompts) > 1 and same >= _WORTH_SHARING else 0


def _groups(prompts: Sequence[Sequence[int]], shared: int, tokens: int) -> Iterator[slice]:
    """Yield runs of neighbours that hold `tokens` tokens at most, or one row, without padding."""
    start = 0
    while start < len(prompts):
        stop, widest = start + 1, len(prompts[start]) - shared
        while stop < len(prompts):
            widest = max(widest, len(prompts[stop]) - shared)
            if widest * (stop + 1 - start) > tokens:
                break
            stop += 1
        yield slice(start, stop)
        start = stop


def _repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """Return a cache of its own for `rows` rows that begin alike."""
    held = [
        (layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        if layer.is_initialized
        else (None, None)
        for layer in cache.layers
    ]
    return DynamicCache(held)
