"""Completions of items: longest prompts first, resumable, independent of batch make-up."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import encode_prompt
from kdstudy.models.load import eos_ids
from kdstudy.models.parts import Model
from kdstudy.models.sample import Sampled, sample, seed_of
from kdstudy.records import Example, Generation, write_records
from kdstudy.study import schema
from kdstudy.study.stages import Progress, silent

Item = tuple[str, Example]
"""A benchmark's name and one of its items."""
Key = tuple[str, str, int]
"""Benchmark, example id, sample: what makes a generation one of a kind."""


def generate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str,
    settings: schema.Generation,
    *,
    done: Collection[Key] = (),
    progress: Progress = silent,
) -> Iterator[list[Generation]]:
    """Yield finished batches of completions, longest prompts first.

    A draw's seed comes from the generation seed, the example's id and the sample's number alone,
    so batch size, order and an interruption leave every completion as it was.

    Args:
        model: In eval mode.
        tokenizer: The model's.
        items: What to answer.
        template: Prompt template, as in training.
        settings: How to decode.
        done: Generations that exist already.
        progress: Told after every batch, in generations.
    """
    assert not any(module.training for module in model.modules()), "dropout would be sampled"
    ends = eos_ids(model, tokenizer)
    todo = _todo(tokenizer, items, template, settings, done)
    total = len(items) * settings.samples
    finished = total - len(todo)
    for start in range(0, len(todo), settings.batch_size):
        batch = todo[start : start + settings.batch_size]
        texts = sample(
            model,
            [prompt for _, prompt in batch],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seeds=[seed_of(settings.seed, key[1], key[2]) for key, _ in batch],
            eos_ids=ends,
            pad_id=tokenizer.pad_token_id,
        )
        finished += len(batch)
        progress(finished, total, "generation")
        yield [
            _generation(tokenizer, key, text) for (key, _), text in zip(batch, texts, strict=True)
        ]


def generate_to(
    folder: Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str,
    settings: schema.Generation,
    *,
    progress: Progress = silent,
) -> Path:
    """Write `generations.parquet`, in item order, and return its path.

    Every finished batch is appended to `generations.jsonl`; an interrupted call goes on from
    there. Arguments are those of `generate`.
    """
    path, journal = folder / "generations.parquet", folder / "generations.jsonl"
    made = _resume(journal)
    with journal.open("a", encoding="utf-8") as file:
        for batch in generate(
            model, tokenizer, items, template, settings, done=made, progress=progress
        ):
            for row in batch:
                file.write(json.dumps(dataclasses.asdict(row)) + "\n")
                made[_key(row)] = row
            file.flush()
    write_records(
        path,
        (
            made[name, example.id, number]
            for name, example in items
            for number in range(settings.samples)
        ),
        Generation,
    )
    journal.unlink()
    return path


def _todo(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    template: str,
    settings: schema.Generation,
    done: Collection[Key],
) -> list[tuple[Key, tuple[int, ...]]]:
    todo = []
    for name, example in items:
        keys = [(name, example.id, number) for number in range(settings.samples)]
        missing = [key for key in keys if key not in done]
        if missing:
            prompt = encode_prompt(
                tokenizer, template, example.instruction, context=example.context
            )
            todo += [(key, prompt) for key in missing]
    return sorted(todo, key=lambda pair: len(pair[1]), reverse=True)


def _generation(tokenizer: PreTrainedTokenizerBase, key: Key, text: Sampled) -> Generation:
    body = text.ids[:-1] if text.stop == "eos" else text.ids
    benchmark, example_id, number = key
    return Generation(
        benchmark=benchmark,
        example_id=example_id,
        sample=number,
        completion=tokenizer.decode(
            list(body), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ),
        stop=text.stop,
        tokens=len(text.ids),
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
