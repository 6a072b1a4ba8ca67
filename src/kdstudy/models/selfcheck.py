"""How a model may be decoded: tried out once on tokens of no meaning, against recomputation.

What transformers' models do with padding, positions and caches differs: some count columns where
others count positions, some take a cache under another name, some cannot drop rows from it. A text
that depends on its neighbours in the batch would be a wrong number without a word.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kdstudy.errors import InputError
from kdstudy.models import memory, parts
from kdstudy.models.decoding import HOWS, How, opened

# Windows up to here are looked beyond; a model that counts columns in a longer one shares nothing.
_LONGEST_WINDOW = 512
_SPREAD = 24  # tokens by which the rows' lengths differ, where no window asks for more
_SHARED = 5
_known: WeakKeyDictionary[parts.PreTrainedModel, How] = WeakKeyDictionary()


def decoding(model: parts.Model) -> How:
    """Return the fastest way of decoding that gives the model's own logits.

    Rows of unlike length are decoded together for a few steps, one of them ending early, and every
    row's logits are compared with those of the row by itself without a cache. Takes milliseconds
    for small models, and is done once for each.

    Raises:
        InputError: A later token changes an earlier one's logits, or they are no finite numbers.
    """
    base = parts.plain(model)
    if base not in _known:
        with torch.inference_mode():
            _known[base] = _tried(base)
    return _known[base]


def as_known(model: parts.Model, like: parts.Model) -> None:
    """Take a model to decode as another of the same architecture and shape does."""
    _known[parts.plain(model)] = decoding(like)


def _tried(model: parts.PreTrainedModel) -> How:
    prompts, told = _trial(model)
    try:
        parts.require_causal(model)
        wanted = _alone(model, prompts, told)
    except Exception as e:
        if isinstance(e, InputError) or memory.ran_out(e):
            raise
        raise InputError(
            f"{parts.name(model)}: cannot be run on token ids alone ({type(e).__name__}: {e})",
            remedy="choose a decoder-only language model",
        ) from e
    parts.require_finite(model, torch.cat(wanted))
    for how in HOWS[:-1]:
        try:
            found = _together(model, prompts, told, how)
        except Exception as e:
            if memory.ran_out(e):
                raise
            continue  # this model cannot be decoded so
        if all(parts.alike(f, w) for f, w in zip(found, wanted, strict=True)):
            return how
    return "alone"


def _trial(model: parts.PreTrainedModel) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts of unlike length that begin alike, and what follows each, one shorter."""
    config = model.config.get_text_config(decoder=True)
    windows = [getattr(config, name, None) for name in ("window_size", "sliding_window")]
    window = max((w for w in windows if isinstance(w, int) and w <= _LONGEST_WINDOW), default=0)
    spread = max(_SPREAD, window + 4)
    most = parts.room(model).most
    if most is not None:
        spread = max(1, min(spread, most - _SHARED - 6))
    generator = torch.Generator().manual_seed(0)
    first = [0, spread, spread // 3]
    ids = torch.randint(config.vocab_size, (len(first), _SHARED + 2 + spread), generator=generator)
    ids[:, :_SHARED] = ids[0, :_SHARED]
    prompts = [row[: _SHARED + 2 + more].tolist() for row, more in zip(ids, first, strict=True)]
    told = torch.randint(config.vocab_size, (len(first), 3), generator=generator).tolist()
    return prompts, [told[0], told[1], told[2][:1]]


def _alone(
    model: parts.PreTrainedModel, prompts: Sequence[list[int]], told: Sequence[list[int]]
) -> list[Tensor]:
    """Return each row's logits of the steps, [steps + 1, V], each by itself and from the start."""
    found = []
    for prompt, more in zip(prompts, told, strict=True):
        ids_1L = torch.tensor([prompt + more], device=model.device)
        found.append(parts.logits(model, ids_1L)[0, -len(more) - 1 :])
    return found


def _together(
    model: parts.PreTrainedModel, prompts: Sequence[list[int]], told: Sequence[list[int]], how: How
) -> list[Tensor]:
    steps = opened(model, prompts, 0, how)
    found: list[list[Tensor]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for t in range(max(map(len, told)) + 1):
        for row, logits_V in zip(rows, steps.logits_AV, strict=True):
            found[row].append(logits_V)
        going = [a for a, row in enumerate(rows) if t < len(told[row])]
        if not going:
            break
        next_A = [told[row][t] if t < len(told[row]) else 0 for row in rows]
        steps.advance(torch.tensor(next_A, device=model.device), going)
        rows = [rows[a] for a in going]
    return [torch.stack(logits) for logits in found]
