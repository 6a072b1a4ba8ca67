"""A tiny student and a tiny teacher whose tokenizers cut the same characters in unlike places."""

import functools

import tiny_models as tiny
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from kdstudy.data.prompts import PromptFormat
from kdstudy.distill import cache
from kdstudy.distill.aligned import Tokenizers
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.records import Example

PAIRS = [("i", "t"), (" ", "i"), (" i", "s"), ("1", " "), ("1", "2"), ("s", "o"), (" ", "it")]
WIDTH = 24


def merged(signs: str = tiny.CHARACTERS) -> PreTrainedTokenizerFast:
    """The tiny tokenizer's characters in another order, or some of them, and some together."""
    pairs = [pair for pair in PAIRS if set("".join(pair)) <= set(signs)]
    tokens = ["<end>", *reversed(signs), *map("".join, pairs)]
    inner = Tokenizer(BPE({t: i for i, t in enumerate(tokens)}, pairs))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def examples(number: int, first: int = 0) -> list[Example]:
    said = ("it is {}", "so {} it is", "{}", "is it {} or 12", "")
    return [
        Example(id=str(n), instruction=f"{n} + 1?", response=said[n % 5].format(n + 1))
        for n in range(first, first + number)
    ]


@functools.cache
def tokenizers(max_length: int = 40) -> Tokenizers:
    template = PromptFormat(template=tiny.TEMPLATE)
    made = tiny.tokenizer(), merged()
    return Tokenizers(student=made[0], teacher=made[1], template=template, max_length=max_length)


def teacher(method, both=None, *, seed=1, dtype=torch.float64, texts=None, states=False):
    """Return an aligned teacher, the rows of its pairs, and the model that it asks."""
    both = both or tokenizers()
    pairs = both.pairs(texts or examples(20), {}, "a and b")
    width = len(both.teacher)
    model = tiny.llama(seed, width=WIDTH, vocabulary=width).to(dtype).eval()
    inner = LiveTeacher(model, width)
    if states:
        theirs = [pair.teacher for pair in pairs.values()]
        held = cache.in_memory(inner, theirs, "response", rows_per_pass=3)
        inner = cache.CachedTeacher(held, inner.head, width, "response")
    return both.aligned(inner, pairs, method.recipe()), list(pairs), model
