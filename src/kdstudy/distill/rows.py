"""Text -> training rows: a study's corpus, or a dataset in the formats of TRL."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded, encode
from kdstudy.errors import InputError, StageError
from kdstudy.records import Example, Generation


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Training text as the student sees it.

    Attributes:
        rows: Encoded rows.
        truncated: How many lost their end at max_length.
        unended: How many the teacher did not end within its token budget.
        dropped: How many could not be used: no room for a response, or nothing written.
    """

    rows: tuple[Encoded, ...]
    truncated: int
    unended: int
    dropped: int


def encode_rows(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int,
    teacher_text: Mapping[str, Generation] | None = None,
) -> Rows:
    """Return examples as training rows, with the teacher's text in the response's place if given.

    A teacher's empty text teaches nothing and is dropped. One that hit its token budget is kept
    without an end-of-sequence token: to end it there would teach the student to stop mid-sentence.
    Both are counted.

    Args:
        examples: Corpus rows.
        tokenizer: The student's.
        template: Prompt template.
        max_length: Limit on tokens of prompt and response.
        teacher_text: Teacher's text by example id; None trains on the corpus.

    Raises:
        StageError: The teacher wrote nothing for an example.
    """
    rows: list[Encoded] = []
    truncated = unended = dropped = 0
    for example in examples:
        response, ended = example.response, True
        if teacher_text is not None:
            if example.id not in teacher_text:
                raise StageError(
                    f"the teacher's text has no row for corpus row {example.id}",
                    why="the student would be trained on fewer rows than the other methods",
                    remedy="generate the teacher's text for this corpus again",
                )
            written = teacher_text[example.id]
            response, ended = written.completion, written.stop == "eos"
        blank = teacher_text is not None and not response.strip()
        row = (
            None
            if blank
            else encode(tokenizer, template, example.instruction, response, max_length)
        )
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        unended += not ended
        if not ended and not row.truncated:
            row = Encoded(row.ids[:-1], row.prompt_length)
        rows.append(row)
    return Rows(rows=tuple(rows), truncated=truncated, unended=unended, dropped=dropped)


def encode_dataset(
    dataset: Iterable[Mapping[str, Any]] | Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Rows:
    """Return a dataset's rows.

    A row is `{"prompt": ..., "completion": ...}`, both texts or both lists of messages, or
    `{"messages": [...]}`, whose last message is the completion. Messages go through the
    tokenizer's chat template. An end-of-sequence token follows every completion. Rows that are
    encoded already pass as they are.

    Args:
        dataset: A `datasets.Dataset`, or anything that yields such rows.
        tokenizer: The student's.
        max_length: Limit on tokens of prompt and completion.

    Raises:
        InputError: A row has another format, or there is no chat template.
    """
    rows: list[Encoded] = []
    truncated = dropped = 0
    for number, given in enumerate(dataset):
        row = given
        if not isinstance(row, Encoded):
            row = _encode_one(given, tokenizer, max_length, number)
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        rows.append(row)
    return Rows(rows=tuple(rows), truncated=truncated, unended=0, dropped=dropped)


def _encode_one(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int, number: int
) -> Encoded | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if "messages" in row:
        *prompt, last = row["messages"]
        completion = [last]
    if isinstance(prompt, str) and isinstance(completion, str):
        return encode(tokenizer, "{instruction}", prompt, completion, max_length)
    if not (isinstance(prompt, list) and isinstance(completion, list) and len(completion) == 1):
        raise InputError(
            f"row {number} has the columns {', '.join(row)}",
            why="a row needs prompt and completion, both texts or both messages, or messages",
            remedy='rename its columns: {"prompt": ..., "completion": ...} or {"messages": [...]}',
        )
    if completion[0]["role"] != "assistant":
        raise InputError(
            f"row {number}: its last message is by {completion[0]['role']}, not the assistant",
            why="the student learns the assistant's words",
            remedy="drop what follows the assistant's last message",
        )
    return encode(tokenizer, "chat", prompt, completion[0]["content"], max_length)


def require_enough(text: Mapping[str, Rows], max_length: int, max_truncated_share: float) -> None:
    """Refuse parts of a corpus of which too many rows do not fit.

    Args:
        text: Rows by the part's name.
        max_length: The limit they were cut at.
        max_truncated_share: Largest share that may be cut or dropped.

    Raises:
        InputError: A part has no rows, or more than that share of them did not fit.
    """
    for part, found in text.items():
        total = len(found.rows) + found.dropped
        lost = found.truncated + found.dropped
        remedy = f"raise max_length above {max_length}"
        if not found.rows:
            raise InputError(
                f"none of the {total} {part} rows leaves room for a response", remedy=remedy
            )
        if lost > max_truncated_share * total:
            raise InputError(
                f"{lost} of {total} {part} rows do not fit in max_length {max_length} "
                f"({found.truncated} cut, {found.dropped} dropped)",
                why=f"more than max_truncated_share {max_truncated_share:g}: the student "
                "would rarely see how an answer ends",
                remedy=f"{remedy}, or raise max_truncated_share to accept it",
            )
