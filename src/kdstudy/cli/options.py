"""Options that several verbs share, and how quiet libraries are."""

import os
from pathlib import Path
from typing import Annotated

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
