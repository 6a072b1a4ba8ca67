"""Training rows that a system continues word for word: the stage `memorised`.

After Carlini et al. 2023 (arXiv 2202.07646): given a row's prompt and the first tokens of its
response, a row is continued where greedy decoding would write the next ones of the response. That
is so where each of them is the likeliest behind those before it, which one pass over the row tells.
Held-out rows of the same corpus are asked alike: what is continued of them is form, not memory; and
so is the model before training, which may have met the corpus elsewhere.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdstudy.artifacts import CORPUS, Corpus, Memorised
from kdstudy.data.prompts import Encoded, called, row_of
from kdstudy.errors import InputError
from kdstudy.evaluation.kinds import MemorisedConfig
from kdstudy.evaluation.stages import limited
from kdstudy.evaluation.two_models import opened_pair
from kdstudy.records import Example, MemoryRow
from kdstudy.stage import Work


def memorised(work: Work) -> str:
    """Look which corpus rows a system and its base continue: `Memorised`.

    Config: `MemorisedConfig`. Inputs: `CORPUS`, and `TUNED_SYSTEM` as for `token_fidelity`; the
    reference is the same model before training.

    Raises:
        InputError: No training row, or no held-out row, has a response that is long enough.
    """
    from kdstudy.evaluation.tokens import token_by_token

    config, corpus = MemorisedConfig.of(work.config), work.read(CORPUS)
    student, base, tokenizer, width = opened_pair(
        work, config.precision, what="what was memorised", remedy="set statement.memory_rows: 0"
    )
    asked = list(_asked(config, corpus, tokenizer))
    for trained, part in ((True, "training"), (False, "held-out")):
        if not any(t == trained for _, t, _ in asked):
            raise InputError(
                f"no {part} row's response is longer than {config.start + config.tokens} tokens",
                why=f"the first {config.start} are given and the next {config.tokens} are looked "
                "for, in training rows and in others",
                remedy="lower statement.memory_start or memory_tokens, or set memory_rows: 0",
            )
    found: dict[int, Mapping[str, Any]] = {}
    texts = [text for _, _, text in asked]
    for i, tokens in token_by_token(student, base, texts, width, work.progress):
        found[i] = {"own": bool(tokens["hit_student"].all())}
        found[i] |= {"base": bool(tokens["hit_teacher"].all())}
    rows = [
        MemoryRow(example_id=example.id, trained=trained, **found[i])
        for i, (example, trained, _) in enumerate(asked)
    ]
    Memorised(work.out).rows.write(rows)
    return said(rows)


def said(rows: Sequence[MemoryRow]) -> str:
    """Say how many rows were continued in a line."""
    parts = []
    for trained, name in ((True, "training"), (False, "held-out")):
        part = [r for r in rows if r.trained == trained]
        own, base = sum(r.own for r in part), sum(r.base for r in part)
        parts.append(f"{own} of {len(part)} {name} rows continued (its base {base})")
    return ", ".join(parts)


def _asked(
    config: MemorisedConfig, corpus: Corpus, tokenizer: Any
) -> Iterator[tuple[Example, bool, Encoded]]:
    """Yield rows that are long enough, whether they were trained on, and what is looked at."""
    made, places = config.format(config.loss_turns), corpus.places
    for trained, part in ((True, corpus.train), (False, corpus.validation)):
        for example in limited(part.read(), config.rows):
            where = called(example, places)
            text = row_of(tokenizer, made, example, config.max_length, where=where)
            if text is None:
                continue
            begin = text.prompt_length + config.start
            end = begin + config.tokens
            if len(text.ids) > end:  # the token that ends a response is none of its words
                cut = dataclasses.replace(
                    text, ids=text.ids[:end], prompt_length=begin, spans=(), told=()
                )
                yield example, trained, cut
