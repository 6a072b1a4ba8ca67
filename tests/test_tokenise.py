"""One pass over a conversation gives the ids that reading every beginning from its start gives."""

import os
import random
from pathlib import Path

import chat_models as models
import pytest
from chat_models import assistant, made, system, user
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as tokens
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kdstudy.data import prompts
from kdstudy.data.prompts import PromptFormat, encode
from kdstudy.data.tokenise import Reading, ids_of
from kdstudy.errors import InputError
from kdstudy.models import zoo

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))


class FromTheStart:
    """The oracle: each beginning is a text of its own."""

    def __init__(self, tokenizer, text, *, begin):
        self.tokenizer, self.text, self.begin = tokenizer, text, begin
        self.ids = self.upto(len(text))

    def upto(self, stop):
        return ids_of(self.tokenizer, self.text[:stop], begin=self.begin)

    def span(self, start, stop, ids):
        def alike(some):
            return next(
                (n for n, (a, b) in enumerate(zip(some, ids, strict=False)) if a != b),
                min(len(some), len(ids)),
            )

        before = self.upto(start)
        return alike(before) + (alike(before) < len(before)), alike(self.upto(stop))


DRAWS = int(os.environ.get("KDSTUDY_DRAWS", "5"))  # 100 were drawn once of each
# What meets at the borders of turns: white space, marks that combine, characters of several bytes.
PARTS = [
    *("\n", "\n\n", " ", "  ", "\t", "\u0301", "e\u0301", "\u0338", "\u200d", "👩\u200d👩\u200d👧"),
    *("🙂", "日本", "は", "한국", "é", "ß", "İ", "ﬁ", "\u00a0", "a", "word", "The", " the", "'s"),
    *("12", "3.5", "<", ">", "|>", "<|", "#", ":", "▁", "Ġ", "\r\n", "</", "s>", "assistant"),
]


def drawn(rng: random.Random) -> list[dict]:
    """Return a conversation; a row in twenty writes a control token out."""

    def said() -> str:
        text = "".join(rng.choices(PARTS, k=rng.randint(1, 6)))
        return text + "<|im_end|>x" * (rng.random() < 0.02)

    talk = [m for _ in range(rng.randint(1, 5)) for m in (user(said()), assistant(said()))]
    return [system(said()), *talk] if rng.random() < 0.3 else talk


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Of SentencePiece's kind: bytes where a character is not known, a space put before texts."""
    letters = [*map(chr, range(33, 127)), "▁", "\n", *(f"<0x{n:02X}>" for n in range(256))]
    pairs = [("▁", "t"), ("\n", "\n"), ("w", "o"), ("▁t", "h"), ("\n", "▁")]
    vocab = {c: i for i, c in enumerate(dict.fromkeys([*letters, *map("".join, pairs)]))}
    raw = Tokenizer(tokens.BPE(vocab=vocab, merges=pairs, byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>",
        extra_special_tokens=models.SPECIAL,
    )  # fmt: skip


def changed(normalizer) -> PreTrainedTokenizerFast:
    tokenizer = models.tokenizer(None)
    tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


def stripping(**sides: bool) -> PreTrainedTokenizerFast:
    """Tokens that take the white space beside them along, as Phi-3's."""
    tokenizer = models.tokenizer(None, merges=[("Ċ", "Ċ"), ("Ġ", "Ġ")])
    taking = [AddedToken(t, special=True, normalized=False, **sides) for t in models.SPECIAL]
    tokenizer.add_tokens(taking, special_tokens=True)
    return tokenizer


def trimming() -> PreTrainedTokenizerFast:
    tokenizer = models.tokenizer(None, merges=[("Ċ", "Ċ"), ("Ġ", "a")])
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def published() -> PreTrainedTokenizerFast:
    folder = DATA / "tokenizers" / "gpt2"
    if not folder.is_dir():
        pytest.skip("set KDSTUDY_DATA to the folder with tokenizers/gpt2")
    raw = Tokenizer(tokens.BPE.from_file(*(str(folder / n) for n in ("vocab.json", "merges.txt"))))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.ByteLevel(trim_offsets=True)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>",
        extra_special_tokens=models.SPECIAL,
    )  # fmt: skip


def of_the_zoo() -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("zoo-m"))
    tokenizer.add_special_tokens({"extra_special_tokens": models.SPECIAL})
    return tokenizer


TOKENIZERS = {
    "bytes": lambda: models.tokenizer(None),
    "line breaks join": lambda: models.tokenizer(None, merges=[("Ċ", "Ċ"), (">", "Ċ")]),
    "trimmed offsets": trimming,
    "space before all": lambda: metaspace("always"),
    "space before the first": lambda: metaspace("first"),
    "composed": lambda: changed(normalizers.NFC()),
    "lower case, no accents": lambda: changed(
        normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    ),
    "text is prepended": lambda: changed(normalizers.Prepend("a")),
    "takes what follows": lambda: stripping(rstrip=True),
    "takes both sides": lambda: stripping(lstrip=True, rstrip=True),
    "whole words": lambda: stripping(single_word=True),
    "appends its end": lambda: models.tokenizer(None, add_eos=True),
    "published gpt2": published,
    "zoo-m": of_the_zoo,
}


def outcome(tokenizer, form, messages, limit):
    try:
        row = encode(tokenizer, form, messages[:-1], messages[-1], limit, where="row 3")
    except InputError as e:
        return str(e)
    return row


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_one_pass_gives_the_ids_of_every_beginning(kind, monkeypatch):
    """In every template, cut short or not: rows, spans and refusals bit for bit."""
    tokenizer, rng = TOKENIZERS[kind](), random.Random(kind)
    rows = 0
    for name in [*models.TEMPLATES, "alpaca"]:
        tokenizer.chat_template = models.TEMPLATES.get(name)
        form = PromptFormat(template="alpaca" if name == "alpaca" else "chat")
        for _ in range(DRAWS):
            messages = drawn(rng)
            for limit in (10**6, rng.randint(5, 300)):
                fast = outcome(tokenizer, form, messages, limit)
                with monkeypatch.context() as patch:
                    patch.setattr(prompts, "Reading", FromTheStart)
                    assert outcome(tokenizer, form, messages, limit) == fast
                rows += not isinstance(fast, str)
    assert rows > 5 * DRAWS


def test_a_beginning_ends_anywhere():
    """Inside a character's bytes, a control token, white space that a token takes along."""
    for kind, make in TOKENIZERS.items():
        if kind == "published gpt2" and not (DATA / "tokenizers").is_dir():
            continue
        tokenizer = make()
        text = "a<|im_start|>user\n\n👩\u200d👩 e\u0301<|im_end|>  \n<|end|>\u0338b<s></s>x"
        for begin in (True, False):
            fast, slow = (c(tokenizer, text, begin=begin) for c in (Reading, FromTheStart))
            whole = slow.ids
            assert fast.ids == whole
            for stop in range(len(text) + 1):
                assert fast.upto(stop) == slow.upto(stop), (kind, stop)
                got = fast.span(stop // 2, stop, whole)
                assert got == slow.span(stop // 2, stop, whole), (kind, stop)


def test_time_grows_with_the_text_and_not_with_its_turns(monkeypatch):
    """What is read of 40 turns is read about once: characters that meet the tokenizer."""
    tokenizer = models.tokenizer("chatml")
    read = []
    batch = type(tokenizer)._encode_plus

    def counted(self, text, *args, **more):
        read.append(sum(map(len, [text] if isinstance(text, str) else text)))
        return batch(self, text, *args, **more)

    monkeypatch.setattr(type(tokenizer), "_encode_plus", counted)
    row = made(tokenizer, [m for n in range(40) for m in (user(f"q{n} " * 9), assistant("a " * 9))])
    assert sum(read) < 1.2 * len(tokenizer.decode(row.ids))


def test_an_end_that_is_switched_on_later_is_seen():
    """What a tokenizer appends is remembered, and asked for again once it has changed."""
    tokenizer = models.tokenizer(None)
    before = prompts.encode_prompt(tokenizer, "alpaca", "q")
    ends = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    assert prompts.encode_prompt(tokenizer, "alpaca", "q") == (tokenizer.bos_token_id, *before)
