"""How likely a model finds each option of an item, as lm-evaluation-harness counts it.

Context and option are tokenised together and cut where the context alone ends; blanks at the end of
the context belong to the option. What a text's options have in common is read once where the model
allows it. Softmax is float32 over all of the model's entries, sums are float64.

Shapes: N scored tokens, C of a chunk, H hidden width, V vocabulary entries.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.graders import Grader
from kdstudy.evaluation.options import Option
from kdstudy.models import branching, packing, parts
from kdstudy.models.branching import Branching
from kdstudy.records import OptionLikelihoods
from kdstudy.stage import Progress, silent

# Logits of a chunk, and tokens that go through the body at once.
_CHUNK, _CHUNK_CUDA = 2**22, 2**26
_TOGETHER, _TOGETHER_CUDA = 2**11, 2**14
# A stem of fewer tokens costs every item more than reading it again does; it is read once a batch,
# whose items have so many times its tokens.
_LEAST_STEM, _STEMS = 32, 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """An item's options: log-probabilities in nats, and how many tokens each is."""

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]


@torch.inference_mode()
def likelihoods(
    model: parts.Model,
    tokenizer: PreTrainedTokenizerBase,
    items: Mapping[str, Sequence[Option]],
    *,
    done: Collection[str] = (),
    progress: Progress = silent,
) -> Iterator[dict[str, Scored]]:
    """Yield finished batches of items, the longest first.

    No tensor of all tokens times the vocabulary is made: hidden states meet the head in chunks.
    Which items are read together changes float rounding alone.

    Args:
        model: In eval mode; it is left as it is.
        tokenizer: The model's.
        items: Options by what the item is called.
        done: Items that are not needed; a batch of such is left out, the others are as ever.
        progress: Told how many items are done.

    Raises:
        InputError: The model's logits are not its output layer's, an option is no token of its own,
            or the model has no positions or entries for a text.
    """
    with _ready(model):
        yield from _in_batches(model, tokenizer, items, frozenset(done), progress)


@torch.inference_mode()
def of_texts(
    model: parts.Model, texts: Sequence[Encoded], progress: Progress = silent
) -> list[float]:
    """Return the log-probability of each text's scored tokens, a sum in nats.

    Args:
        model: As in `likelihoods`, like what is read together.
        texts: Prompts with what was written, as the model reads them.
        progress: Told how many texts are done.

    Raises:
        InputError: As `likelihoods` does, of a model.
    """
    found: dict[int, float] = {}
    with _ready(model):
        if texts:
            longest, highest = (max(f(t.ids) for t in texts) for f in (len, max))
            parts.require_room(model, longest, highest)
        most = _TOGETHER_CUDA if model.device.type == "cuda" else _TOGETHER
        progress(0, len(texts), "text")
        for group in _groups({i: len(text.ids) for i, text in enumerate(texts)}, most):
            sums = _sums_of_texts(model, [texts[i] for i in group])
            found |= dict(zip(group, sums, strict=True))
            progress(len(found), len(texts), "text")
    return [found[i] for i in range(len(texts))]


def _sums_of_texts(model: parts.Model, texts: Sequence[Encoded]) -> list[float]:
    starts = itertools.accumulate((len(text.ids) for text in texts), initial=0)
    at = [start + p for start, text in zip(starts, texts, strict=False) for p in text.scored]
    places_N = torch.tensor(at, dtype=torch.long, device=model.device)
    ids_T = torch.tensor([i for text in texts for i in text.ids], device=model.device)
    lengths = [len(text.ids) for text in texts]
    hidden_NH = packing.scored_hidden(model, ids_T, lengths, places_N - 1)
    found_N = _logprobs(parts.head(model), hidden_NH, ids_T[places_N]).cpu()
    return [float(part.sum()) for part in found_N.split([len(text.scored) for text in texts])]


@contextlib.contextmanager
def _ready(model: parts.Model) -> Iterator[None]:
    """Have a model read rows that lie one behind the other, and leave it as it was."""
    assert not any(module.training for module in model.modules()), "dropout would be measured"
    parts.require_known_head(model)
    base = parts.plain(model)
    attention = base.config._attn_implementation
    packing.enable(model)
    try:
        yield
    finally:
        if base.config._attn_implementation != attention:
            base.set_attn_implementation(attention)


def _in_batches(
    model: parts.Model,
    tokenizer: PreTrainedTokenizerBase,
    items: Mapping[str, Sequence[Option]],
    finished: frozenset[str],
    progress: Progress,
) -> Iterator[dict[str, Scored]]:
    _require_open_end(tokenizer)
    once = branching.may_branch(model)
    texts = {name: _encoded(tokenizer, options, name) for name, options in items.items()}
    read = [text for found in texts.values() for text in found]
    if read:
        longest = max(len(t.trunk) + max(map(len, t.branches)) - 1 for t in read)
        highest = max(i for t in read for part in (t.trunk, *t.branches) for i in part)
        parts.require_room(model, longest, highest)
    done = 0
    progress(0, len(texts), "item")
    most = _TOGETHER_CUDA if model.device.type == "cuda" else _TOGETHER
    stem = _stem(read) if once else ()
    if stem:
        texts = {name: [_without(text, len(stem)) for text in f] for name, f in texts.items()}
        most = max(most, _STEMS * len(stem))
    sizes = {name: sum(text.length for text in found) for name, found in texts.items()}
    for names in _groups(sizes, most):
        done += len(names)
        if finished.issuperset(names):
            continue
        group = [texts[name] for name in names]
        sums = iter(_sums(model, [text for found in group for text in found], once, stem))
        yield {name: _scored(found, sums) for name, found in zip(names, group, strict=True)}
        progress(done, len(texts), "item")


def _require_open_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that closes every text: an option would follow a closed context."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    ids = tokenizer.encode("a")
    if ids[len(ids) - len(bare) :] != bare:
        raise InputError(
            f"its tokenizer puts {tokenizer.convert_ids_to_tokens(ids[-1])!r} behind every text",
            why="an option's likelihood is that of a text that goes on",
            remedy="switch that off in the tokenizer's folder (add_eos_token: false)",
        )


def of_benchmark(
    model: parts.Model,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: Benchmark,
    grader: Grader,
    progress: Progress = silent,
    journal: Path | None = None,
) -> list[OptionLikelihoods]:
    """Return the likelihoods of a benchmark's options, in the order of its items.

    Args:
        model: As in `likelihoods`.
        tokenizer: The model's.
        benchmark: Whose items.
        grader: Says which options they have.
        progress: As in `likelihoods`.
        journal: A file that finished batches are added to; a call that was interrupted goes on from
            it, with the same numbers.

    Raises:
        InputError: As `likelihoods` does, or an item's options cannot be told from its question.
    """
    asked = {example.id: grader.options(example, benchmark) for example in benchmark.examples}
    found = _resumed(journal) if journal else {}
    for batch in likelihoods(model, tokenizer, asked, done=[*found], progress=progress):
        found |= batch
        if journal:
            _note(journal, batch)
    return [
        OptionLikelihoods(
            benchmark=benchmark.name,
            example_id=name,
            logprobs=found[name].logprobs,
            tokens=found[name].tokens,
        )
        for name in asked
    ]


def _resumed(journal: Path) -> dict[str, Scored]:
    """Return what a journal holds; a last line that was being written is cut off."""
    if not journal.is_file():
        return {}
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        journal.write_bytes(whole)
    rows = (json.loads(line) for line in whole.splitlines())
    return {
        name: Scored(logprobs=tuple(logprobs), tokens=tuple(tokens))
        for row in rows
        for name, (logprobs, tokens) in row.items()
    }


def _note(journal: Path, batch: Mapping[str, Scored]) -> None:
    """Add a batch as one line, so that it is there as a whole or not at all."""
    row = {name: [scored.logprobs, scored.tokens] for name, scored in batch.items()}
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


Name = TypeVar("Name", bound=Hashable)
_Encoded = list[Branching]
"""An item's texts: one whose branches are its options, or one for each option."""


def _encoded(tokenizer: PreTrainedTokenizerBase, options: Sequence[Option], name: str) -> _Encoded:
    wholes, scored = [], []
    for option in options:
        context = option.context.rstrip()
        continuation = option.context[len(context) :] + option.continuation
        given = tuple(tokenizer.encode(context))
        body = tuple(tokenizer.encode(context + continuation))[len(given) :]
        if not given or not body:
            what = "context" if not given else "option"
            raise InputError(
                f"{name}: its {what} {(option.continuation if given else context)[:40]!r} is no "
                "token of its own in this model's tokenizer",
                why="there would be nothing whose likelihood could be counted",
                remedy="leave scoring: likelihood out for this benchmark or model",
            )
        wholes.append(given + body)
        scored.append(len(body))
    shared = _shared(wholes)
    if not shared:
        cuts = zip(wholes, scored, strict=True)
        return [Branching(whole[:-n], (whole[-n:],), (n,)) for whole, n in cuts]
    branches = tuple(whole[shared:] for whole in wholes)
    return [Branching(wholes[0][:shared], branches, tuple(scored))]


def _stem(texts: Sequence[Branching]) -> tuple[int, ...]:
    """Return what the trunks of all items begin with, such as exemplars; () if that is short.

    Each text keeps a token of its trunk, and all that is to be predicted.
    """
    if len(texts) < 2:
        return ()
    first, last = (f(text.trunk for text in texts) for f in (min, max))
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    room = min(
        len(text.trunk) - 1 - max(0, n - len(branch))
        for text in texts
        for branch, n in zip(text.branches, text.scored, strict=True)
    )
    return first[: min(same, room)] if min(same, room) >= _LEAST_STEM else ()


def _without(text: Branching, stem: int) -> Branching:
    return dataclasses.replace(text, trunk=text.trunk[stem:])


def _shared(wholes: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all begin with; each keeps one of its own."""
    first, last = min(wholes), max(wholes)
    most = min(map(len, wholes)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def _groups(sizes: Mapping[Name, int], most: int) -> Iterator[list[Name]]:
    """Yield names of items, the longest first, that go through the body together."""
    group, size = [], 0
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if group and size + sizes[name] > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += sizes[name]
    if group:
        yield group


def _sums(
    model: parts.Model, texts: Sequence[Branching], once: bool, stem: tuple[int, ...]
) -> list[float]:
    """Return the log-probability of every branch, in order."""
    targets = [target for text in texts for target in text.targets]
    hidden_NH = branching.branch_hidden(model, texts, once=once, stem=stem)
    targets_N = torch.tensor([i for target in targets for i in target], device=hidden_NH.device)
    found_N = _logprobs(parts.head(model), hidden_NH, targets_N).cpu()
    return [float(part.sum()) for part in found_N.split([len(target) for target in targets])]


def _logprobs(head: parts.Head, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
    """Return the log-probability of each target, [N], float64."""
    entries = _CHUNK_CUDA if hidden_NH.is_cuda else _CHUNK
    found = []
    for at in torch.arange(len(targets_N)).split(max(1, entries // len(head.weight))):
        chunk = slice(int(at[0]), int(at[-1]) + 1)
        logits_CV = head.logits(hidden_NH[chunk])
        # A bfloat16 log-softmax over a large vocabulary is off by several percent.
        logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        chosen_C = logits_CV.gather(1, targets_N[chunk, None])[:, 0]
        found.append((chosen_C - logits_CV.logsumexp(-1)).double())
    return torch.cat(found)


def _scored(found: _Encoded, sums: Iterator[float]) -> Scored:
    tokens = tuple(n for text in found for n in text.scored)
    return Scored(logprobs=tuple(itertools.islice(sums, len(tokens))), tokens=tokens)
