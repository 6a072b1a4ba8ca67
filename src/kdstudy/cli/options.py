"""What several verbs share: options, and how JSON and notes are printed."""

import re
import shutil
import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from kdstudy.api.documents import as_text
from kdstudy.api.studies import notes
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.plan.plan import Plan

_LONGEST = 4000  # characters of a message
_HUB_NAME = re.compile(
    r"(?P<dataset>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[^/]+))?"
)
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (YAML).")]
StorePath = Annotated[
    Path,
    typer.Option(
        "--store", envvar="KDSTUDY_STORE", metavar="DIR", help="Where finished stages live."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="KDSTUDY_DATA", metavar="DIR", help="Benchmarks and corpora."
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES", help="What the data call columns: prompt=question,completion=answer."
    ),
]


class RougeName(StrEnum):
    """What ROUGE-L takes for words."""

    published = "rouge-score"
    unicode = "unicode"


RougeTokenizer = Annotated[
    RougeName,
    typer.Option(help="Words of ROUGE-L: a-z and 0-9 as published, or of every script."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def corpus_fields(option: str, text: str, columns: str | None) -> dict[str, Any]:
    """Return what a study would say of the corpus that an option names.

    A file or folder, a name that kdstudy knows, or a Hub data set as `org/name`,
    `org/name/config`, each with `:split` behind it where that is not `train`.

    Raises:
        InputError: There is nothing of that name, or the columns are not `ours=theirs`.
    """
    from kdstudy.data import corpora, files

    fields: dict[str, Any] = {"columns": _pairs(columns)} if columns else {}
    path = Path(text)
    if text and _is_there(path):
        return {"path": str(path.expanduser().absolute()), **fields}
    if text in corpora.names():
        return {"name": text, **fields}
    found = _HUB_NAME.fullmatch(text)
    if found is None or files.named(path).kind:
        raise InputError(
            f"{option} {text}: no such file, and no corpus of that name",
            remedy=f"give a file or folder, one of {', '.join(corpora.names())}, or a Hub data set "
            "as org/name",
        )
    hub = {k: v for k, v in found.groupdict().items() if v is not None}
    return {**hub, **fields}


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise InputError(
            f"--columns {text}: is no list of names",
            remedy="write it as --columns prompt=question,completion=answer: ours=yours",
        )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _is_there(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError):  # too long for a path, or ~somebody who has no home
        return False


def print_json(document: Any) -> None:
    """Print a verb's `--json`."""
    typer.echo(as_text(document))


def sanitize(message: str) -> str:
    """Return a message that no file's contents can make endless, or use to steer the terminal."""
    short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in short)


def note(message: str) -> None:
    """Tell a person something beside a verb's result."""
    typer.echo(wrapped(sanitize(message), room_for_a_line(sys.stderr)), err=True)


def print_notes(planned: "Plan") -> None:
    """Tell a person what is to be known of a plan."""
    for line in notes(planned):
        note(f"note: {line}")


def wrapped(text: str, room: int) -> str:
    """Return text whose long lines go on below, broken between words alone."""
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        cut = textwrap.wrap(
            line,
            room,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += cut if len(line) > room else [line]
    return "\n".join(lines)


def room_for_a_line(stream: TextIO | None = None) -> int:
    """Return the columns of the terminal; where the output goes elsewhere, no line is too long."""
    shown = (stream or sys.stdout).isatty()
    return shutil.get_terminal_size().columns if shown else sys.maxsize


def part(count: int, whole: int) -> str:
    """Return a number of items, and of how many where these are not all: `642 of 1,000`."""
    return f"{count:,}" if count == whole else f"{count:,} of {whole:,}"
