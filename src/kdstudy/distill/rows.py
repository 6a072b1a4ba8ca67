"""Text -> training rows: a study's corpus, or a dataset in the formats of TRL."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdstudy.answers.extract import Rule
from kdstudy.answers.gold import Gold, gold
from kdstudy.data.formats import REMEDY, to_example
from kdstudy.data.prompts import BARE, Encoded, PromptFormat, called, row_of, told
from kdstudy.errors import InputError, StageError
from kdstudy.methods.objective import Judging
from kdstudy.records import Example, Generation

Golds = Callable[[Example, str], Gold]
"""Returns a row's right answer, given what a refusal calls the row."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of a part of a corpus; attributes as in `Rows`, and `kept`, its rows."""

    kept: int
    truncated: int
    dropped: int
    empty: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Training text as the student sees it.

    Attributes:
        rows: Encoded rows.
        truncated: How many lost their end at max_length.
        unended: How many the teacher did not end within its token budget.
        dropped: How many could not be used: no room for a response, or nothing to learn.
        empty: How many of those hold nothing to learn, or have nothing written for them.
        numbers: Each row's place in the dataset it came from, counted from 0.
    """

    rows: tuple[Encoded, ...]
    truncated: int
    unended: int
    dropped: int
    numbers: tuple[int, ...] = ()
    empty: int = 0

    @property
    def counts(self) -> Counts:
        """How many rows are kept, cut and lost."""
        return Counts(
            kept=len(self.rows), truncated=self.truncated, dropped=self.dropped, empty=self.empty
        )


def encode_rows(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: str | PromptFormat,
    max_length: int,
    teacher_text: Mapping[str, Generation | None] | None = None,
    places: Mapping[str, str] | None = None,
    context: str = "",
    golds: Golds | None = None,
) -> Rows:
    """Return examples as training rows, with the teacher's text in the response's place if given.

    A teacher's empty text teaches nothing and is dropped. One that hit its token budget is kept
    without an end: to end it there would teach the student to stop mid-sentence. Both are counted.
    Of a conversation a teacher writes the last answer, and that alone is learnt then.

    Args:
        examples: Corpus rows.
        tokenizer: The student's.
        template: How prompts are made.
        max_length: Limit on tokens of prompt and response.
        teacher_text: Teacher's text by example id, None where the corpus's own is learnt; None
            trains on the corpus.
        places: Where each row stands in its file, by example id, for a refusal.
        context: What the teacher reads in the instruction's place; empty for the same.
        golds: Returns a row's right answer, where the method asks for it.

    Raises:
        InputError: The template cannot render a row, there is no place in it for the context, or
            its right answer is not known.
        StageError: The teacher wrote nothing for an example.
    """
    rows: list[Encoded] = []
    truncated = unended = dropped = empty = 0
    for example in examples:
        written, where = None, called(example, places or {})
        if teacher_text is not None:
            if example.id not in teacher_text:
                raise StageError(
                    f"the teacher's text has no row for corpus row {example.id}",
                    why="the student would be trained on fewer rows than the other methods",
                    remedy="generate the teacher's text for this corpus again",
                )
            made = teacher_text[example.id]
            written = made and made.written
        row = None
        if written is None or written[0].strip():
            row = row_of(tokenizer, template, example, max_length, written=written, where=where)
            if row is not None and context:
                told_ids = told(tokenizer, template, context, example, where)
                row = dataclasses.replace(row, told=told_ids)
        if row is None:
            dropped += 1
            empty += written is not None and not written[0].strip()
            continue
        if golds is not None:
            row = dataclasses.replace(row, gold=golds(example, where))
        truncated += row.truncated
        unended += written is not None and written[1] == "cut"
        rows.append(row)
    return Rows(
        rows=tuple(rows), truncated=truncated, unended=unended, dropped=dropped, empty=empty
    )


def encode_dataset(
    dataset: Iterable[Mapping[str, Any]] | Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chats: PromptFormat | None = None,
    golds: Golds | None = None,
) -> Rows:
    """Return a dataset's rows.

    A row is in one of the layouts of `data.formats`. Conversations go through the tokenizer's chat
    template, which ends every turn; behind a text comes one end-of-sequence token. A row in which
    there is nothing to learn is counted as dropped. Rows that are encoded already pass as they are.

    Args:
        dataset: A `datasets.Dataset`, or anything that yields such rows.
        tokenizer: The student's.
        max_length: Limit on tokens of prompt and completion.
        chats: Arguments of the chat template, and which turns of a conversation are learnt.
        golds: Returns a row's right answer, where the method asks for it.

    Raises:
        InputError: A row has another format, there is no chat template, or it cannot render a row.
    """
    if isinstance(dataset, Mapping | str):
        names = f" of {', '.join(map(str, dataset))}" if isinstance(dataset, Mapping) else ""
        raise InputError(
            f"the dataset is a {type(dataset).__name__}{names}, not rows",
            remedy='choose one split, such as load_dataset(...)["train"]',
        )
    rows: dict[int, Encoded] = {}
    truncated = dropped = empty = 0
    for number, given in enumerate(dataset):
        row = given
        if not isinstance(row, Encoded):
            example = _example(given, f"row {number}")
            empty += example is None
            row = example and _encode_one(given, example, tokenizer, max_length, number, chats)
            if row is not None and golds is not None:
                row = dataclasses.replace(row, gold=golds(example, f"row {number}"))
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        rows[number] = row
    return Rows(
        rows=tuple(rows.values()),
        truncated=truncated,
        unended=0,
        dropped=dropped,
        numbers=tuple(rows),
        empty=empty,
    )


def read_dataset(
    name: str,
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_truncated_share: float,
    chats: PromptFormat | None = None,
    golds: Golds | None = None,
) -> Rows:
    """Return a dataset's rows as `encode_dataset` does, none for None, and say what was lost.

    Raises:
        InputError: A row has another format, or too many do not fit.
    """
    if dataset is None:
        return Rows(rows=(), truncated=0, unended=0, dropped=0)
    found = encode_dataset(dataset, tokenizer, max_length, chats, golds)
    require_enough({name: found.counts}, max_length, max_truncated_share)
    # A share of 1 says that they have been counted elsewhere, or that nobody minds.
    if found.truncated + found.dropped and max_truncated_share < 1:
        logging.getLogger(__name__).warning(
            "%s: %d rows were cut at max_length %d, %d had no room for a completion",
            name, found.truncated, max_length, found.dropped,
        )  # fmt: skip
    return found


def _encode_one(
    row: Mapping[str, Any],
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    number: int,
    chats: PromptFormat | None,
) -> Encoded | None:
    where = f"row {number}"
    if example.chat and not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{where} holds messages, and the tokenizer has no chat template",
            why="nothing says how messages become text",
            remedy="set tokenizer.chat_template, or give prompt and completion as texts",
        )
    if example.chat:
        template = "chat"
    elif not example.instruction or {"prompt", "completion"} <= row.keys():
        # A text is a prompt already: its control tokens are those of whoever wrote it.
        template = BARE
    else:
        template = "auto"  # an instruction, a question: as in a study
    made = dataclasses.replace(chats or PromptFormat(), template=template)
    return row_of(tokenizer, made, example, max_length, where=where)


def _example(row: Any, where: str) -> Example | None:
    """Return a row of a dataset, or None where there is nothing to learn in it."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is a {type(row).__name__}", remedy=REMEDY)
    found = ", ".join(f"{name} ({type(value).__name__})" for name, value in row.items())
    try:
        example, reason = to_example(row, where)
    except InputError as e:
        why = f"{e.what}; {e.why}" if e.why else e.what
        raise InputError(f"{where} has {found}", why=why, remedy=e.remedy) from e
    if example is None and reason == "empty conversation":
        raise InputError(f"{where} has {found}", why=reason, remedy="leave such rows out")
    return example


def require_enough(text: Mapping[str, Counts], max_length: int, max_truncated_share: float) -> None:
    """Refuse parts of a corpus of which too many rows do not fit.

    Args:
        text: What became of the rows, by the part's name.
        max_length: The limit they were cut at.
        max_truncated_share: Largest share that may be cut or dropped.

    Raises:
        InputError: A part has no rows, or more than that share of them did not fit.
    """
    for part, found in text.items():
        total = found.kept + found.dropped
        lost = found.truncated + found.dropped
        remedy = f"raise max_length above {max_length}"
        if not found.kept and found.empty == total:
            raise InputError(
                f"none of the {total} {part} rows holds anything to learn",
                why=f"{total} rows were read, {found.empty} of them without text to use",
                remedy="give rows with a prompt and a response",
            )
        if not found.kept:
            raise InputError(
                f"none of the {total} {part} rows leaves room for a response",
                why=f"{total - found.empty} are too long, {found.empty} hold nothing to learn",
                remedy=remedy,
            )
        if lost > max_truncated_share * total:
            raise InputError(
                f"{lost} of {total} {part} rows do not fit in max_length {max_length} "
                f"({found.truncated} cut, {found.dropped} dropped)",
                why=f"more than max_truncated_share {max_truncated_share:g}: the student "
                "would rarely see how an answer ends",
                remedy=f"{remedy}, or raise max_truncated_share to accept it",
            )


def golds_of(judging: Judging | None, rule: Rule) -> Golds | None:
    """Return what knows the right answers that a method needs; None where it needs none.

    A row without one is refused, not given a reward of 0: whitened, that would punish whatever the
    student writes there.

    Args:
        judging: What it needs them for.
        rule: How texts are read.
    """
    if judging is None:
        return None
    asked = {"needed": f"the method {judging.does}", "otherwise": judging.otherwise}
    return functools.partial(gold, labels=judging.labels, rule=rule, **asked)


def require_golds(rows: Sequence[Encoded], places: Sequence[int]) -> None:
    """Refuse rows that were encoded without the right answers that a method needs.

    Raises:
        InputError: Names the first.
    """
    for number, row in zip(places, rows, strict=False):
        if row.gold is None:
            raise InputError(
                f"row {number} was encoded without its right answer",
                why="the method rewards texts that are right",
                remedy="give rows as texts with an `answer`, or set Encoded.gold",
            )


def require_prompts(rows: Sequence[Encoded], places: Sequence[int], bos: int | None) -> None:
    """Refuse text without a prompt where the student is to answer prompts itself.

    Args:
        rows: Training rows.
        places: Each row's place in its dataset.
        bos: The tokenizer's beginning-of-sequence token, which is no prompt.

    Raises:
        InputError: A row has no prompt.
    """
    for number, row in zip(places, rows, strict=False):
        if all(token == bos for token in row.ids[: row.prompt_length]):
            raise InputError(
                f"row {number} is text without a prompt",
                why="the method has the student write the text to learn from, in answer to one",
                remedy="give rows with a prompt, or set lmbda to 0",
            )
