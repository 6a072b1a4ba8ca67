"""Sequence-level distillation: the student learns what the teacher writes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kdstudy.methods.base import Labels, Taught
from kdstudy.methods.objective import Judging, Recipe


class SeqKD(Taught):
    """Cross-entropy on text the teacher wrote (Kim & Rush 2016; the paper's Eq. 1).

    With `drafts` and `keep: right` it is rejection sampling (STaR, Zelikman et al. 2022; RFT, Yuan
    et al. 2023), of which one draft a row is learnt here.
    """

    teacher_gives = "text"
    color = "#0072b2"
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"drafts", "keep", "labels", "choose", "otherwise", "least_kept", "corpus_share", "rows"}
    )

    type: Literal["seqkd"] = "seqkd"
    """Which method this is."""
    sampling_temperature: float = Field(default=0.0, ge=0)
    """Temperature at which the teacher writes; 0 is greedy."""
    drafts: int = Field(default=1, ge=1)
    """Texts that the teacher writes for each row, of which one is learnt; more than one needs a
    sampling_temperature above 0."""
    keep: Literal["all", "right"] = "all"
    """Which drafts may be learnt: `all` that are not empty, or those whose answer is `right`, read
    by the study's `extraction` and compared with the row's `answer`: a number, one capital letter,
    or one of `labels`."""
    labels: Labels = Field(default=[])
    """What the corpus's answers may be where they are neither numbers nor letters, such as
    [true, false]."""
    choose: Literal["first", "likeliest"] = "first"
    """Which of a row's kept drafts is learnt: the `first`, or that to whose tokens the teacher
    gives the highest mean log-probability (at temperature 1, the end included). One that the
    teacher ended comes before one that the budget cut."""
    otherwise: Literal["drop", "corpus"] = "drop"
    """A row of which no draft is kept: left out, or learnt as the `corpus` has it."""
    least_kept: float = Field(default=0.1, ge=0, le=1)
    """Refuse to train where a smaller share of rows has a draft that is kept; with `rows: failed`,
    of the rows that the student fails."""
    corpus_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows that are learnt as the corpus has them whatever the teacher wrote."""
    rows: Literal["all", "failed"] = "all"
    """Which training rows the teacher rewrites: `all`, or those that the student `failed`. As it
    starts (see `start`) it answers each once, greedily; an answer is right as under `keep: right`.
    Rows that it answers right are learnt as the corpus has them. Validation rows are not asked, and
    learn what they do under `all`."""

    @property
    def chooses(self) -> bool:
        """Whether not simply the one text that the teacher wrote for each row is learnt."""
        kept = self.judges or self.otherwise == "corpus"
        return kept or self.drafts > 1 or self.corpus_share > 0

    @property
    def judges(self) -> bool:
        """Whether texts are compared with the answers of the corpus's rows."""
        return self.keep == "right" or self.rows == "failed"

    @property
    def judging(self) -> Judging | None:
        """What it needs right answers for; None where it needs none."""
        if not self.judges:
            return None
        does, otherwise = "keeps the drafts that are right (keep: right)", "keep: all"
        if self.keep == "all":
            does = "rewrites the rows that its student fails (rows: failed)"
            otherwise = "rows: all"
        return Judging(does=does, otherwise=otherwise, labels=tuple(self.labels))

    @model_validator(mode="after")
    def _drafts_make_sense(self) -> SeqKD:
        if self.drafts > 1 and self.sampling_temperature == 0:
            raise ValueError(
                f"drafts: {self.drafts} greedy drafts are {self.drafts} equal texts; set "
                "sampling_temperature above 0, such as 1"
            )
        if self.choose == "likeliest" and self.drafts == 1:
            raise ValueError("choose: of one draft there is nothing to choose; raise drafts")
        if self.labels and not self.judges:
            raise ValueError(
                "labels: are what answers are compared with; they need keep: right, or rows: failed"
            )
        return self

    def recipe(self) -> Recipe:
        """Return what a trainer needs to know."""
        return Recipe(source="teacher")
