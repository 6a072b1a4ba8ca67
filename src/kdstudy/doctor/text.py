"""The corpus as a tokenizer reads it: what is cut, what is scored, and one prompt both ways."""

import math
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded, encode_prompt
from kdstudy.distill.batches import Weighing
from kdstudy.distill.rows import encode_rows
from kdstudy.doctor.findings import Shown, Span
from kdstudy.doctor.patient import TextFacts
from kdstudy.records import Example
from kdstudy.study.schema import Study

# Rows that are encoded: enough for a share of 1% to be told from one of 2%.
ROWS = 5000
_PROMPTS = 50
_NO_LIMIT = 10**9


def read(
    study: Study,
    tokenizer: PreTrainedTokenizerBase,
    models: Sequence[str],
    rows: Sequence[Example],
    benchmarks: Mapping[str, Sequence[Example]],
) -> TextFacts:
    """Encode rows as training and evaluation do, and count what becomes of them.

    Args:
        study: Says template, `max_length` and what is scored.
        tokenizer: One of some models that read alike.
        models: Their names.
        rows: Corpus rows; the first `ROWS` are encoded.
        benchmarks: Items by benchmark.
    """
    rows, template = rows[:ROWS], study.template
    whole = {e.id: encode_rows([e], tokenizer, template, _NO_LIMIT).rows[0] for e in rows}
    kept = _kept(study, tokenizer, rows)
    asked = {
        e.id: encode_prompt(tokenizer, template, e.instruction, context=e.context) for e in rows
    }
    weighing = Weighing(loss_tokens=study.train.loss_tokens)
    lengths = sorted(len(row.ids) for row in whole.values())
    masks = [_mask(tokenizer, e, row, whole[e.id], weighing) for e, row in _telling(kept)]
    prompts = {n: _mean_prompt(tokenizer, template, items) for n, items in benchmarks.items()}
    return TextFacts(
        models=tuple(models),
        rows=len(rows),
        cut=sum(row.truncated for _, row in kept),
        dropped=len(rows) - len(kept),
        unknown=_unknown(tokenizer, list(whole.values())),
        tokens=sum(len(row.ids) for _, row in kept),
        scored=sum(len(weighing.scored(row)) for _, row in kept),
        unparted=sum(row.ids[: row.prompt_length] != asked[e.id] for e, row in kept),
        needed=lengths[max(0, math.ceil(0.99 * len(lengths)) - 1)],
        longest=lengths[-1],
        prompts=prompts,
        parity=_parity(tokenizer, kept[0][1], asked[kept[0][0].id]) if kept else None,
        masks=tuple(masks),
    )


def _kept(
    study: Study, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]
) -> list[tuple[Example, Encoded]]:
    """Return the rows that leave room for a response, as training reads them."""
    limit = study.train.max_length
    found = [(e, encode_rows([e], tokenizer, study.template, limit).rows) for e in rows]
    return [(e, row[0]) for e, row in found if row]


def _unknown(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded]) -> int:
    """Return how many tokens stand for what the vocabulary lacks."""
    unknown = tokenizer.unk_token_id
    # GPT-2's relatives call their end-of-sequence token unknown as well, and never write it so.
    if unknown is None or unknown == tokenizer.eos_token_id:
        return 0
    return sum(row.ids.count(unknown) for row in rows)


def encoded(
    study: Study, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]
) -> list[Encoded]:
    """Return rows as the study trains on them; those without room for a response are left out."""
    return list(encode_rows(rows, tokenizer, study.template, study.train.max_length).rows)


def _mean_prompt(
    tokenizer: PreTrainedTokenizerBase, template: str, items: Sequence[Example]
) -> float:
    some = items[:: max(1, len(items) // _PROMPTS)]
    lengths = [
        len(encode_prompt(tokenizer, template, e.instruction, context=e.context)) for e in some
    ]
    return sum(lengths) / len(lengths)


def _parity(
    tokenizer: PreTrainedTokenizerBase, row: Encoded, asked: tuple[int, ...]
) -> tuple[Shown, Shown]:
    trained = row.ids[: row.prompt_length]
    return tuple(
        Shown(title=title, spans=_spans(tokenizer, [("prompt", ids)]), ids=ids)
        for title, ids in (("in training", trained), ("in evaluation", asked))
    )


def _telling(kept: Sequence[tuple[Example, Encoded]]) -> list[tuple[Example, Encoded]]:
    """Return three rows: the first, one that is cut or else the longest, one with a context."""
    if not kept:
        return []
    cut = next((pair for pair in kept if pair[1].truncated), None)
    longest = cut or max(kept, key=lambda pair: len(pair[1].ids))
    context = next((pair for pair in kept if pair[0].context), kept[-1])
    chosen = {pair[0].id: pair for pair in (kept[0], longest, context)}
    chosen |= {pair[0].id: pair for pair in kept[1:4] if len(chosen) < 3}
    return list(chosen.values())[:3]


def _mask(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    row: Encoded,
    whole: Encoded,
    weighing: Weighing,
) -> Shown:
    # One position may be scored behind the text's end (`positions`); it has no token to show.
    scored = weighing.scored(row)
    start = scored.start
    pieces = [
        ("prompt", row.ids[:start]),
        ("scored", row.ids[start:]),
        ("cut", whole.ids[len(row.ids) :]),
    ]
    title = f"row {example.id}: {len(row.ids)} of {len(whole.ids)} tokens kept, "
    return Shown(title=title + f"{len(scored)} scored", spans=_spans(tokenizer, pieces))


def _spans(
    tokenizer: PreTrainedTokenizerBase, pieces: Sequence[tuple[str, tuple[int, ...]]]
) -> tuple[Span, ...]:
    return tuple(
        Span(part=part, text=decode(tokenizer, ids), tokens=len(ids)) for part, ids in pieces if ids
    )


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return ids as text, special tokens included."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
