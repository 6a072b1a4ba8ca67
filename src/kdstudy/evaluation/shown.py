"""The stage `prompts`: what every model of a study reads of every item, as text.

It loads tokenizers alone, and is told what the stages that answer are told, so that its texts are
theirs: the same functions make both.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from kdstudy.artifacts import EACH_ITEMS, Prompts
from kdstudy.data.prompts import PromptFormat, asked, encode_prompt, render
from kdstudy.evaluation import graders
from kdstudy.evaluation.asking import Asking
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.kinds import PromptsConfig
from kdstudy.evaluation.stages import pinned
from kdstudy.records import Example, Prompt
from kdstudy.stage import Work


def prompts(work: Work) -> str:
    """Write the `Prompts` of a study.

    Config: `PromptsConfig`. Inputs: the benchmarks by name, and the cuts of models by their name.
    Local: `models` by name.

    Raises:
        InputError: As the stages that answer do, of an item that cannot be asked.
    """
    from kdstudy.models.load import open_tokenizer

    config = PromptsConfig.of(work.config)
    tokenizers = {m.name: open_tokenizer(work.model(m.name)) for m in config.models}
    rows: list[Prompt] = []
    for name, items in work.each(EACH_ITEMS).items():
        found = pinned(items)
        if name in config.scoring:
            rows += _of_options(found, graders.of_config(config.scoring[name], found))
            continue
        asking = Asking.of(config.asking.get(name))
        for model, tokenizer in tokenizers.items():
            rows += _of_texts(name, model, found.examples, asking, config.format(), tokenizer)
    Prompts(work.out).rows.write(rows)
    return f"{len(rows)} prompts of {len(tokenizers)} models"


def _of_texts(
    name: str,
    model: str,
    examples: Sequence[Example],
    asking: Asking,
    made: PromptFormat,
    tokenizer: Any,
) -> Iterator[Prompt]:
    made, begin = asking.format(made), None
    for example in examples:
        question, _ = asked(asking.put(example))
        text = render(made, tokenizer=tokenizer, **question)
        if begin is None:
            begin = _beginning(encode_prompt(tokenizer, made, **question), text, tokenizer)
        opened = text if text.startswith(begin) else begin + text
        yield Prompt(benchmark=name, example_id=example.id, model=model, text=opened)


def _beginning(ids: Sequence[int], text: str, tokenizer: Any) -> str:
    """Return the token that the tokenizer itself puts before a text, "" where it puts none."""
    token = getattr(tokenizer, "bos_token", None)
    begun = token and ids and ids[0] == tokenizer.bos_token_id and not text.startswith(token)
    return token if begun else ""


def _of_options(benchmark: Benchmark, grader: graders.Grader) -> Iterator[Prompt]:
    for example in benchmark.examples:
        options = grader.options(example, benchmark)
        shared = _shared([option.context for option in options])
        yield Prompt(
            benchmark=benchmark.name,
            example_id=example.id,
            model="",
            text=shared,
            labels=tuple(option.label for option in options),
            given=tuple(option.context[len(shared) :] for option in options),
            scored=tuple(option.continuation for option in options),
        )


def _shared(contexts: Sequence[str]) -> str:
    """Return what contexts begin with, up to a blank where they are not all the same."""
    first, last = min(contexts), max(contexts)
    if first == last:
        return first
    pairs = enumerate(zip(first, last, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind(" ", 0, same) + 1]
