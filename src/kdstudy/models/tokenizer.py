"""A folder's tokenizer: loaded, checked, and held against the folder's own tokenizer.json.

Some of transformers' tokenizer classes take vocabulary and merges from tokenizer.json and put their
own rules for splitting text in place of the file's. A folder that names such a class for a file
of other rules gets other ids than `tokenizers.Tokenizer.from_file` gives, without a word. What the
file says is what the model was trained on, and what every other program reads.
"""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdstudy.errors import InputError, first_line
from kdstudy.models.checkpoint import require_folder

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
# Texts of unlike kinds: what splitting rules, normalisers and decoders are known to differ in.
_PROBES = (
    "I'll DON'T we've she's 7 42 1234567 3.14 1,000 x2y ab12cd H2O snake_case <a-b> (c)",
    "  two   spaces\tTab \r\n\n  indent\n\n\n    deeper \u00a0 end  ",
    "na\u00efve e\u0301 \ufb01 \u2167 \u00bd \uff11\uff12 --!!...?! \u00abq\u00bb \U0001f600"
    "\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 \u6f22\u5b57\u3002 \ud55c\uad6d\uc5b4 "
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0627\u0644\u0639\u0631\u0628\u064a"
    "\u0629 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\nline",
)
_SPECIAL = 3  # of a file's added tokens from either end that are tried amid text
_TOKENS = 512  # of its vocabulary that are tried one by one: a rule may split what was one token
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
          "mask_token")  # fmt: skip
_replaced: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()
_told: set[str] = set()


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer, with an end-of-sequence and a padding token.

    Its ids are those of the folder's tokenizer.json: where the class that transformers chooses
    gives others, the file is read without that class (`replaced_class`), with the same special
    tokens, template and settings. Code of the folder's own is taken as it is.

    A missing padding token becomes the end-of-sequence token: the vocabulary stays as it is, and
    no mask of this package looks at padding ids.

    Raises:
        InputError: There is no tokenizer, or it has no end-of-sequence token.
    """
    require_folder(folder)
    try:
        tokenizer = _opened(folder, trust_remote_code)
    except InputError:
        raise
    # The library of tokenizers raises plain Exceptions.
    except Exception as e:
        raise InputError(
            f"{folder}: its tokenizer cannot be loaded ({first_line(e)})",
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        ) from e
    require_eos(tokenizer, str(folder))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_eos(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer without an end-of-sequence token, with an InputError."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{name}: the tokenizer has no end-of-sequence token",
            why="a student could neither learn to stop nor be told apart from a truncated one",
            remedy="set eos_token (in tokenizer_config.json) to a token of the vocabulary",
        )


def replaced_class(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the class that a tokenizer was loaded without, as it contradicts its file; else ''."""
    return _replaced.get(tokenizer, "")


def read_otherwise(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """Say in a sentence that AutoTokenizer reads a saved tokenizer otherwise; '' where it does not.

    Args:
        tokenizer: What was saved.
        folder: Where.
    """
    try:
        again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        probes = [*_PROBES, *_amid(tokenizer.all_special_tokens)]
        if _read(again, probes) == _read(tokenizer, probes):
            return ""
        how = f"reads this tokenizer as {type(again).__name__}, with other ids"
    # A class may fail on what another one saved in any way.
    except Exception as e:
        how = f"cannot read this tokenizer ({first_line(e)})"
    return (
        f"AutoTokenizer of transformers {how}: load it with "
        "PreTrainedTokenizerFast.from_pretrained, which follows tokenizer.json"
    )


def _opened(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    config, file = folder / _CONFIG, folder / _FILE
    said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if file.is_file() and said.get("tokenizer_class") in _GENERIC:
        # For some architectures (qwen2 among them) AutoTokenizer overrules this name as well.
        return PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if not file.is_file() or not _has_rules(type(tokenizer)):
        return tokenizer
    probes, wanted = _filed(file, file.stat().st_mtime_ns, said.get("add_prefix_space"))
    own = _read(tokenizer, probes)
    if own == wanted:
        return tokenizer
    found = _by_file(folder, tokenizer, said)
    # Tokens that tokenizer_config.json adds are read alike with the class and without it.
    if _read(found, probes) == own:
        return tokenizer
    if _read(found, _PROBES) != wanted[: len(_PROBES)]:
        raise InputError(
            f"{folder}: transformers reads its tokenizer otherwise than {_FILE} says",
            why="the same text would have other ids here than where the model was trained",
            remedy=f"save it again from {_FILE}: "
            "PreTrainedTokenizerFast(tokenizer_file=...).save_pretrained(folder)",
        )
    _replaced[found] = type(tokenizer).__name__
    if str(folder) not in _told:
        _told.add(str(folder))
        logging.getLogger(__name__).warning(
            "%s: %s would give other ids than its own %s says; the file is followed",
            folder, _replaced[found], _FILE,
        )  # fmt: skip
    return found


def _has_rules(kind: type) -> bool:
    """Return whether a tokenizer class may make its own splitting rules."""
    if kind.__module__.startswith("transformers_modules"):
        return False
    return kind.__name__ not in _GENERIC and "__init__" in kind.__dict__


def _by_file(
    folder: Path, like: PreTrainedTokenizerBase, said: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the file, without a class but with the special tokens of one."""
    known = Tokenizer.from_file(str(folder / _FILE))
    special = {name: getattr(like, name) for name in _NAMED}
    # A class's default that the file lacks would become a new token.
    kept = {k: v for k, v in special.items() if v and known.token_to_id(v) is not None}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **kept)
    _set_prefix_space(tokenizer.backend_tokenizer, said.get("add_prefix_space"))
    return tokenizer


@functools.lru_cache(maxsize=8)
def _filed(
    file: Path, changed: int, prefix_space: bool | None
) -> tuple[tuple[str, ...], list[tuple[list[int], str]]]:
    """Return texts, and what a tokenizer.json makes of each: ids, and these as text again.

    Args:
        file: The file.
        changed: When, so that another file of that name is read again.
        prefix_space: What the folder's settings say in the file's place, if anything.
    """
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _set_prefix_space(tokenizer, prefix_space)
    added = tokenizer.get_added_tokens_decoder()
    step = -(-tokenizer.get_vocab_size() // _TOKENS)
    some = [i for i in range(0, tokenizer.get_vocab_size(), step) if i not in added]
    tokens = tokenizer.decode_batch([[i] for i in some], skip_special_tokens=False)
    whole = [text for text in tokens if text and "\ufffd" not in text]
    probes = (*_PROBES, *_amid([added[i].content for i in sorted(added)]), *whole)
    read = tokenizer.encode_batch(list(probes), add_special_tokens=False)
    ids = [row.ids for row in read]
    back = tokenizer.decode_batch(ids, skip_special_tokens=False)
    return probes, list(zip(ids, back, strict=True))


def _amid(tokens: Sequence[str]) -> list[str]:
    some = dict.fromkeys([*tokens[:_SPECIAL], *tokens[-_SPECIAL:]])
    return [f"a {token}b\n{token} c" for token in some]


def _read(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], str]]:
    """Return ids of texts, and these as text again; nothing where the tokenizer fails on them."""
    try:
        ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    # A class whose unknown token the vocabulary lacks.
    except Exception:
        return []
    back = tokenizer.batch_decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return list(zip(ids, back, strict=True))


def _set_prefix_space(tokenizer: Tokenizer, prefix_space: bool | None) -> None:
    """Have a tokenizer put a space before a text or not, where the folder's settings say so.

    In a sequence of rules the space would be put before every piece; such a file is left as it is.
    """
    rule = tokenizer.pre_tokenizer
    if isinstance(rule, pre_tokenizers.ByteLevel) and isinstance(prefix_space, bool):
        rule.add_prefix_space = prefix_space
    elif isinstance(rule, pre_tokenizers.Metaspace) and prefix_space is False:
        rule.prepend_scheme = "never"
    if rule is not None:
        tokenizer.pre_tokenizer = rule
