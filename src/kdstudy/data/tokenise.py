"""Text -> ids: at the start of a row, and behind other text, whatever a tokenizer adds by itself.

Control tokens of a text that are marked as written out (`chat.pieces`) are read as text.
"""

import bisect
import functools
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


class Reading:
    """A marked text's ids, and those of what it begins with, from one pass over the text.

    A token that is taken out of a text before anything else is done with it cuts the text: what
    stands before it is read alike whatever follows. So the ids of a beginning are those of the
    whole up to the last such token, and behind it a few characters that are read again. No offset
    of another token is relied on. Where a text has no such token, where its row writes control
    tokens out, or where a tokenizer knows no offsets, a beginning is read from its start.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        begin: As in `ids_of`.

    Attributes:
        ids: Of the whole text, as `ids_of` gives them.
    """

    def __init__(self, tokenizer: Any, text: str, *, begin: bool):
        self._tokenizer, self._text, self._begin = tokenizer, text, begin
        self._cuts: list[tuple[int, int, str]] = []
        # What is read again behind a token is mostly one header, over and over.
        self._again: dict[str, tuple[int, ...]] = {}
        if not getattr(tokenizer, "is_fast", False) or any(
            written for _, written in chat.pieces(text)
        ):
            self.ids = ids_of(tokenizer, text, begin=begin)
            return
        read = tokenizer(text, add_special_tokens=begin, return_offsets_mapping=True)
        count = len(read["input_ids"]) - (_appended(tokenizer) if begin else 0)
        self.ids = tuple(read["input_ids"][:count])
        cutting = _cutting(tokenizer)
        for place, (i, (start, stop)) in enumerate(
            zip(self.ids, read["offset_mapping"], strict=False)
        ):
            # A token may take the white space around it along.
            if i in cutting and text[start:stop].strip() == cutting[i]:
                self._cuts.append((stop, place + 1, cutting[i]))

    def upto(self, stop: int) -> tuple[int, ...]:
        """Return the ids of the text's first `stop` characters, read by themselves."""
        held, more = self._parts(stop)
        return self.ids[:held] + more

    def span(self, start: int, stop: int, ids: tuple[int, ...]) -> tuple[int, int]:
        """Return where characters lie in `ids`; a token over a border of theirs is outside.

        Args:
            start: Their first character.
            stop: Behind their last one.
            ids: Those of a longer beginning, from `upto`.
        """
        held, more = self._parts(start)
        same = _alike(more, ids, held)
        first = held + same + (same < len(more))
        held, more = self._parts(stop)
        return first, held + _alike(more, ids, held)

    def _parts(self, stop: int) -> tuple[int, tuple[int, ...]]:
        """Return how many ids of the whole begin those of a beginning, and the others."""
        at = bisect.bisect_right(self._cuts, stop, key=lambda cut: cut[0]) - 1
        if at >= 0:
            behind_it, held, token = self._cuts[at]
            if behind_it == stop:
                return held, ()
            text = token + self._text[behind_it:stop]
            if text not in self._again:
                self._again[text] = ids_of(self._tokenizer, text, begin=False)
            if self._again[text][:1] == self.ids[held - 1 : held]:
                return held, self._again[text][1:]
        return 0, ids_of(self._tokenizer, self._text[:stop], begin=self._begin)


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
    adds = getattr(tokenizer, "add_eos_token", None), getattr(tokenizer, "add_bos_token", None)
    return _appended_by(tokenizer, adds, tokenizer.num_special_tokens_to_add())


@functools.lru_cache(maxsize=16)
def _appended_by(tokenizer: Any, adds: tuple[Any, ...], added: int) -> int:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    starts = range(len(ids) - len(bare) + 1)
    return next((len(ids) - k - len(bare) for k in starts if ids[k : k + len(bare)] == bare), 0)


def _cutting(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that are taken out of a text before it is read, by id."""
    return _cutting_of(
        tokenizer, len(tokenizer), bool(getattr(tokenizer, "split_special_tokens", False))
    )


@functools.lru_cache(maxsize=16)
def _cutting_of(tokenizer: Any, size: int, split: bool) -> dict[int, str]:
    if split:
        return {}
    changes = tokenizer.backend_tokenizer.normalizer is not None
    return {
        i: token.content
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.content
        and token.content == token.content.strip()
        and not (token.single_word or (token.normalized and changes))
    }


def _alike(some: tuple[int, ...], ids: tuple[int, ...], start: int) -> int:
    """Return how many ids `some` begins with that stand in `ids` from `start` on."""
    return next(
        (
            n
            for n, (x, y) in enumerate(zip(some, ids[start : start + len(some)], strict=False))
            if x != y
        ),
        min(len(some), len(ids) - start),
    )
