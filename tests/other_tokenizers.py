"""Tokenizers of unlike kinds: GPT-2's files, BPE trained in a moment, SentencePiece's kind."""

import functools
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, WordPiece
from transformers import PreTrainedTokenizerFast

from kdstudy.data.synthetic import corpus_rows
from kdstudy.models import load, zoo

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("KDSTUDY_DATA", ROOT.parent / "shared" / "data"))


@functools.cache
def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2's own vocabulary and merges, which are not part of the package."""
    folder = DATA / "tokenizers" / "gpt2"
    if not folder.is_dir():
        pytest.skip(f"GPT-2's vocabulary is not here: put vocab.json and merges.txt into {folder}")
    inner = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")


@functools.cache
def smollm2() -> PreTrainedTokenizerFast:
    """SmolLM2's, where `make real` has put it."""
    folder = Path(os.environ.get("KDSTUDY_REAL", ROOT / "real")) / "SmolLM2-135M"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"SmolLM2's tokenizer is not here: `make real` puts it into {folder}")
    return load.load_tokenizer(folder)


@functools.cache
def zoos() -> PreTrainedTokenizerFast:
    """The shipped models': byte-level BPE behind NFC, digits apart."""
    return load.load_tokenizer(zoo.path("zoo-xs"))


@functools.cache
def trained(size: int = 500) -> PreTrainedTokenizerFast:
    """Byte-level BPE of word problems, digits together, its own end of a text."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<eos>"], initial_alphabet=bytes_, show_progress=False
    )
    texts = [f"{row['instruction']} {row['output']}" for row in corpus_rows(300, seed=3)]
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


@functools.cache
def characters() -> PreTrainedTokenizerFast:
    """As SentencePiece's: blanks as signs, lone bytes for what the vocabulary lacks."""
    signs = ["▁", *"abcdefghijklmnopqrstuvwxyzAI0123456789.,=+*'"]
    pieces = ["<unk>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *signs, "th", "▁t", "▁th"]
    merges = [("t", "h"), ("▁", "t"), ("▁t", "h")]
    inner = Tokenizer(
        BPE(
            vocab={t: i for i, t in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's kind, whose tokens do not say where blanks were."""
    inner = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "[SEP]": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="[SEP]", unk_token="[UNK]")
