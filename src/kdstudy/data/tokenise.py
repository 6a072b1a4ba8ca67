"""Text -> ids: at the start of a row, and behind other text, whatever a tokenizer adds by itself.

Control tokens of a text that are marked as written out (`chat.pieces`) are read as text.
"""

import functools
from collections.abc import Sequence
from typing import Any

from kdstudy.data import chat


def ids_of(tokenizer: Any, text: str, *, begin: bool) -> tuple[int, ...]:
    """Return the ids of a marked text; with `begin`, after what its tokenizer puts before texts."""
    parts = list(chat.pieces(text))
    ids: tuple[int, ...] = ()
    if begin:
        first = parts.pop(0)[0] if parts and not parts[0][1] else ""
        ids = plain_ids(tokenizer, first)
    elif parts and not parts[0][1]:
        ids = tuple(tokenizer(parts.pop(0)[0], add_special_tokens=False)["input_ids"])
    for part, as_text in parts:
        ids += _one(tokenizer, part, as_text)
    return ids


def behind(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of a marked text that stands behind another."""
    parts = chat.pieces(text)
    return tuple(i for part, as_text in parts for i in _one(tokenizer, part, as_text))


def plain_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of a text and the tokens that its tokenizer puts before it, none behind it."""
    ids = tokenizer(text)["input_ids"]
    return tuple(ids[: len(ids) - _appended(tokenizer)])


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many ids two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))  # fmt: skip


def _one(tokenizer: Any, text: str, as_text: bool) -> tuple[int, ...]:
    options = {"add_special_tokens": False} | ({"split_special_tokens": True} if as_text else {})
    if _puts_space(tokenizer):
        # Behind a line break a tokenizer of SentencePiece's kind puts no space of its own.
        lead = tokenizer("\n", **options)["input_ids"]
        ids = tokenizer(f"\n{text}", **options)["input_ids"]
        if ids[: len(lead)] == lead:
            return tuple(ids[len(lead) :])
    return tuple(tokenizer(text, **options)["input_ids"])


@functools.lru_cache(maxsize=16)
def _puts_space(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a space before every text, in the middle of a row too."""
    a, b, ab = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a", "b", "ab"))
    return tokenizer.decode([*a, *b]) != tokenizer.decode(ab)


def _appended(tokenizer: Any) -> int:
    """Return how many tokens a tokenizer puts behind every text (`add_eos_token`)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    starts = range(len(ids) - len(bare) + 1)
    return next((len(ids) - k - len(bare) for k in starts if ids[k : k + len(bare)] == bare), 0)
