"""Which of a teacher's drafts a student learns: the stages `draft_likelihood` and `chosen_text`."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kdstudy.answers.gold import gold
from kdstudy.artifacts import (
    ATTEMPTS,
    CORPUS,
    DRAFT_LIKELIHOODS,
    DRAFTS,
    PROMPTS,
    TRAINED,
    Chosen,
    DraftLikelihoods,
)
from kdstudy.data.prompts import called, row_of
from kdstudy.errors import StageError
from kdstudy.evaluation.kinds import ChosenTextConfig, DraftLikelihoodConfig
from kdstudy.records import ChosenText, DraftLikelihood, Example, Generation, content_id
from kdstudy.stage import Work

Likely = Mapping[tuple[str, int], float]
"""Mean log-probability of a draft's tokens, by the row's id and the draft's number."""


def draft_likelihood(work: Work) -> str:
    """Ask the teacher how likely its drafts are: `DraftLikelihoods`.

    Config: `DraftLikelihoodConfig`. Inputs: `PROMPTS`, `DRAFTS`, and `TRAINED` as for `generate`.
    A draft is tokenised as the student would learn it, which may differ from how it was sampled.
    """
    from kdstudy.evaluation.likelihoods import of_texts
    from kdstudy.models.load import open_model, open_tokenizer
    from kdstudy.models.writing import opened_to_write

    config, corpus = DraftLikelihoodConfig.of(work.config), work.read(PROMPTS)
    local, trained = work.model("model"), work.find(TRAINED)
    tokenizer, made = open_tokenizer(local), config.format()
    examples, places = {e.id: e for e in corpus.all_rows()}, corpus.places
    drafts = [d for d in work.read(DRAFTS).rows.read() if d.written[0].strip()]
    texts = []
    for draft in drafts:
        example = examples[draft.example_id]
        where = called(example, places)
        text = row_of(tokenizer, made, example, sys.maxsize, written=draft.written, where=where)
        assert text is not None, "a text that is not empty, and no limit"
        texts.append(text)
    model, _ = opened_to_write(lambda: open_model(local, config.precision, trained))
    sums = of_texts(model, texts, work.progress)
    DraftLikelihoods(work.out).rows.write(
        DraftLikelihood(
            example_id=draft.example_id,
            sample=draft.sample,
            logprob=logprob,
            tokens=len(text.scored),
        )
        for draft, text, logprob in zip(drafts, texts, sums, strict=True)
    )
    return f"{len(drafts)} drafts, {sum(len(text.scored) for text in texts)} tokens"


def chosen_text(work: Work) -> str:
    """Choose what is learnt in each corpus row's place: `Chosen`.

    Config: `ChosenTextConfig`. Inputs: `CORPUS`, `DRAFTS`, `DRAFT_LIKELIHOODS` where the
    likeliest is chosen, and `ATTEMPTS` where only rows that the student fails are rewritten.

    Raises:
        InputError: A row has no answer, or one that no rule reads, and texts are judged by it.
        StageError: Too few rows have a draft that is kept, none is left, or the student fails none.
    """
    config, corpus = ChosenTextConfig.of(work.config), work.read(CORPUS)
    drafts: dict[str, list[Generation]] = {}
    for row in work.read(DRAFTS).rows.read():
        drafts.setdefault(row.example_id, []).append(row)
    likely = None
    if (found := work.find(DRAFT_LIKELIHOODS)) is not None:
        likely = {(d.example_id, d.sample): d.logprob / d.tokens for d in found.rows.read()}
    known: set[str] = set()
    if config.rows == "failed":
        attempts = {row.example_id: row for row in work.read(ATTEMPTS).rows.read()}
        known = answered(corpus.train.read(), attempts, config)
    rows, facts = [], {}
    for part in ("train", "validation"):
        examples = corpus.part(part).read()
        rows += (own := choose(examples, drafts, config, likely, known))
        facts[part] = account(own, sum(len(drafts[e.id]) for e in examples))
    facts["all"] = {
        name: facts["train"][name] + facts["validation"][name] for name in facts["train"]
    }
    if config.rows == "failed":
        facts["train"] |= account_of_failed(rows[: facts["train"]["rows"]])
    _require_enough(facts, config)
    made = Chosen(work.out)
    made.rows.write(rows)
    made.facts.write(facts)
    return said(facts, config.keep)


def answered(
    examples: Sequence[Example], attempts: Mapping[str, Generation], config: ChosenTextConfig
) -> set[str]:
    """Return the ids of the rows that the student answers right, graded as drafts are.

    Args:
        examples: Training rows.
        attempts: The student's answer by the row's id.
        config: Says how answers are read.

    Raises:
        InputError: As `chosen_text`.
    """
    return {e.id for e in examples if _right(e, [attempts[e.id]], config)}


def choose(
    examples: Sequence[Example],
    drafts: Mapping[str, Sequence[Generation]],
    config: ChosenTextConfig,
    likely: Likely | None = None,
    known: Collection[str] = (),
) -> list[ChosenText]:
    """Return what is learnt of each row.

    Args:
        examples: Rows of one split of the corpus.
        drafts: What the teacher wrote, by the row's id, in the order of its drafts.
        config: Which drafts are kept and which of them is learnt; see `methods.SeqKD`.
        likely: Where the likeliest is chosen.
        known: Ids of rows that are not rewritten: the student answers them right.

    Raises:
        InputError: As `chosen_text`.
    """
    # By content alone: a larger share holds all rows of a smaller one.
    order = sorted(examples, key=lambda e: content_id("corpus_share", e.id))
    given = {e.id for e in order[: round(config.corpus_share * len(order))]}
    found = []
    for example in examples:
        kept = [d for d in drafts[example.id] if d.written[0].strip()]
        if config.keep == "right":
            kept = _right(example, kept, config)
        own = {"example_id": example.id, "kept": len(kept)}
        if example.id in known:
            found.append(ChosenText(**own, source="known"))
        elif example.id in given or (not kept and config.otherwise == "corpus"):
            found.append(ChosenText(**own, source="corpus"))
        elif not kept:
            found.append(ChosenText(**own, source="none"))
        else:
            first = min(kept, key=lambda d: _rank(d, likely))
            text = {k: getattr(first, k) for k in ("sample", "completion", "stop", "tokens")}
            found.append(ChosenText(**own, source="teacher", **text))
    return found


def account(rows: Sequence[ChosenText], drafts: int) -> dict[str, int]:
    """Return what became of some rows and of the `drafts` of them, in counts.

    Returns:
        `rows`, `drafts`, `kept` drafts, rows `with_draft` that is kept, and rows that learn the
        `teacher`'s text, the `corpus`'s, and none (`left_out`).
    """
    sources = [row.source for row in rows]
    return {
        "rows": len(rows),
        "drafts": drafts,
        "kept": sum(row.kept for row in rows),
        "with_draft": sum(row.kept > 0 for row in rows),
        "teacher": sources.count("teacher"),
        "corpus": sources.count("corpus") + sources.count("known"),
        "left_out": sources.count("none"),
    }


def account_of_failed(rows: Sequence[ChosenText]) -> dict[str, int]:
    """Return how many training rows the student `failed`, and how many of these have a draft."""
    failed = [row for row in rows if row.source != "known"]
    return {
        "failed": len(failed),
        "failed_with_draft": sum(row.kept > 0 for row in failed),
    }


def said(found: Mapping[str, Mapping[str, int]], keep: str) -> str:
    """Say what was counted in a line.

    Args:
        found: By part of the corpus, and of `all`.
        keep: Which drafts were kept.
    """
    what = "right" if keep == "right" else "not empty"
    facts, train, failed = found["all"], found["train"], ""
    if "failed" in train:
        share = 100 * train["failed"] / train["rows"]
        failed = (
            f"; the student fails {train['failed']} of {train['rows']} training rows "
            f"({share:.1f}%), {train['failed_with_draft']} of which have a draft that is kept and "
            f"{train['teacher']} are rewritten"
        )
    return (
        f"{facts['kept']} of {facts['drafts']} drafts are {what}; {facts['with_draft']} of "
        f"{facts['rows']} rows ({100 * facts['with_draft'] / facts['rows']:.1f}%) have such a "
        f"draft; learnt: the teacher's text of {facts['teacher']} rows, the corpus's of "
        f"{facts['corpus']}; {facts['left_out']} left out{failed}"
    )


def _rank(draft: Generation, likely: Likely | None) -> tuple[Any, ...]:
    likelihood = 0.0 if likely is None else likely[draft.example_id, draft.sample]
    return draft.stop != "eos", -likelihood, draft.sample


def _right(
    example: Example, drafts: Sequence[Generation], config: ChosenTextConfig
) -> list[Generation]:
    """Return the texts whose answer is the row's, as a benchmark's answers are graded."""
    own = gold(
        example,
        f"corpus row {example.id}",
        labels=config.labels,
        rule=config.rule,
        needed="whether texts are right decides what is learnt",
        otherwise="keep: all and rows: all",
    )
    return [d for d in drafts if own.right(d.completion, cut=d.stop == "length")]


def _require_enough(facts: Mapping[str, Mapping[str, int]], config: ChosenTextConfig) -> None:
    whole, train = facts["all"], facts["train"]
    having, rows, which = whole["with_draft"], whole["rows"], "rows"
    if "failed" in train:
        having, rows = train["failed_with_draft"], train["failed"]
        which = "training rows that the student fails"
    if not rows and config.least_kept:
        raise StageError(
            f"the student fails none of the {train['rows']} training rows",
            why="nothing is left for the teacher to rewrite: it would learn the corpus under the "
            "teacher's name",
            remedy="write rows: all, take harder rows, or least_kept: 0 to accept it",
        )
    if having < config.least_kept * rows:
        raise StageError(
            f"{having} of {rows} {which} ({100 * having / rows:.1f}%) have a draft that is kept",
            why=f"less than least_kept {config.least_kept:g}: the student would learn from what "
            "little the teacher can do, or from the corpus under the teacher's name",
            remedy="raise drafts, take a teacher that can do the task (epochs, finetune), write "
            "keep: all, or lower least_kept to accept it",
        )
    for part in ("train", "validation"):
        if facts[part]["left_out"] == facts[part]["rows"]:
            raise StageError(
                f"none of the {facts[part]['rows']} {part} rows has a draft that is kept",
                why="nothing would be left to learn from, or to choose checkpoints on",
                remedy="write otherwise: corpus, raise drafts, or take more rows",
            )
