"""What a student lost token by token, on the corpus's validation rows."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from kdstudy.measures.units import Unit

Sums = Callable[[pd.DataFrame], np.ndarray]
"""Takes token rows (`records.TokenRow`) and returns a sum over the tokens of each, [rows]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """A line of the loss statement that is a mean over tokens of text that both models read.

    Attributes are `Loss`'s.

    Attributes:
        student: Its sums.
        teacher: The teacher's; None where the number is one of both, a distance.
    """

    name: str
    title: str
    unit: Unit
    worse: Literal["less", "more"] = "more"
    student: Sums
    teacher: Sums | None = None
    note: str
    cannot: str
    cost: str = "both models reading the validation rows (`token_rows`)"


def _claimed_too_much(model: str) -> Sums:
    def sums(rows: pd.DataFrame) -> np.ndarray:
        claimed, hits = (
            np.array([np.sum(bins) for bins in rows[f"{model}_{part}"]], dtype=float)
            for part in ("confidence", "hits")
        )
        return claimed - hits

    return sums


_FORCED = "what it would write itself, since both read the same given text."

TOKEN_LOSSES = (
    TokenLoss(
        name="token_overconfidence",
        title="Overconfidence in the next token",
        unit=Unit.POINTS,
        student=_claimed_too_much("student"),
        teacher=_claimed_too_much("teacher"),
        note="Overconfidence in the next token: mean probability of the likeliest token less how "
        "often it is the text's.",
        cannot="whether answers are claimed too much: tokens are words, not answers.",
    ),
    TokenLoss(
        name="likelihood_lost",
        title="Fit to held-out text",
        unit=Unit.NATS,
        student=lambda rows: rows.ce_student.to_numpy(float),
        teacher=lambda rows: rows.ce_teacher.to_numpy(float),
        note="Fit to held-out text: cross-entropy on validation rows, in nats per token.",
        cannot=_FORCED,
    ),
    TokenLoss(
        name="recall_lost",
        title="KL(teacher, student)",
        unit=Unit.NATS,
        student=lambda rows: rows.kl_teacher_student.to_numpy(float),
        note="KL(teacher, student): large where the student "
        "finds unlikely what its teacher would say (recall).",
        cannot=_FORCED,
    ),
    TokenLoss(
        name="precision_lost",
        title="KL(student, teacher)",
        unit=Unit.NATS,
        student=lambda rows: rows.kl_student_teacher.to_numpy(float),
        note="KL(student, teacher): large where the student "
        "would say what its teacher finds unlikely (precision).",
        cannot=_FORCED,
    ),
)
