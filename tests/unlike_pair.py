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


def spans_by_hand(both, row, other):
    """Where both sides have written as many characters, by decoding them; an end by itself."""
    spans, a, b = [], 0, 0
    ends = [r.ids[-1] == side.eos_token_id
            for side, r in ((both.student, row), (both.teacher, other))]  # fmt: skip
    assert ends[0] == ends[1]
    mine, theirs = ([side.decode([i]) for i in r.ids[r.prompt_length : len(r.ids) - ends[0]]]
                    for side, r in ((both.student, row), (both.teacher, other)))  # fmt: skip
    for i in range(1, len(mine) + 1):
        for j in range(1, len(theirs) + 1):
            if "".join(mine[:i]) == "".join(theirs[:j]):
                spans.append(((a, i), (b, j)))
                a, b = i, j
    assert (a, b) == (len(mine), len(theirs))
    return [*spans, ((a, a + 1), (b, b + 1))] if ends[0] else spans


def answers(model, row):
    places = torch.tensor(list(row.scored)) - 1
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, places]
    return logits.softmax(-1), [row.ids[i] for i in row.scored]


def masses(p, ids, span):
    product = 1.0
    for i in range(span[0] + 1, span[1]):
        product = product * p[i, ids[i]]
    return p[span[0]] * product


def same_tokens(both):
    """By their texts; ends are a pair."""
    ours, theirs = both.student.get_vocab(), both.teacher.get_vocab()
    found = {i: theirs[t] for t, i in ours.items() if t in theirs}
    return found | {both.student.eos_token_id: both.teacher.eos_token_id}


def dense(both, student, other, rows, hybrid, share=0.0):
    """The method's sum over rows, over their scored tokens: every token of every span, by hand.

    `rows` has the teacher's row by the student's.
    """
    total, tokens = 0.0, 0
    found = same_tokens(both)
    mine = list(found)
    left = [i for i in range(tiny.VOCABULARY) if i not in found] if hybrid else None
    right = [i for i in range(len(both.teacher)) if i not in found.values()] if hybrid else None
    weight = len(found) / len(both.teacher) if hybrid else 0.0
    for row, told in rows.items():
        q, q_ids = answers(student, row)
        p, p_ids = answers(other, told)
        for ours, theirs in spans_by_hand(both, row, told):
            s, t = masses(q, q_ids, ours), masses(p.detach(), p_ids, theirs)
            if hybrid:
                a, b = s[mine], t[[found[i] for i in mine]]
                m = (a + b) / 2
                matched = (b * (b / m).log() + a * (a / m).log()).sum() / 2
                s, t = s[left], t[right]
            else:
                matched = 0.0
            s, t = s.sort(descending=True).values, t.sort(descending=True).values
            pad = torch.zeros(abs(len(s) - len(t)), dtype=s.dtype)
            s, t = (torch.cat([s, pad]), t) if len(s) < len(t) else (s, torch.cat([t, pad]))
            loss = weight * matched + (1 - weight) * (s - t).abs().sum()
            total = total + (1 - share) * loss
        total = total - share * q[range(len(q_ids)), q_ids].log().sum()
        tokens += len(q_ids)
    return total / tokens
