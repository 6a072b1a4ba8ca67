"""A teacher with another tokenizer: its own rows, and where their tokens meet the student's.

Shapes: N scored tokens of the student, M of the teacher, G spans, K the teacher's hidden width.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdstudy.data.alignment import (
    Alignment,
    Span,
    align_rows,
    align_written,
    covered,
    require_covered,
)
from kdstudy.data.prompts import Encoded, PromptFormat, answered, called, encode, row_of
from kdstudy.data.spelling import Spelling, shared, spelling
from kdstudy.distill import batches
from kdstudy.distill.batches import Batch, Weighing
from kdstudy.distill.model import Teacher
from kdstudy.distill.span_loss import Side, Vocabularies
from kdstudy.errors import StageError
from kdstudy.methods.objective import Recipe
from kdstudy.records import Example


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A row in both tokenizations.

    Attributes:
        teacher: The row in the teacher's tokens; None where its prompt leaves no room, or where
            it cannot read what the student wrote.
        alignment: Where the two meet.
    """

    teacher: Encoded | None
    alignment: Alignment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """A student's and a teacher's, and how both put text into ids."""

    student: PreTrainedTokenizerBase
    teacher: PreTrainedTokenizerBase
    template: PromptFormat
    max_length: int

    def pairs(
        self, examples: Iterable[Example], places: Mapping[str, str], names: str
    ) -> dict[Encoded, Pair]:
        """Return rows as both read them, by the student's; those without room are left out.

        Args:
            examples: Corpus rows.
            places: Where each stands in its file, for a refusal.
            names: What messages call the two models.

        Raises:
            InputError: Nothing tells what a tokenizer's tokens stand for, the template cannot
                render a row, or the two hardly meet.
        """
        ours, theirs = self.spellings
        found: dict[Encoded, Pair] = {}
        for example in examples:
            mine, other = (
                row_of(
                    tokenizer,
                    self.template,
                    example,
                    self.max_length,
                    where=called(example, places),
                )
                for tokenizer in (self.student, self.teacher)
            )
            if mine is not None:
                found[mine] = Pair(other, align_rows(mine, other, ours, theirs))
        require_covered([pair.alignment for pair in found.values()], names)
        return found

    def written(self, row: Encoded, pair: Pair, made: Encoded) -> Pair:
        """Return a row with an answer of the student's own as both read it.

        Args:
            row: The corpus's row.
            pair: It and its teacher's.
            made: It with the student's answer.
        """
        ours, theirs = self.spellings
        said, other = made.ids[made.prompt_length :], pair.teacher
        # A text that the token limit cut has no end, on either side.
        ended = bool(said) and said[-1] in ours.ends
        # Of a conversation that is too long, each side keeps the turns that it has room for.
        if other is not None and len(other.spans) == len(row.spans):
            text = ours.text(said[: len(said) - ended])
            if ended:
                text = text.removesuffix(self._closing)
            how = (self.teacher, self.template, other, text, self.max_length)
            other = answered(*how, ended=ended)
        else:
            other = None
        return Pair(other, align_written(made, other, ours, theirs))

    @functools.cached_property
    def _closing(self) -> str:
        """What the student's template writes between an answer and the token that ends it."""
        if self.template.chosen(self.student) != "chat":
            return ""
        ending = self.template.voice(self.student).ending
        return ending.closing.removesuffix(ending.token)

    @property
    def spellings(self) -> tuple[Spelling, Spelling]:
        """What the tokens of both stand for."""
        return spelling(self.student), spelling(self.teacher)

    def aligned(
        self, teacher: Teacher, pairs: Mapping[Encoded, Pair], method: Recipe
    ) -> "AlignedTeacher":
        """Return the teacher as a student learns from it.

        Args:
            teacher: The teacher over its own vocabulary, live or from its cache.
            pairs: From `pairs`.
            method: Says how spans are compared.
        """
        ours, theirs = self.spellings
        both = () if method.objective.divergence is None else self.shared()
        device = teacher.head.weight.device
        return AlignedTeacher(
            teacher,
            pairs,
            width=ours.entries,
            vocabularies=_vocabularies(both, ours, theirs, method, device),
            merge=method.spans.merge,
            tokenizers=self,
        )

    def shared(self) -> tuple[tuple[int, int], ...]:
        """Return (student's id, teacher's id) of every token that both have."""
        # What ends an answer is asked of a row: a template may have a token of its own.
        ends = [
            encode(tokenizer, self.template, "a", "b", 10**9).ids[-1]
            for tokenizer in (self.student, self.teacher)
        ]
        return shared(*self.spellings, (ends[0], ends[1]))


class AlignedTeacher:
    """A teacher that reads every row in its own tokens.

    Args:
        teacher: The teacher over its own vocabulary, live or from its cache.
        pairs: Rows as both read them.
        width: Entries of the student's output layer that stand for tokens.
        vocabularies: Which entries both share.
        merge: What masses a span of several tokens has (`objective.Spans`).
        tokenizers: Read text that the student writes; None where it writes none.

    Attributes:
        head: The teacher's head.

    Its methods raise a StageError for a row that was not aligned.
    """

    def __init__(
        self,
        teacher: Teacher,
        pairs: Mapping[Encoded, Pair],
        *,
        width: int,
        vocabularies: Vocabularies,
        merge: str,
        tokenizers: Tokenizers | None = None,
    ):
        self._teacher, self._pairs, self._merge = teacher, pairs, merge
        self._tokenizers = tokenizers
        self._written: dict[Encoded, Pair] = {}
        self.head, self.width, self.vocabularies = teacher.head, width, vocabularies

    def read(self, rows: Sequence[Encoded], made: Sequence[Encoded]) -> tuple[int, int]:
        """Read what the student wrote in a step, and forget what it wrote before.

        Args:
            rows: The corpus's rows.
            made: The same with the student's answers.

        Returns:
            The student's tokens in these answers, ends included, and how many are compared.
        """
        assert self._tokenizers is not None, "a student that writes"
        both = zip(rows, self._found(rows), made, strict=True)
        pairs = [self._tokenizers.written(row, pair, new) for row, pair, new in both]
        self._written = dict(zip(made, pairs, strict=True))
        compared = [span.student for pair in pairs for span in pair.alignment.compared]
        return sum(len(row.scored) for row in made), sum(b - a for a, b in compared)

    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at its own scored positions, [M, K]."""
        theirs = self._theirs(batch)
        if theirs is None:
            weight = self.head.weight
            return weight.new_zeros(0, weight.shape[1])
        return self._teacher.hidden(theirs)

    def sides(self, batch: Batch) -> tuple[Side, Side, Tensor]:
        """Return both sides of a batch's spans, and the weight of each span, [G]."""
        theirs, spans = self._theirs(batch), []
        a = b = 0
        for row, pair in zip(batch.texts, self._found(batch.texts), strict=True):
            spans += [span.moved(a, b) for span in pair.alignment.compared]
            a += len(row.scored)
            b += 0 if pair.teacher is None else len(pair.teacher.scored)
        student = _side([span.student for span in spans], batch.targets_N, self._merge)
        targets_M = batch.targets_N[:0] if theirs is None else theirs.targets_N
        teacher = _side([span.teacher for span in spans], targets_M, self._merge)
        return student, teacher, batch.weights_N[student.at_G]

    def _theirs(self, batch: Batch) -> Batch | None:
        """Return the batch in the teacher's tokens, rows without room left out."""
        rows = [pair.teacher for pair in self._found(batch.texts) if pair.teacher is not None]
        return batches.collate(rows, Weighing(), batch.ids_T.device) if rows else None

    def _found(self, rows: Sequence[Encoded]) -> list[Pair]:
        lost = [row for row in rows if row not in self._pairs and row not in self._written]
        if lost:
            raise StageError(
                f"{len(lost)} of {len(rows)} rows have no alignment with the teacher's",
                why="a teacher of another tokenizer is asked about the corpus's rows, and about "
                "what the student wrote in their place",
                remedy="give the trainer the rows that the teacher was aligned on",
            )
        # The corpus's first: a resumed run has forgotten what was written.
        return [self._pairs.get(row) or self._written[row] for row in rows]


def _side(ranges: list[tuple[int, int]], targets_N: Tensor, merge: str) -> Side:
    at, rest, number = [], [], []
    for n, (start, stop) in enumerate(ranges):
        one = start if merge == "observed" else stop - 1
        others = [i for i in range(start, stop) if i != one]
        at.append(one)
        rest += others
        number += [n] * len(others)
    made = [torch.tensor(x, dtype=torch.long, device=targets_N.device) for x in (at, rest, number)]
    return Side(at_G=made[0], rest_R=made[1], targets_R=targets_N[made[1]], spans_R=made[2])


def _vocabularies(
    both: Iterable[tuple[int, int]],
    ours: Spelling,
    theirs: Spelling,
    method: Recipe,
    device: torch.device,
) -> Vocabularies:
    pairs = list(both)
    weight = method.spans.matched_weight
    if method.objective.divergence is None:
        weight = 0.0
    elif weight is None:
        weight = len(pairs) / len(theirs.tokens)
    mine, other = {a for a, _ in pairs}, {b for _, b in pairs}
    ids = (
        [a for a, _ in pairs],
        [b for _, b in pairs],
        [i for i in sorted(ours.tokens) if i not in mine],
        [i for i in sorted(theirs.tokens) if i not in other],
    )
    tensors = [torch.tensor(some, dtype=torch.long, device=device) for some in ids]
    return Vocabularies(
        ours_S=tensors[0],
        theirs_S=tensors[1],
        only_ours=tensors[2],
        only_theirs=tensors[3],
        weight=weight,
    )


def said_of(pairs: Mapping[Encoded, Pair]) -> str:
    """Return what a stage's line says of an alignment."""
    alignments = [pair.alignment for pair in pairs.values()]
    spans: list[Span] = [span for a in alignments for span in a.compared]
    tokens = sum(span.student[1] - span.student[0] for span in spans)
    return (
        f"; {covered(alignments):.1%} of the text compared, in spans of "
        f"{tokens / max(1, len(spans)):.2f} of the student's tokens"
    )
