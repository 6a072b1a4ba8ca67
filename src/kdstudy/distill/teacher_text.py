"""What is learnt in the corpus's place: a teacher's text, some of its drafts, or a start's text."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from kdstudy.artifacts import (
    CHOSEN_TEXT,
    CORPUS,
    EACH_TEACHER_TEXT,
    ROLLOUTS,
    TEACHER_TEXT,
    Chosen,
    Generations,
)
from kdstudy.errors import StageError
from kdstudy.records import Example, Generation
from kdstudy.stage import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherText:
    """Text by corpus row.

    Attributes:
        texts: The text that was written by example id; None where the corpus's own is learnt.
        left_out: Ids of rows that are not learnt.
        counts: What became of its drafts (`Chosen.facts`); None where nothing was chosen.
    """

    texts: Mapping[str, Generation | None]
    left_out: frozenset[str] = frozenset()
    counts: Mapping[str, Any] | None = None

    def learnt(self, examples: Iterable[Example]) -> list[Example]:
        """Return the rows that are."""
        return [example for example in examples if example.id not in self.left_out]

    @property
    def said(self) -> str:
        """What a run's line says of it."""
        if self.counts is None:
            return ""
        found = self.counts["all"]
        share = 100 * found["with_draft"] / found["rows"]
        said = f", {share:.1f}% of rows with a draft that is kept"
        train = self.counts["train"]
        if "failed" in train:
            failed, rewritten = (100 * train[n] / train["rows"] for n in ("failed", "teacher"))
            said += f", {failed:.1f}% of training rows failed at first, {rewritten:.1f}% rewritten"
        return said


def read(work: Work, route: Mapping[str, int] | None = None) -> TeacherText:
    """Return what the inputs of a stage hold; with a route the text of a row's own teacher.

    Raises:
        StageError: There are two texts for a row.
    """
    if (chosen := work.find(CHOSEN_TEXT)) is not None:
        return _chosen(chosen)
    if (rollouts := work.find(ROLLOUTS)) is not None:
        return TeacherText(texts=_texts(rollouts))
    if route is None:
        return TeacherText(texts=_texts(work.read(TEACHER_TEXT)))
    each = {number: _texts(texts) for number, texts in work.each(EACH_TEACHER_TEXT).items()}
    own = {e.id: each[str(route[e.tag])] for e in work.read(CORPUS).all_rows()}
    return TeacherText(texts={name: texts[name] for name, texts in own.items() if name in texts})


def _texts(generations: Generations) -> dict[str, Generation]:
    found = generations.rows
    texts: dict[str, Generation] = {}
    for row in found.read():
        if row.example_id in texts:
            raise StageError(f"{found.path}: two texts for corpus row {row.example_id}")
        texts[row.example_id] = row
    return texts


def _chosen(chosen: Chosen) -> TeacherText:
    texts, left_out = {}, set()
    for row in chosen.rows.read():
        if row.source == "none":
            left_out.add(row.example_id)
            continue
        text = {name: getattr(row, name) for name in _OF_BOTH}
        own = row.source in ("corpus", "known")
        texts[row.example_id] = None if own else Generation(benchmark="corpus", **text)
    return TeacherText(texts=texts, left_out=frozenset(left_out), counts=chosen.facts.read())


_OF_BOTH = ("example_id", "sample", "completion", "stop", "tokens")
