"""The verb `doctor`: what can be known to be wrong before an hour is spent."""

import sys
from typing import Annotated

import typer

from kdstudy.api.building import quiet_libraries
from kdstudy.api.studies import STORE
from kdstudy.cli.options import AsJson, DataDir, StorePath, StudyPath


def doctor(
    study: StudyPath,
    store: StorePath = STORE,
    data_dir: DataDir = None,
    probe_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Most seconds to measure the models in; else what is left of 50."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look a study over before it runs. Exit code: 0 fine or notes, 1 warnings, 2 errors."""
    quiet_libraries()
    from kdstudy.api.documents import as_text
    from kdstudy.doctor.checks import check
    from kdstudy.doctor.findings import EXIT_CODES, worst
    from kdstudy.doctor.gather import gather
    from kdstudy.doctor.view import document, show

    facts = gather(study, store, data_dir, probe_seconds=probe_seconds)
    findings = check(facts)
    if as_json:
        typer.echo(as_text(document(facts.study.name, findings)))
    else:
        from rich.console import Console

        show(facts.study.name, findings, Console(highlight=False))
    # Not typer.Exit: the program's own handling of it knows no code but Ctrl-C's.
    sys.exit(EXIT_CODES[worst(findings)])
