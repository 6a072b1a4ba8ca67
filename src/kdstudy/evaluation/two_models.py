"""Two models of one stage, opened to be asked about the same tokens."""

from typing import Any

from kdstudy.artifacts import TUNED_REFERENCE, TUNED_SYSTEM, Role, Trained
from kdstudy.errors import InputError
from kdstudy.stage import Work


def opened_pair(work: Work, precision: str, *, what: str, remedy: str) -> tuple[Any, Any, Any, int]:
    """Return student, teacher, the student's tokenizer, and how many tokens both have.

    Args:
        work: Its `models` are `model` and `reference_model`; `TUNED_SYSTEM` and `TUNED_REFERENCE`
            are what was trained of them, where something was.
        precision: As `load.open_model` has it.
        what: What is not defined where the two do not share their tokens.
        remedy: What a user can do then.

    Raises:
        InputError: The two have different tokenizers, or an output layer is too narrow.
    """
    from kdstudy.models import heads, parts

    student, tokenizer = _opened(work, "model", precision, TUNED_SYSTEM)
    teacher, theirs = _opened(work, "reference_model", precision, TUNED_REFERENCE)
    try:
        width = heads.common_width(tokenizer, theirs, parts.head(student), parts.head(teacher))
    except InputError as e:
        raise InputError(f"{what} is not defined: {e.what}", why=e.why, remedy=remedy) from e
    return student, teacher, tokenizer, width


def _opened(work: Work, model: str, precision: str, role: Role[Trained]) -> tuple[Any, Any]:
    """Return a model, ready to be asked, and its tokenizer."""
    from kdstudy.models.load import open_model, open_tokenizer, ready_to_answer

    local = work.model(model)
    opened = open_model(local, precision, work.find(role))
    return ready_to_answer(opened), open_tokenizer(local)
