"""Where the tokens of a student and of a teacher with another tokenizer meet, and rows to look at.

In a row, a bar stands between spans. A span that both cut alike is its text; any other one is
written as both have it, with points between tokens: `un·believ=unbe·liev`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdstudy.config.schema import Study
from kdstudy.data import alignment
from kdstudy.data.prompts import Encoded, called, row_of
from kdstudy.data.spelling import spelling
from kdstudy.doctor.facts import AlignmentFacts
from kdstudy.doctor.findings import Shown, Span, refused
from kdstudy.doctor.text import decode, prompt_format
from kdstudy.records import Example

# Rows that are aligned: reading them twice is what costs.
ROWS = 1000
_SHOWN = 3


def read(
    study: Study,
    student: tuple[str, Any],
    teacher: tuple[str, Any],
    rows: Sequence[Example],
    places: Mapping[str, str],
) -> AlignmentFacts:
    """Align rows as training does, and count what is compared.

    Args:
        study: Says template and `max_length`.
        student: The student's name and tokenizer.
        teacher: The teacher's.
        rows: Corpus rows; the first `ROWS` are read.
        places: Where each row stands in its file, by its id.

    Raises:
        InputError: Nothing tells what the tokens of one stand for, or a row is refused.
    """
    (mine, ours), (other, theirs) = student, teacher
    made, limit, spelled = prompt_format(study), study.train.max_length, (ours, theirs)
    found, shown = [], []
    for example in rows[:ROWS]:
        where = called(example, places)
        a, b = (row_of(t, made, example, limit, where=where) for t in spelled)
        if a is None:
            continue
        found.append(alignment.align_rows(a, b, spelling(ours), spelling(theirs)))
        if len(shown) < _SHOWN and b is not None:
            title = f"row {example.id}: {len(a.scored)} tokens and {len(b.scored)}"
            shown.append(Shown(title=title, spans=_stretches(found[-1], (ours, a), (theirs, b))))
    spans = [span for each in found for span in each.compared]
    return AlignmentFacts(
        student=mine,
        teacher=other,
        rows=len(found),
        share=alignment.covered(found),
        spans=len(spans),
        tokens=sum(span.student[1] - span.student[0] for span in spans),
        refusal=refused(alignment.require_covered, found, f"{mine} and {other}"),
        shown=tuple(shown),
    )


def _stretches(
    made: alignment.Alignment, student: tuple[Any, Encoded], teacher: tuple[Any, Encoded]
) -> tuple[Span, ...]:
    """Return a row's spans, those that are compared and those that are not each together."""
    ours, theirs = _reader(*student), _reader(*teacher)
    stretches = []
    for same, group in itertools.groupby(made.spans, key=lambda span: span.same):
        spans = list(group)
        pieces = tuple(_piece(ours(span.student), theirs(span.teacher), same) for span in spans)
        tokens = sum(span.student[1] - span.student[0] for span in spans)
        part = "aligned" if same else "apart"
        stretches.append(Span(part=part, text="".join(pieces), tokens=tokens, pieces=pieces))
    return tuple(stretches)


def _reader(tokenizer: Any, row: Encoded) -> Callable[[tuple[int, int]], list[str]]:
    scored = list(row.scored)
    return lambda span: [decode(tokenizer, [row.ids[i]]) for i in scored[slice(*span)]]


def _piece(ours: list[str], theirs: list[str], same: bool) -> str:
    if same and ours == theirs:
        return "".join(ours)
    return ("=" if same else "≠").join("·".join(side) for side in (ours, theirs))
