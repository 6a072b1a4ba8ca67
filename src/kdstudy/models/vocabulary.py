"""Whether two tokenizers, and a tokenizer and its model, speak of the same tokens: decided here.

Planning asks it of files, training of opened models, `doctor` of both. Never imports torch.
"""

from collections.abc import Mapping

from kdstudy.errors import InputError


def require_entries(name: str, tokens: int, entries: int) -> None:
    """Refuse a model that is smaller than its tokenizer.

    Args:
        name: What messages call the model.
        tokens: The tokenizer's highest id and one.
        entries: Entries of the model's embedding and output layer.

    Raises:
        InputError: Some tokens could be neither read nor predicted.
    """
    if tokens > entries:
        raise InputError(
            f"{name}: its tokenizer has {tokens:,} tokens, the model embeddings for {entries:,}",
            why="a text that holds one of the others could be neither read nor predicted",
            remedy="give the folder the tokenizer that the model was made with; or "
            "model.resize_token_embeddings(len(tokenizer)), and save both",
        )


def may_be_same(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
    """Return False when both token -> id maps are known, not empty, and differ."""
    return not (a and b) or a == b


def require_same(
    student: Mapping[str, int],
    teacher: Mapping[str, int],
    names: str = "student and teacher",
    compared: str = "distributions",
) -> None:
    """Refuse a pair whose distributions cannot be compared.

    Args:
        student: The student's token -> id; empty where it is not known.
        teacher: The teacher's.
        names: What messages call the two.
        compared: What is compared, and in which methods.

    Raises:
        InputError: Both maps are known and differ; names the differing token of the lowest id.
    """
    if may_be_same(student, teacher):
        return
    token = min(
        (t for t in student.keys() | teacher.keys() if student.get(t) != teacher.get(t)),
        key=lambda t: (min(student.get(t, len(student)), teacher.get(t, len(teacher))), t),
    )
    raise InputError(
        f"{names} have different tokenizers: {token!r} is {student.get(token, 'missing')} for the "
        f"student and {teacher.get(token, 'missing')} for the teacher",
        why=f"{compared} are compared token by token, so ids must mean the same tokens",
        remedy="use method gold or uld, which compare unlike tokenizers where their tokens meet; "
        "or seqkd, which needs only text; or choose a teacher of the student's family",
    )
