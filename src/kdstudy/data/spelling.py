"""What each token of a tokenizer stands for, in bytes, and which tokens two vocabularies share."""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from kdstudy.data import chat
from kdstudy.errors import InputError

Kind = Literal["text", "byte", "special"]

# What the rules of known decoders differ in; each is spelled and compared with the decoder's text.
_PROBES = (
    "It's 12.5 <a> (b)\n  two spaces\ttab",
    "na\u00efve \u65e5\u672c\u8a9e \U0001f600\U0001f469\u200d\U0001f467",
)
_BLANK = "\u2581"


class Spelling:
    """The bytes that each token of a tokenizer stands for.

    A blank that marks a word's beginning is a blank here. A token for a lone byte, as
    SentencePiece has them beside its characters, is of kind `byte`.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Attributes:
        entries: Its highest id and one: as many entries of an output layer stand for tokens.
        ends: Ids that end an answer.
        tokens: Kind and bytes of each token, by id.

    Raises:
        InputError: Nothing tells which bytes its tokens stand for.
    """

    def __init__(self, tokenizer: Any):
        self.ends = frozenset((tokenizer.eos_token_id, *chat.end_ids(tokenizer)))
        rule = _rule(tokenizer)
        added = tokenizer.added_tokens_decoder
        self.tokens: dict[int, tuple[Kind, bytes]] = {}
        for token, i in tokenizer.get_vocab().items():
            if i in added:
                kind = "special" if added[i].special else "text"
                self.tokens[i] = kind, added[i].content.encode("utf-8", "surrogatepass")
            else:
                self.tokens[i] = rule(token)
        self.entries = max(self.tokens) + 1
        self._require_right(tokenizer)

    def of(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each of some tokens; none for an id that stands for no token."""
        return [self.tokens[i][1] if i in self.tokens else b"" for i in ids]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens without special ones; U+FFFD for what is no UTF-8."""
        said = b"".join(self.of([i for i in ids if not self.is_special(i)]))
        return said.decode("utf-8", "replace")

    def is_special(self, token: int) -> bool:
        """Whether a token is special, or none of the tokenizer's."""
        return token not in self.tokens or self.tokens[token][0] == "special"

    def _require_right(self, tokenizer: Any) -> None:
        for probe in _PROBES:
            ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
            text = tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            # A blank that a tokenizer puts before every text is taken away again by its decoder.
            said, spelled = text.encode(), b"".join(self.of(ids))
            if spelled not in (said, b" " + said):
                raise _unknown(tokenizer, f"{spelled[:20]!r} is decoded as {said[:20]!r}")


@functools.lru_cache(maxsize=8)
def spelling(tokenizer: Any) -> Spelling:
    """Return a tokenizer's spelling; what was found out is kept."""
    return Spelling(tokenizer)


def shared(
    student: Spelling, teacher: Spelling, ends: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return (student's id, teacher's id) of every token that both vocabularies have.

    Tokens are the same where kind and bytes are; what is left of one kind may then be the other's
    lone byte. Where one vocabulary has a token twice, the lower ids come first.

    Args:
        student: The student's.
        teacher: The teacher's.
        ends: The tokens with which either ends an answer: a pair however they are written.
    """
    pairs, taken = dict([ends]), {ends[1]}
    for by in (lambda kind: kind, lambda kind: "special" if kind == "special" else "text"):
        free: dict[tuple[str, bytes], list[int]] = {}
        for i, (kind, spelled) in sorted(teacher.tokens.items(), reverse=True):
            if i not in taken:
                free.setdefault((by(kind), spelled), []).append(i)
        for i, (kind, spelled) in sorted(student.tokens.items()):
            if i not in pairs and free.get((by(kind), spelled)):
                pairs[i] = free[by(kind), spelled].pop()
        taken = set(pairs.values())
    return tuple(sorted(pairs.items()))


def _rule(tokenizer: Any) -> Any:
    """Return what turns a token as it is written in the vocabulary into its kind and bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        raise _unknown(tokenizer, "it has no decoder")
    names = set(_names(json.loads(backend.decoder.__getstate__())))
    if "ByteLevel" in names:
        return _byte_level
    if not names <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        raise _unknown(tokenizer, f"its decoder is {', '.join(sorted(names))}")
    blank = _BLANK if names & {"Metaspace", "Replace"} else None
    return functools.partial(_character_level, blank=blank, fallback="ByteFallback" in names)


def _names(decoder: Any) -> Iterator[str]:
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _names(part)
    else:
        yield decoder["type"]


def _byte_level(token: str) -> tuple[Kind, bytes]:
    known = _signs()
    if all(sign in known for sign in token):
        return "text", bytes(known[sign] for sign in token)
    return "text", token.encode("utf-8", "surrogatepass")


def _character_level(token: str, blank: str | None, fallback: bool) -> tuple[Kind, bytes]:
    if fallback and len(token) == 6 and token[:3] == "<0x" and token[5] == ">":
        return "byte", bytes.fromhex(token[3:5])
    return "text", (token.replace(blank, " ") if blank else token).encode("utf-8", "surrogatepass")


@functools.cache
def _signs() -> dict[str, int]:
    """Return the byte that each sign of a byte-level vocabulary stands for (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in plain)
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


def _unknown(tokenizer: Any, why: str) -> InputError:
    return InputError(
        f"{getattr(tokenizer, 'name_or_path', '') or 'a tokenizer'}: nothing tells which bytes its "
        "tokens stand for",
        why=f"{why}; byte-level BPE and SentencePiece's kinds are known",
        remedy="choose a model with a tokenizer of these kinds, or method seqkd, which needs only "
        "text",
    )
