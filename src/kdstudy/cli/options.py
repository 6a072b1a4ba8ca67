"""What several verbs share: options, how JSON is printed, how quiet libraries are."""

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import typer

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
