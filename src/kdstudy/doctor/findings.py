"""What a check says: how bad, what, why it matters, what to do, and text to look at."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from kdstudy.errors import KdstudyError

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")
"""Levels from the best to the worst."""
EXIT_CODES: dict[Level, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}

Part = Literal["prompt", "scored", "cut", "aligned", "apart"]
"""Of a training row: what is read but not scored, what the loss sees, what max_length cut off; of
two tokenizations of an answer, where both say the same, and where they do not."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of text that is treated alike.

    Attributes:
        part: What happens to it.
        text: The text, as decoded from the very ids.
        tokens: How many tokens it has.
        pieces: The text of each token; empty where the tokens are not the point.
        ends: The last of them ends an answer.
    """

    part: Part
    text: str
    tokens: int
    pieces: tuple[str, ...] = ()
    ends: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A text to look at.

    Attributes:
        title: What it is.
        spans: The text, stretch by stretch.
        ids: Token ids, where they are the point.
    """

    title: str
    spans: tuple[Span, ...]
    ids: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        level: One of `LEVELS`.
        check: Name of the check, such as `width`.
        what: What was found, with its number.
        why: Why it matters; empty where nothing is wrong.
        remedy: What to do; empty where there is nothing to do.
        texts: Texts to look at.
        lines: Lines of a table, at most 78 characters each.
        facts: The same as numbers, for `--json`.
    """

    level: Level
    check: str
    what: str
    why: str = ""
    remedy: str = ""
    texts: tuple[Shown, ...] = ()
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def finding_of(error: KdstudyError, check: str = "study", of: str = "", **more: Any) -> Finding:
    """Return an error that `run` would raise as a finding, in its own words.

    Args:
        error: The error.
        check: Name of the check.
        of: What the error is about, where it does not name that itself.
        **more: Further fields of the finding.
    """
    what = f"{of}: {error.what}" if of else error.what
    fields = {"what": what, "why": error.why, "remedy": error.remedy} | more
    return Finding(level="error", check=check, **fields)


def refused(check: Callable[..., Any], *args: Any) -> Any:
    """Return the error of one of the run's own checks, or None where it has no objection."""
    try:
        check(*args)
    except KdstudyError as e:
        return e
    return None


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; `ok` of nothing."""
    return max((f.level for f in findings), key=LEVELS.index, default="ok")


def size(count: float) -> str:
    """Return bytes as people say them: `12.3 MiB`, `1.4 GiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def many(count: int, thing: str) -> str:
    """Return `1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
