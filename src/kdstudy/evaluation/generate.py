"""Completions of items: longest prompts first, resumable, independent of batch make-up."""

import bisect
import dataclasses
import gc
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from kdstudy.artifacts import Generations
from kdstudy.config import schema
from kdstudy.data.prompts import PromptFormat, encode_prompt, row_of
from kdstudy.data.prompts import asked as asked_of
from kdstudy.errors import StageError
from kdstudy.evaluation import vllm
from kdstudy.evaluation.asking import Endings
from kdstudy.models import memory
from kdstudy.models.load import eos_ids
from kdstudy.models.parts import Model
from kdstudy.models.sample import Sampled, sample, seed_of
from kdstudy.records import Example, Generation
from kdstudy.stage import Progress, silent

Item = tuple[str, Example]
"""A benchmark's name and one of its items."""
Key = tuple[str, str, int]
"""Benchmark, example id, sample: what makes a generation one of a kind."""
_NO_ENDINGS = Endings()


class _Asked(NamedTuple):
    """A completion that is to be written: what it is of, its prompt, and what it begins with."""

    key: Key
    prompt: tuple[int, ...]
    begun: tuple[int, ...] = ()

    @property
    def read(self) -> tuple[int, ...]:
        """All that stands before the first token to be written."""
        return self.prompt + self.begun


_Todo = list[_Asked]
_Write = Callable[[_Todo, Sequence[int]], list[Sampled]]


def generate(
    model: Model | vllm.Vllm,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str | PromptFormat,
    settings: schema.Generation,
    *,
    endings: Endings = _NO_ENDINGS,
    done: Collection[Key] = (),
    progress: Progress = silent,
    places: Mapping[str, str] | None = None,
    begun: Mapping[str, str] | None = None,
) -> Iterator[list[Generation]]:
    """Yield finished batches of completions, longest prompts first.

    A draw's seed comes from the generation seed, the example's id and the sample's number alone,
    so batch size, order and an interruption leave every completion as it was. Batches that do not
    fit into memory are halved.

    Args:
        model: In eval mode; or vLLM's engine, which has prompts, seeds and limits in common with it
            and rounds otherwise.
        tokenizer: The model's.
        items: What to answer.
        template: How prompts are made, as in training.
        settings: How to decode. With `batch_size` None each batch is as large as memory allows for
            its own longest prompt (`memory.rows_together`).
        endings: Stop strings and the mark of a thought's end.
        done: Generations that exist already.
        progress: Told after every batch, in generations, and before the first of all.
        places: What items are called in a refusal, by id; their ids where it says nothing.
        begun: By an item's id, a text that its completions begin with: they go on from there, and
            it counts among their tokens. Not for vLLM.

    Raises:
        StageError: A single row does not fit into memory.
    """
    assert not begun or not isinstance(model, vllm.Vllm), "it is handed prompts alone"
    todo = _todo(tokenizer, items, template, settings, done, places or {}, begun or {})
    write, together = _engine(model, tokenizer, settings, endings)
    total = len(items) * settings.samples
    start, most = 0, len(todo)
    if len(todo) == total:
        progress(0, total, "generation")  # starts the clock, even where there is one batch only
    while start < len(todo):
        fit = settings.batch_size or _even(len(todo) - start, together(len(todo[start].read)))
        batch = todo[start : start + min(fit, most)]
        seeds = [seed_of(settings.seed, *asked.key[1:]) for asked in batch]
        texts = _unless_full(write, batch, seeds)
        if texts is None:
            most = _halved(batch, settings)
            continue
        start += len(batch)
        progress(total - len(todo) + start, total, "generation")
        yield [
            _generation(tokenizer, asked, text, endings)
            for asked, text in zip(batch, texts, strict=True)
        ]


def generate_to(
    folder: Path,
    scratch: Path,
    model: Model | vllm.Vllm,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str | PromptFormat,
    settings: schema.Generation,
    *,
    endings: Endings = _NO_ENDINGS,
    progress: Progress = silent,
    places: Mapping[str, str] | None = None,
    begun: Mapping[str, str] | None = None,
) -> Path:
    """Write `Generations.rows`, in item order, and return the file's path.

    Every finished batch is appended to `generations.jsonl` in `scratch`; an interrupted call goes
    on from there. The other arguments are those of `generate`.
    """
    out, journal = Generations(folder).rows, scratch / "generations.jsonl"
    made = _resume(journal)
    with journal.open("a", encoding="utf-8") as file:
        for batch in generate(
            model, tokenizer, items, template, settings,
            endings=endings, done=made, progress=progress, places=places, begun=begun,
        ):  # fmt: skip
            for row in batch:
                file.write(json.dumps(dataclasses.asdict(row)) + "\n")
                made[_key(row)] = row
            file.flush()
    out.write(
        made[name, example.id, number]
        for name, example in items
        for number in range(settings.samples)
    )
    return out.path


def _engine(
    model: Model | vllm.Vllm,
    tokenizer: PreTrainedTokenizerBase,
    settings: schema.Generation,
    endings: Endings,
) -> tuple[_Write, Callable[[int], int]]:
    """Return what writes texts after prompts, and how many at once given the longest prompt."""
    if isinstance(model, vllm.Vllm):
        # It writes on behind a stop string; `_generation` cuts there all the same.
        def served(batch: _Todo, seeds: Sequence[int]) -> list[Sampled]:
            return model.write([asked.prompt for asked in batch], seeds, settings)

        return served, lambda _: vllm.TOGETHER
    assert not any(module.training for module in model.modules()), "dropout would be sampled"
    ends = eos_ids(model, tokenizer)

    def write(batch: _Todo, seeds: Sequence[int]) -> list[Sampled]:
        return sample(
            model,
            [asked.read for asked in batch],
            max_new_tokens=[max(1, settings.max_new_tokens - len(a.begun)) for a in batch],
            temperature=settings.temperature,
            top_p=settings.top_p,
            seeds=seeds,
            eos_ids=ends,
            pad_id=tokenizer.pad_token_id,
            stopped=_stopping(tokenizer, endings),
        )

    return write, lambda longest: memory.rows_together(model, longest, settings.max_new_tokens)


def _even(left: int, most: int) -> int:
    """Return a batch size that leaves no small batch at the end."""
    return math.ceil(left / math.ceil(left / most))


def _unless_full(write: _Write, batch: _Todo, seeds: Sequence[int]) -> list[Sampled] | None:
    """Return the texts, or None if memory ran out."""
    try:
        return write(batch, seeds)
    except (RuntimeError, MemoryError) as e:
        if not memory.ran_out(e):
            raise
    # Out of the handler, which keeps the frames and with them the tensors of the failed try.
    gc.collect()
    torch.cuda.empty_cache()
    return None


def _halved(batch: _Todo, settings: schema.Generation) -> int:
    if len(batch) > 1:
        return len(batch) // 2
    (benchmark, example_id, _), prompt = batch[0].key, batch[0].read
    raise StageError(
        f"{benchmark} {example_id}: memory ran out while one text was written alone",
        why=f"its prompt has {len(prompt)} tokens and its answer may have "
        f"{settings.max_new_tokens}",
        remedy="lower generation.max_new_tokens, or use a machine with more memory; what is "
        "finished is kept",
    )


def _todo(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str | PromptFormat,
    settings: schema.Generation,
    done: Collection[Key],
    places: Mapping[str, str],
    begun: Mapping[str, str],
) -> _Todo:
    todo: _Todo = []
    for name, example in items:
        keys = [(name, example.id, number) for number in range(settings.samples)]
        missing = [key for key in keys if key not in done]
        if missing:
            question, _ = asked_of(example)
            where = f"{name} {places.get(example.id, example.id)}"
            prompt = encode_prompt(tokenizer, template, **question, where=where)
            first: tuple[int, ...] = ()
            if example.id in begun:
                written = begun[example.id], "cut"
                row = row_of(tokenizer, template, example, sys.maxsize, written=written)
                first = row.ids[row.prompt_length :]
            todo += [_Asked(key, prompt, first) for key in missing]
    return sorted(todo, key=lambda asked: len(asked.read), reverse=True)


def _stopping(
    tokenizer: PreTrainedTokenizerBase, endings: Endings
) -> Callable[[Sequence[int]], bool] | None:
    """Return what tells that a completion's tokens hold a stop string; None where there is none."""
    if not endings.stop:
        return None
    # A token is a byte of text or more; the first of a few may lose its blank.
    tail = max(len(stop.encode()) for stop in endings.stop) + 4
    kept = _kept(tokenizer, endings)

    def stopped(ids: Sequence[int]) -> bool:
        last = _decoded(tokenizer, ids[-tail:], kept)
        if not any(stop in last for stop in endings.stop):
            return False
        return endings.cut(_decoded(tokenizer, ids, kept)) is not None

    return stopped


def _generation(
    tokenizer: PreTrainedTokenizerBase, asked: _Asked, text: Sampled, endings: Endings
) -> Generation:
    """Return a completion, cut before its earliest stop string whatever was written behind it."""
    mark, kept = endings.thinking, _kept(tokenizer, endings)
    body = asked.begun + (text.ids[:-1] if text.stop == "eos" else text.ids)
    completion, tokens = _decoded(tokenizer, body, kept), len(asked.begun) + len(text.ids)
    at = endings.cut(completion)
    if at is not None:
        tokens = _first(body, lambda ids: endings.cut(_decoded(tokenizer, ids, kept)) is not None)
        completion = completion[:at]
    thought = -1
    if mark:
        closed = completion.count(mark)
        thought = tokens
        if closed:
            thought = _first(body, lambda i: _decoded(tokenizer, i, kept).count(mark) >= closed)
    benchmark, example_id, number = asked.key
    return Generation(
        benchmark=benchmark,
        example_id=example_id,
        sample=number,
        completion=completion,
        stop="eos" if at is not None or text.stop == "eos" else "length",
        tokens=tokens,
        thought=thought,
    )


def _first(ids: Sequence[int], holds: Callable[[Sequence[int]], bool]) -> int:
    """Return how many of the tokens are the fewest for which it holds; it does for all."""
    return bisect.bisect_left(range(len(ids) + 1), True, key=lambda n: holds(ids[:n]))


def _kept(tokenizer: PreTrainedTokenizerBase, endings: Endings) -> dict[int, str]:
    """Return the special tokens that say where a text or its thought ends, by id."""
    marks = {*endings.stop, endings.thinking} - {""}
    added = tokenizer.added_tokens_decoder.items() if marks else ()
    return {i: token.content for i, token in added if token.special and token.content in marks}


def _decoded(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], kept: Mapping[int, str]
) -> str:
    """Return the text of tokens, of special ones that of those which are kept alone."""
    parts: list[list[int]] = [[]]
    marks = [""]
    for token in ids:
        if token in kept:
            parts.append([])
            marks.append(kept[token])
        else:
            parts[-1].append(token)
    return "".join(
        mark + tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for mark, part in zip(marks, parts, strict=True)
    )


def _resume(journal: Path) -> dict[Key, Generation]:
    """Read the journal and cut off a last line that was being written when the run died."""
    if not journal.is_file():
        return {}
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        journal.write_bytes(whole)
    rows = [Generation(**json.loads(line)) for line in whole.splitlines()]
    return {_key(row): row for row in rows}


def _key(row: Generation) -> Key:
    return row.benchmark, row.example_id, row.sample
