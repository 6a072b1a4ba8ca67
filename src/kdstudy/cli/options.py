"""What several verbs share: options, how JSON is printed, how quiet libraries are."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kdstudy.study.plan import Plan

_LONGEST = 4000  # characters of a message
STORE = Path("kdstudy-store")
"""Where finished stages live unless told otherwise."""

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
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def quiet_libraries() -> None:
    """One voice: the view speaks, the libraries' own bars and advice do not."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def as_text(document: Any) -> str:
    """Return JSON in which what cannot be computed is null."""
    return json.dumps(_without_nan(document), indent=1, allow_nan=False)


def print_json(document: Any) -> None:
    """Print a verb's `--json`."""
    typer.echo(as_text(document))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def inert(message: str) -> str:
    """Return a message that no file's contents can make endless, or use to steer the terminal."""
    short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in short)


def note(message: str) -> None:
    """Tell a person something beside a verb's result."""
    typer.echo(inert(message), err=True)


def part(count: int, whole: int) -> str:
    """Return a number of items, and of how many where these are not all: `642 of 1,000`."""
    return f"{count:,}" if count == whole else f"{count:,} of {whole:,}"


def note_edited_benchmarks(planned: "Plan") -> None:
    """Name every benchmark file that is not the published one."""
    from kdstudy.evaluate import benchmarks

    for stage in planned.stages.values():
        if stage.kind != "benchmark" or "path" in stage.local:
            continue
        if benchmarks.published(stage.config["name"], stage.config["fingerprint"]) is False:
            note(
                f"note: {stage.label}: its file is not the published one: scores on it compare "
                "with nobody's (docs/data.md)"
            )
