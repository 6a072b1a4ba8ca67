"""How far a system is from its reference on text of its own, by position: the stage `own_text`.

Both models read what each of them answered to the same items (teacher forcing). At every position
that both answers have, the two distributions are compared on the one text and on the other; what
they differ by more on the system's own text is exposure bias: it goes on from tokens that its
training never showed it. Nothing is sampled.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdstudy.artifacts import ITEMS, OWN_ANSWERS, REFERENCE_ANSWERS, Generations, OwnText, Role
from kdstudy.data.prompts import row_of
from kdstudy.errors import InputError
from kdstudy.evaluation.asking import Asking
from kdstudy.evaluation.kinds import OwnTextConfig
from kdstudy.evaluation.stages import limited
from kdstudy.evaluation.two_models import opened_pair
from kdstudy.records import POSITION_BINS, Generation, OwnTextRow
from kdstudy.stage import Work

SIGNATURE = f"own-text|positions that both answers have|bins:{POSITION_BINS}|nats|version:1"

_MEASURED = ("kl_student_teacher", "kl_teacher_student", "ce_student", "ce_teacher")
_Tokens = Mapping[str, np.ndarray]
_Both = tuple[Generation, Generation]


def own_text(work: Work) -> str:
    """Compare two systems on what each answered: `OwnText`.

    Config: `OwnTextConfig`. Inputs: `ITEMS`, `OWN_ANSWERS`, `REFERENCE_ANSWERS`, and trained models
    as for `token_fidelity`. Of several draws the first is read. A text is read in the tokens that
    its words have, which may be others than it was written in: where their number shows it, it is
    counted.

    Raises:
        InputError: The two have different tokenizers, or a model has no room for a text.
    """
    from kdstudy.evaluation.tokens import token_by_token
    from kdstudy.models import parts

    config = OwnTextConfig.of(work.config)
    student, teacher, tokenizer, width = opened_pair(
        work,
        config.precision,
        what="the distance on a student's own text",
        remedy="set statement.own_text_items: 0",
    )
    answers = _answers(work, config.rows)
    texts = _texts(work, config, tokenizer, answers)
    read = [text for both in texts.values() for text in both]
    found: list[_Tokens] = [dict.fromkeys(_MEASURED, np.zeros(0)) for _ in read]
    if there := [i for i, text in enumerate(read) if len(text.scored)]:
        longest, highest = (max(f(read[i].ids) for i in there) for f in (len, max))
        for model in (student, teacher):
            parts.require_room(model, longest, highest)
        for i, tokens in token_by_token(
            student, teacher, [read[i] for i in there], width, work.progress
        ):
            found[there[i]] = {name: tokens[name] for name in _MEASURED}
    pairs = zip(texts, found[::2], found[1::2], strict=True)
    rows = [row(config.items, name, own, theirs) for name, own, theirs in pairs]
    made = OwnText(work.out)
    made.rows.write(rows)
    facts = summary(rows) | {"retokenised": _retokenised(config, answers, texts), "width": width}
    made.facts.write(facts | {"signature": SIGNATURE})
    return _said(facts)


def row(benchmark: str, example_id: str, own: _Tokens, theirs: _Tokens) -> OwnTextRow:
    """Return the sums of one item.

    Args:
        benchmark: Its benchmark.
        example_id: The item.
        own: Of each token of the system's answer what is measured of it, by name.
        theirs: The same of its reference's answer.
    """
    lengths = [len(tokens["ce_student"]) for tokens in (own, theirs)]
    both = min(lengths)
    bins = np.searchsorted(POSITION_BINS, np.arange(1, both + 1))
    count = len(POSITION_BINS) + 1
    sums = {
        f"{whose}_{name}": tuple(np.bincount(bins, tokens[name][:both], count).tolist())
        for whose, tokens in (("own", own), ("reference", theirs))
        for name in _MEASURED
    }
    return OwnTextRow(
        benchmark=benchmark,
        example_id=example_id,
        own_length=lengths[0],
        reference_length=lengths[1],
        tokens=tuple(np.bincount(bins, minlength=count).tolist()),
        **sums,
    )


def summary(rows: Sequence[OwnTextRow]) -> dict[str, Any]:
    """Return counts, and KL(S || T) in nats per token on either text; None of no tokens.

    `empty` are pairs of which an answer was cut before its first token.
    """
    tokens = sum(sum(r.tokens) for r in rows)
    means = {
        whose: sum(sum(getattr(r, f"{whose}_kl_student_teacher")) for r in rows) / tokens
        if tokens
        else None
        for whose in ("own", "reference")
    }
    lengths = {f"{w}_tokens": sum(getattr(r, f"{w}_length") for r in rows) for w in means}
    empty = sum(not sum(r.tokens) for r in rows)
    return {"pairs": len(rows), "empty": empty, "tokens": tokens, **means, **lengths}


def _said(facts: Mapping[str, Any]) -> str:
    if not facts["tokens"]:
        return f"{facts['pairs']} pairs of answers, which have no token to compare"
    other = facts["retokenised"]
    return (
        f"{facts['pairs']} pairs of answers, {facts['tokens']} positions: KL(S||T) "
        f"{facts['own']:.4f} nats on its own text, {facts['reference']:.4f} on its reference's"
        + (f"; {other} texts were written in other tokens than they are read in" if other else "")
    )


def _answers(work: Work, count: int) -> dict[str, _Both]:
    """Return both systems' first answer to each of the items, by item."""
    items = limited(work.read(ITEMS).examples.read(), count)
    own, theirs = (_first_draws(work, role) for role in (OWN_ANSWERS, REFERENCE_ANSWERS))
    return {e.id: (own[e.id], theirs[e.id]) for e in items}


def _first_draws(work: Work, role: Role[Generations]) -> dict[str, Generation]:
    return {g.example_id: g for g in work.read(role).rows.read() if g.sample == 0}


def _texts(
    work: Work, config: OwnTextConfig, tokenizer: Any, answers: Mapping[str, _Both]
) -> dict[str, tuple[Any, Any]]:
    """Return both answers behind their prompt as the models read them."""
    asking = Asking.of(config.asking)
    if asking.endings.thinking:
        raise InputError(
            f"{config.items}: its answers hold thoughts, whose marks would be read as words",
            why="an answer is read again from its text",
            remedy="set statement.own_text_items: 0",
        )
    made = asking.format(config.format())
    asked = {e.id: asking.put(e) for e in work.read(ITEMS).examples.read() if e.id in answers}
    found = {}
    for name, both in answers.items():
        texts = []
        for text, kind in (answer.written for answer in both):
            # Behind a stop string the model wrote no end of its own.
            written = text, "cut" if asking.endings.stop else kind
            where = f"{config.items} {name}"
            texts.append(
                row_of(tokenizer, made, asked[name], sys.maxsize, written=written, where=where)
            )
        found[name] = texts[0], texts[1]
    return found


def _retokenised(
    config: OwnTextConfig, answers: Mapping[str, _Both], texts: Mapping[str, tuple[Any, Any]]
) -> int | None:
    """Return how many texts have another number of tokens than they were written in.

    None where texts end at a stop string, whose tokens are not read.
    """
    if Asking.of(config.asking).endings.stop:
        return None
    pairs = [zip(answers[name], both, strict=True) for name, both in texts.items()]
    return sum(len(text.scored) != given.tokens for pair in pairs for given, text in pair)
