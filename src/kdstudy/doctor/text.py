"""The corpus as a tokenizer reads it: what is cut, what is scored, and one prompt both ways."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdstudy.config.schema import Study
from kdstudy.data import chat
from kdstudy.data.prompts import BARE, Encoded, PromptFormat, asked, called, encode_prompt, row_of
from kdstudy.doctor.facts import TextFacts
from kdstudy.doctor.findings import Shown, Span
from kdstudy.errors import InputError
from kdstudy.evaluation.asking import Asking
from kdstudy.records import Example

if TYPE_CHECKING:
    from kdstudy.distill.rows import Rows

# Rows that are encoded: enough for a share of 1% to be told from one of 2%.
ROWS = 5000
_NO_LIMIT = 10**9
_AS_IT_IS = Asking()
_ASKED_PLAINLY: Mapping[str, Asking] = {}


def read(
    study: Study,
    tokenizer: Any,
    models: Sequence[str],
    rows: Sequence[Example],
    benchmarks: Mapping[str, Sequence[Example]],
    places: Mapping[str, str] | None = None,
    asking: Mapping[str, Asking] = _ASKED_PLAINLY,
) -> TextFacts:
    """Encode rows as training and evaluation do, and count what becomes of them.

    Args:
        study: Says template, `max_length` and what is scored.
        tokenizer: One of some models that read alike.
        models: Their names.
        rows: Corpus rows; the first `ROWS` are encoded.
        benchmarks: Items by benchmark.
        places: Where each row stands in its file, by its id.
        asking: What is asked beside the study's prompt, by benchmark.
    """
    from kdstudy.distill.batches import Weighing

    made = prompt_format(study)
    whole, refusals = _whole(made, tokenizer, rows[:ROWS], places or {})
    rows = [e for e in rows[:ROWS] if e.id in whole]
    kept = _kept(study, tokenizer, rows)
    prompted = {e.id: prompt(study, tokenizer, e) for e in rows}
    weighing = Weighing(loss_tokens=study.train.loss_tokens)
    lengths = sorted(len(row.ids) for row in whole.values())
    masks = [
        _mask(tokenizer, e, row, whole[e.id], weighing.scored(row)) for e, row in _telling(kept)
    ]
    prompts = {
        name: tuple(
            len(prompt(study, tokenizer, e, f"{name} {e.id}", asking.get(name, _AS_IT_IS)))
            for e in items[:ROWS]
        )
        for name, items in benchmarks.items()
    }
    return TextFacts(
        models=tuple(models),
        rows=len(rows) + len(refusals),
        cut=sum(row.truncated for _, row in kept),
        dropped=len(rows) - len(kept),
        unknown=_unknown(tokenizer, list(whole.values())),
        tokens=sum(len(row.ids) for _, row in kept),
        scored=sum(len(weighing.scored(row)) for _, row in kept),
        refused=len(refusals),
        refusal=refusals[0] if refusals else None,
        written=0 if study.template == BARE else _writing(tokenizer, rows),
        prompt_mismatches=sum(
            row.ids[: row.prompt_length] != prompted[e.id]
            for e, row in kept
            # A conversation that is too long is learnt up to an earlier answer.
            if row.prompt_length == whole[e.id].prompt_length
        ),
        needed=lengths[max(0, math.ceil(0.99 * len(lengths)) - 1)] if lengths else 0,
        longest=lengths[-1] if lengths else 0,
        lengths=tuple(lengths),
        asked=tuple(map(len, prompted.values())),
        prompts=prompts,
        parity=_parity(tokenizer, kept[0][1], prompted[kept[0][0].id]) if kept else None,
        masks=tuple(masks),
    )


def prompt_format(study: Study) -> PromptFormat:
    """Return how the study makes prompts."""
    return PromptFormat(
        template=study.template,
        arguments=study.template_arguments,
        loss_turns=study.train.loss_turns,
    )


def prompt(
    study: Study,
    tokenizer: Any,
    example: Example,
    where: str = "",
    asking: Asking = _AS_IT_IS,
) -> tuple[int, ...]:
    """Return the ids that a model is asked an example in; `where` names it in a refusal.

    Of an item of lm-evaluation-harness whose options are scored, those of its longest text.
    """
    request = json.loads(example.request or "{}")
    if "options" in request:
        texts = (context + continuation for context, continuation, _ in request["options"])
        return tuple(tokenizer.encode(max(texts, key=len)))
    question, made = asked(asking.put(example))[0], asking.format(prompt_format(study))
    return encode_prompt(tokenizer, made, **question, where=where)


def _whole(
    made: PromptFormat,
    tokenizer: Any,
    rows: Sequence[Example],
    places: Mapping[str, str],
) -> tuple[dict[str, Encoded], list[InputError]]:
    """Return rows without a limit on their length, and what is said of those that are refused."""
    found: dict[str, Encoded] = {}
    refusals: list[InputError] = []
    for example in rows:
        try:
            where = called(example, places)
            found[example.id] = row_of(tokenizer, made, example, _NO_LIMIT, where=where)
        except InputError as e:
            refusals.append(e)
    return found, refusals


def _writing(tokenizer: Any, rows: Sequence[Example]) -> int:
    """Return how many rows write control tokens out, an end at the end of an answer aside."""
    voice = chat.voice(tokenizer, {})
    texts = ((e.chat or f"{e.question} {voice.unended(e.response)}") for e in rows)
    return sum(bool(voice.control.search(text)) for text in texts)


def _kept(study: Study, tokenizer: Any, rows: Sequence[Example]) -> list[tuple[Example, Encoded]]:
    """Return the rows that leave room for a response, as training reads them."""
    limit = study.train.max_length
    made = prompt_format(study)
    found = [(e, row_of(tokenizer, made, e, limit)) for e in rows]
    return [(e, row) for e, row in found if row]


def _unknown(tokenizer: Any, rows: Sequence[Encoded]) -> int:
    """Return how many tokens stand for what the vocabulary lacks."""
    unknown = tokenizer.unk_token_id
    # GPT-2's relatives call their end-of-sequence token unknown as well, and never write it so.
    if unknown is None or unknown == tokenizer.eos_token_id:
        return 0
    return sum(row.ids.count(unknown) for row in rows)


def encoded(study: Study, tokenizer: Any, rows: Sequence[Example]) -> "Rows":
    """Return rows as the study trains on them; those that the template refuses are left out."""
    from kdstudy.distill.rows import encode_rows

    made, limit = prompt_format(study), study.train.max_length
    rows = [e for e in rows if e.id in _whole(made, tokenizer, [e], {})[0]]
    return encode_rows(rows, tokenizer, made, limit)


def _parity(tokenizer: Any, row: Encoded, asked: tuple[int, ...]) -> tuple[Shown, Shown]:
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
    tokenizer: Any,
    example: Example,
    row: Encoded,
    whole: Encoded,
    scored: Sequence[int],
) -> Shown:
    # One position may be scored behind the text's end (`positions`); it has no token to show.
    parts = ["prompt"] * len(row.ids) + ["cut"] * (len(whole.ids) - len(row.ids))
    for i in scored:
        if i < len(row.ids):
            parts[i] = "scored"
    starts = [i for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    stops = [*starts[1:], len(parts)]
    ids = row.ids + whole.ids[len(row.ids) :]
    pieces = [(parts[a], ids[a:b]) for a, b in zip(starts, stops, strict=True)]
    title = f"row {example.id}: {len(row.ids)} of {len(whole.ids)} tokens kept, "
    shown = _spans(tokenizer, pieces, apart=True)
    return Shown(title=title + f"{len(scored)} scored", spans=shown)


def _spans(
    tokenizer: Any,
    pieces: Sequence[tuple[str, tuple[int, ...]]],
    apart: bool = False,
) -> tuple[Span, ...]:
    ends = {tokenizer.eos_token_id, *chat.end_ids(tokenizer)}
    return tuple(
        Span(
            part=part,
            text=decode(tokenizer, ids),
            tokens=len(ids),
            pieces=tuple(decode(tokenizer, [i]) for i in ids) if apart else (),
            ends=apart and part == "scored" and ids[-1] in ends,
        )
        for part, ids in pieces
        if ids
    )


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return ids as text, special tokens included."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
