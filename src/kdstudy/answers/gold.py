"""What a corpus row's right answer is, and whether a text gives it.

Corpora mix kinds of answer, so the answer itself says how it is read. A text is read by the rules
that grade a benchmark of such answers; those who write texts and those who train on them ask here.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

from kdstudy.answers.extract import Rule, choice, kind_of_gold, label, number, same_gold
from kdstudy.errors import InputError
from kdstudy.records import Example

Kind = Literal["number", "letter", "label"]


def kind_of(answer: str, labels: Collection[str]) -> Kind | None:
    """Return what an answer is: one of the labels first of all; None where nothing reads it."""
    return "label" if answer in labels else kind_of_gold(answer)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """A row's right answer.

    Attributes:
        question: What is asked; a text that repeats it has not answered.
        answer: The answer as the data state it.
        kind: What it is.
        labels: What answers may be, where it is a label.
        rule: How texts are read: `reference` or `corrected`.
    """

    question: str
    answer: str
    kind: Kind
    labels: tuple[str, ...] = ()
    rule: Rule = "corrected"

    def right(self, text: str, *, cut: bool) -> bool:
        """Return whether a text gives it.

        Args:
            text: What was written behind the question, without the token that ends it.
            cut: The token budget ended it: under `corrected` only an answer that is stated and
                closed counts then.
        """
        cut = cut and self.rule == "corrected"
        if self.kind == "number":
            return same_gold(
                number(text, self.rule, self.question, cut=cut), self.answer, self.rule
            )
        if self.kind == "letter":
            return choice(text, self.rule, self.question, cut=cut) == self.answer
        return label(text, self.rule, self.labels, self.question, cut=cut) == self.answer


def gold(
    example: Example,
    where: str,
    *,
    labels: Sequence[str],
    rule: Rule,
    needed: str,
    otherwise: str,
) -> Gold:
    """Return a corpus row's right answer.

    Args:
        example: The row.
        where: What a refusal calls it.
        labels: What answers may be where they are neither numbers nor letters.
        rule: How texts are read.
        needed: What it is needed for, for a refusal.
        otherwise: What to write if it shall not be needed.

    Raises:
        InputError: The row has no answer, or one that no rule reads.
    """
    kind = kind_of(example.answer, labels)
    if kind is not None:
        return Gold(
            question=example.question,
            answer=example.answer,
            kind=kind,
            labels=tuple(labels) if kind == "label" else (),
            rule=rule,
        )
    what = f"the answer {example.answer[:40]!r}" if example.answer else "no answer"
    raise InputError(
        f"{where} has {what}, and {needed}",
        why="an answer is a number, a capital letter, or one of the method's labels",
        remedy="give rows with an answer, list what answers may be (labels: [true, false]), or "
        f"write {otherwise}",
    )
