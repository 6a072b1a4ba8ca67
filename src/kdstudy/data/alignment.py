"""Two tokenizations of one text, cut where both have a border between tokens.

Only answers are aligned: prompts are each model's own, and nothing of them is learnt.
"""

import bisect
import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence

from kdstudy.data.prompts import Encoded
from kdstudy.data.spelling import Spelling
from kdstudy.errors import InputError

LEAST = 0.5
"""Share of a corpus's text that an alignment must cover."""

# Pieces of a text that are looked up in the other where the two differ: words with the blanks
# before them, and single characters beyond ASCII, whose scripts have no blanks.
_PIECES = re.compile(
    rb"[\x00-\x20]*[\x21-\x7f]+|[\x00-\x20]+|[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]", re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A stretch of both tokenizations between two borders that they share.

    Attributes:
        student: First token and the one behind the last, among a row's scored tokens.
        teacher: The same of the teacher's.
        same: Both sides spell the same bytes, or both end the answer. What is not the same is not
            compared; one side of it may be empty.
        bytes: How many bytes that are; 0 where they differ.
    """

    student: tuple[int, int]
    teacher: tuple[int, int]
    same: bool
    bytes: int = 0

    def moved(self, student: int, teacher: int) -> "Span":
        """Return the span with so many tokens before it on either side."""
        (a, b), (c, d) = self.student, self.teacher
        moved = (a + student, b + student), (c + teacher, d + teacher)
        return Span(*moved, self.same, self.bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class Alignment:
    """A row's answers in two tokenizations.

    Attributes:
        spans: In order; they partition the scored tokens of both sides.
        bytes: Bytes of the text on both sides together.
    """

    spans: tuple[Span, ...]
    bytes: int

    @property
    def compared(self) -> list[Span]:
        """The spans in which both sides say the same."""
        return [span for span in self.spans if span.same]


def align(student: Sequence[bytes], teacher: Sequence[bytes]) -> list[Span]:
    """Return two texts as spans, given the bytes of each of their tokens.

    A span closes where both have read the same bytes. Where the texts differ (a tokenizer that
    normalises, a cut), words that both have are found again, and what lies between is a span that
    is not the same. A token without bytes belongs to what stands before it.
    """
    ours, theirs = _borders(student), _borders(teacher)
    mine, other = b"".join(student), b"".join(teacher)
    cuts = [(0, 0, 0, 0)]
    for place, start, length in _common(mine, other):
        first = bisect.bisect_left(ours, (place,))
        for end, token in ours[first:]:
            if end > place + length:
                break
            at = bisect.bisect_left(theirs, (end - place + start,))
            if at < len(theirs) and theirs[at][0] == end - place + start:
                cuts.append((token, theirs[at][1], *(end, theirs[at][0])))
    cuts.append((len(student), len(teacher), len(mine), len(other)))
    spans = []
    for (a, b, i, j), (c, d, k, m) in itertools.pairwise(dict.fromkeys(cuts)):
        same = a < c and b < d and i < k and mine[i:k] == other[j:m]
        spans.append(Span((a, c), (b, d), same, (k - i) * same))
    return spans


def _borders(tokens: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return where tokens end, in bytes, and how many tokens end there or before."""
    ends = itertools.accumulate(map(len, tokens))
    last = {end: number for number, end in enumerate(ends, start=1)}
    last.pop(0, None)
    return list(last.items())


def _common(mine: bytes, other: bytes) -> list[tuple[int, int, int]]:
    """Return stretches that two texts share, in order: their place in either, and their bytes."""
    if mine == other:
        return [(0, 0, len(mine))]
    ours, theirs = _PIECES.findall(mine), _PIECES.findall(other)
    before, behind = ([0, *itertools.accumulate(map(len, some))] for some in (ours, theirs))
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [
        (before[b.a], behind[b.b], before[b.a + b.size] - before[b.a]) for b in blocks if b.size
    ]


def align_rows(
    student: Encoded, teacher: Encoded | None, ours: Spelling, theirs: Spelling
) -> Alignment:
    """Return the answers of a row in two tokenizations as spans.

    Answer by answer; the token that ends one meets the token that ends the other, whatever
    either is called.

    Args:
        student: The row in the student's tokens and template.
        teacher: In the teacher's; None where its prompt leaves no room for an answer.
        ours: What the student's tokens stand for.
        theirs: What the teacher's do.
    """
    other = _answers(teacher, theirs) if teacher is not None else []
    return _joined(_answers(student, ours), other)


def align_written(
    student: Encoded, teacher: Encoded | None, ours: Spelling, theirs: Spelling
) -> Alignment:
    """As `align_rows`, of an answer that the student wrote.

    Special tokens in its midst are no text (`Spelling.text`): the teacher does not read them, they
    are not compared, and what stands around them is.
    """
    ((tokens, ends),) = _answers(student, ours)
    ids = student.ids[max(1, student.prompt_length) :][: len(tokens)]
    mute = {n for n, i in enumerate(ids) if ours.is_special(i)}
    spoken = [b"" if n in mute else token for n, token in enumerate(tokens)]
    made = _joined([(spoken, ends)], _answers(teacher, theirs) if teacher is not None else [])
    parts = tuple(part for span in made.spans for part in _without(span, mute))
    return Alignment(parts, made.bytes)


def _without(span: Span, mute: set[int]) -> list[Span]:
    """Return a span without those of the student's tokens that it begins or ends with."""
    (start, stop), (before, behind) = span.student, span.teacher
    a, b = start, stop
    while a < b and a in mute:
        a += 1
    while a < b and b - 1 in mute:
        b -= 1
    same = span.same and a < b and mute.isdisjoint(range(a, b))
    found = [
        Span((start, a), (before, before), False),
        Span((a, b), span.teacher, same, span.bytes * same),
        Span((b, stop), (behind, behind), False),
    ]
    return [s for s in found if s.student[0] < s.student[1] or s.teacher[0] < s.teacher[1]]


def _joined(
    mine: Sequence[tuple[list[bytes], bool]], other: Sequence[tuple[list[bytes], bool]]
) -> Alignment:
    spans: list[Span] = []
    a = b = 0
    for (s, s_ends), (t, t_ends) in itertools.zip_longest(mine, other, fillvalue=([], False)):
        spans += [span.moved(a, b) for span in align(s, t)]
        a, b = a + len(s), b + len(t)
        if s_ends or t_ends:
            both = s_ends and t_ends
            spans.append(Span((a, a + s_ends), (b, b + t_ends), both))
            a, b = a + s_ends, b + t_ends
    length = sum(len(token) for tokens, _ in (*mine, *other) for token in tokens)
    return Alignment(tuple(spans), length)


def _answers(row: Encoded, spelled: Spelling) -> list[tuple[list[bytes], bool]]:
    """Return the bytes of each answer's tokens, and whether a token behind them ends it."""
    found = []
    for start, stop in row.spans or ((row.prompt_length, len(row.ids)),):
        ids = row.ids[max(1, start) : stop]
        ends = bool(ids) and ids[-1] in spelled.ends
        found.append((spelled.of(ids[: len(ids) - ends]), ends))
    return found


def covered(alignments: Iterable[Alignment]) -> float:
    """Return the share of the text of both sides that is compared; 1 of no text at all."""
    total = same = 0
    for alignment in alignments:
        total += alignment.bytes
        same += 2 * sum(span.bytes for span in alignment.spans)
    return same / total if total else 1.0


def require_covered(alignments: Sequence[Alignment], names: str) -> None:
    """Refuse a pair whose tokenizations hardly meet.

    Args:
        alignments: Of a corpus's rows.
        names: What messages call the pair.

    Raises:
        InputError: Less than `LEAST` of their text would be compared.
    """
    share = covered(alignments)
    if share < LEAST:
        raise InputError(
            f"{names}: {share:.0%} of the text is the same in both tokenizations, less than "
            f"{LEAST:.0%}",
            why="only that is compared; a tokenizer that lacks the corpus's script or changes "
            "its letters spells another text, one whose prompts fill max_length spells none",
            remedy="look at the rows that `kdstudy doctor` shows; raise train.max_length, choose a "
            "teacher that knows this text, or method seqkd, which needs only its answers",
        )
