"""The verbs `paper` and `analyze`: conclusions from tables, the published one or anybody's."""

import dataclasses
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdstudy.cli.options import AsJson, print_json
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.analysis.verdict import Test


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
        list[Path],
        typer.Argument(
            metavar="RESULTS",
            help="A CSV with a row per run and task, or per graded item (docs/statistics.md); or "
            "the scores.parquet of one system or more, the first being what the others are "
            "compared with.",
        ),
    ],
    protocol: Annotated[
        Protocol, typer.Option(help="paper: the published tests; corrected: sound ones as well.")
    ] = Protocol.corrected,
    as_json: AsJson = False,
) -> None:
    """Test any long-form table of results, or graded items: scores.parquet of score and eval."""
    if any(path.suffix == ".parquet" for path in results):
        _of_items(results, as_json)
        return
    if len(results) > 1:
        raise InputError("RESULTS: one table at a time", remedy="put the rows into one CSV")
    from kdstudy.api import comparing

    found = comparing.analyze(results[0], protocol=protocol.value)
    if as_json:
        rows = [dataclasses.asdict(test) for test in found]
        print_json({"protocol": protocol.value, "tests": rows})
    else:
        _print_tests(found)


def _print_tests(found: list["Test"]) -> None:
    from kdstudy.analysis.measures import AVERAGE

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


def _of_items(files: list[Path], as_json: bool) -> None:
    """Print how good systems are and how far the others are from the first, item by item."""
    from kdstudy.analysis.scores import against_first, levels, read_graded

    systems = read_graded(files)
    found, tests = [level for s in systems for level in levels(s)], against_first(systems)
    if as_json:
        rows = {"systems": found, "tests": tests}
        print_json({k: [dataclasses.asdict(row) for row in v] for k, v in rows.items()})
        return
    for row in (*found, *tests):
        typer.echo(row.sentence)
    if len(systems) == 1:
        typer.echo("\none system: give a second scores.parquet for a comparison", err=True)
