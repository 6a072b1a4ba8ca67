"""Responses that the student writes itself, in the middle of its training."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded
from kdstudy.data.tokenise import plain_ids
from kdstudy.methods.objective import Recipe
from kdstudy.models.parts import Model
from kdstudy.models.sample import Beside, sample
from kdstudy.models.writing import writing


def rewritten(
    student: Model,
    rows: Sequence[Encoded],
    method: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    width: int | None,
    seeds: Sequence[int],
    eos_ids: Sequence[int],
    teacher: Model | None = None,
) -> list[Encoded]:
    """Return the rows with the student's own last responses, LoRA dropout off meanwhile.

    Of a conversation nothing else is scored then: the answers before are not the student's.

    Args:
        student: Writes; its mode is afterwards what it was.
        rows: Prompts with responses to replace.
        method: Says at which temperature, and whether the ids are those drawn or those that the
            tokenizer gives the text.
        tokenizer: The student's.
        max_length: Limit on tokens of prompt and response.
        width: Vocabulary entries that may be drawn; None for all.
        seeds: One per row.
        eos_ids: What ends a response.
        teacher: Writes as well, where the method draws from a mixture of both.
    """
    beside = Beside(model=teacher, share=method.teacher_share) if method.teacher_share else None
    with writing(student) as writer:
        texts = sample(
            writer,
            [row.ids[: row.prompt_length] for row in rows],
            max_new_tokens=[max_length - row.prompt_length for row in rows],
            temperature=method.sampling_temperature,
            seeds=seeds,
            eos_ids=eos_ids,
            pad_id=0,
            width=width,
            beside=beside,
        )
    written = [
        _answered(row, (*row.ids[: row.prompt_length], *text.ids), row.prompt_length)
        for row, text in zip(rows, texts, strict=True)
    ]
    if not method.retokenised:
        return written
    return [_retokenised(row, tokenizer, max_length) for row in written]


def right(row: Encoded, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int]) -> bool:
    """Return whether a row that the student wrote gives the row's right answer.

    Args:
        row: Knows the answer (`Encoded.gold`).
        tokenizer: The student's.
        eos_ids: What ends a response; one without such an end was cut.
    """
    ids = row.ids[row.prompt_length :]
    cut = ids[-1] not in eos_ids
    # As an evaluation makes text of tokens.
    text = tokenizer.decode(
        ids if cut else ids[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return row.gold.right(text, cut=cut)


def _retokenised(row: Encoded, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    prompt = row.ids[: row.prompt_length]
    if plain_ids(tokenizer, tokenizer.decode(prompt, skip_special_tokens=True)) != prompt:
        # The text would lose the prompt's own control tokens, such as a chat template's.
        text = tokenizer.decode(row.ids[row.prompt_length :], skip_special_tokens=True)
        ids = (*prompt, *tokenizer(text, add_special_tokens=False)["input_ids"])[:max_length]
        return _answered(row, ids, row.prompt_length)
    ids = plain_ids(tokenizer, tokenizer.decode(row.ids, skip_special_tokens=True))[:max_length]
    return _answered(row, ids, min(row.prompt_length, len(ids)))


def _answered(row: Encoded, ids: tuple[int, ...], prompt_length: int) -> Encoded:
    """Return a row with another answer: whose teacher it is, what that is told, and what would be
    right stay."""
    return Encoded(ids, prompt_length, tag=row.tag, told=row.told, gold=row.gold)
