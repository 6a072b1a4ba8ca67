"""The verbs `paper` and `analyze`: conclusions from tables, the published one or anybody's."""

import dataclasses
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdstudy.cli.options import AsJson, print_json

if TYPE_CHECKING:
    from kdstudy.analyze.verdict import Test


class Aggregation(StrEnum):
    """Which number stands for the runs of one student, teacher and method."""

    max = "max"
    tau1 = "tau1"
    printed = "printed"


def paper(
    aggregation: Annotated[
        Aggregation,
        typer.Option(
            help="max: best temperature on the test set, as published; tau1: temperature 1; "
            "printed: Tables 7 and 8."
        ),
    ] = Aggregation.max,
    as_json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page that tells the story.")
    ] = None,
) -> None:
    """Replay the published study: Tables 1 to 5 cell by cell, and its claims under sound tests."""
    from kdstudy.paper import claims, page, replay

    if html is not None:
        page.html(html)
    found = replay.replay(aggregation.value)
    if as_json:
        print_json(found)
        return
    typer.echo(found["summary"]["sentence"])
    for claim in claims.claims():
        typer.echo(f"\n{claim.says}\n  {claim.verdict}: {claim.because}")
    if html is not None:
        typer.echo(f"\n{html}")


class Protocol(StrEnum):
    """Which tests are made."""

    corrected = "corrected"
    paper = "paper"


def analyze(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A long-form CSV: docs/statistics.md.")
    ],
    protocol: Annotated[
        Protocol, typer.Option(help="paper: the published tests; corrected: sound ones as well.")
    ] = Protocol.corrected,
    as_json: AsJson = False,
) -> None:
    """Test any long-form table of results."""
    from kdstudy.analyze.analysis import analyze as tests_of
    from kdstudy.analyze.measures import AVERAGE
    from kdstudy.analyze.runs import read_runs

    found = tests_of(read_runs(results), protocol.value)
    if as_json:
        rows = [dataclasses.asdict(test) for test in found]
        print_json({"protocol": protocol.value, "tests": rows})
        return
    overall = [test for test in found if test.scope == AVERAGE] or found
    told = [t for t in overall if t is found[0] or t.table == "student" or _known(t)]
    for test in told:
        typer.echo(f"[{test.table}] {test.sentence}")
    left = {
        "tests that these rows cannot answer": len(overall) - len(told),
        "tests of single tasks": len(found) - len(overall),
    }
    if any(left.values()):
        said = ", ".join(f"{n} {what}" for what, n in left.items() if n)
        typer.echo(f"\n{said}: --json has them", err=True)


def _known(test: "Test") -> bool:
    return not all(math.isnan(x) for x in (test.statistic, test.low, test.p))
