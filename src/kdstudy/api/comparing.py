"""Paired differences of evaluations, and every test of a table of results."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdstudy.api.evaluating import EvaluationResult
from kdstudy.artifacts import Scores
from kdstudy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from kdstudy.analysis.scores import Graded
    from kdstudy.analysis.verdict import Test

    Scored = EvaluationResult | pd.DataFrame | str | Path

Protocol = Literal["corrected", "paper"]


def compare(a: "Scored", b: "Scored") -> "list[Test]":
    """Return how much better `a` is than `b`, item by item: `estimate` is a's mean less b's.

    One test per benchmark that both have, and one of their average where there are several, over
    the items that both answered. `estimate` and its 95% interval, `low` to `high`, are fractions
    (paired bootstrap); `p` is exact McNemar's, and NaN where an item has several answers and of
    free texts. `kdstudy analyze b/scores.parquet a/scores.parquet` says the same.

    Args:
        a: An evaluation; its `scores.parquet`, or the folder that has it; or a table with the
            column example_id and `correct` (0 or 1), or with the columns of
            `EvaluationResult.items`. Without the columns benchmark and sample it is one benchmark
            with one answer per item.
        b: Another one of the same items.

    Raises:
        InputError: The two share no item, have other samples, or were read by two rules; or a
            table lacks a column or holds several systems.
    """
    first, other = _told_apart([graded(b, "b"), graded(a, "a")])
    return _against([first, other])


def analyze(
    results: "pd.DataFrame | str | Path | Sequence[Scored]", *, protocol: Protocol = "corrected"
) -> "list[Test]":
    """Return every test of a table of results, or of several evaluations, as `kdstudy analyze`.

    Args:
        results: A study's table of results, or anybody's with a row per run and task, or per graded
            item (docs/statistics.md), as a CSV file or as a data frame; or several evaluations, as
            `compare` takes each: then all others are compared with the first, their p-values
            corrected together.
        protocol: `paper`: the published tests of runs; `corrected`: sound ones as well.

    Raises:
        InputError: A column or a baseline is missing, or a cell is wrong; lines are those of the
            CSV file, or of the one that `to_csv(index=False)` would write.
    """
    import pandas as pd

    from kdstudy.analysis.csv_rows import read_rows, rows_of

    if isinstance(results, pd.DataFrame):
        return tests_of(rows_of(results, "the table"), "the table", protocol)
    if isinstance(results, str | Path):
        path = Path(results).expanduser()
        if path.suffix == ".parquet":
            raise InputError(f"{path}: is one system", remedy="give several, as a list")
        return tests_of(read_rows(path), path, protocol)
    if isinstance(results, EvaluationResult) or len(results) < 2:
        raise InputError("analyze: one system is compared with nothing", remedy="give several")
    names = [str(number) for number in range(1, len(results) + 1)]
    return _against(_told_apart([graded(r, n) for r, n in zip(results, names, strict=True)]))


def tests_of(rows: "pd.DataFrame", name: Path | str, protocol: Protocol) -> "list[Test]":
    """Return the tests of text cells (`csv_rows`) with a row per run and task, or per graded item.

    Args:
        rows: From `csv_rows`.
        name: What errors call the table.
        protocol: As `analyze` takes it.
    """
    from kdstudy.analysis.analysis import analyze as tests_of_runs
    from kdstudy.analysis.items import analyze_items, items_of
    from kdstudy.analysis.runs import runs_of

    items = items_of(rows, name)
    if items is None:
        return tests_of_runs(runs_of(rows, name), protocol)
    if protocol == "paper":
        raise InputError(
            f"{name}: has rows of items",
            why="the published tests are of runs",
            remedy="leave it out",
        )
    # What is asked first comes first: each method on its student.
    return sorted(analyze_items(items), key=lambda test: test.table != "student")


def graded(scored: "Scored", name: str) -> "Graded":
    """Return one system's scores, in whichever form it is given.

    Args:
        scored: As `compare` takes it.
        name: What a table without a column `system` is called.
    """
    from kdstudy.analysis.scores import Graded, read_graded, scores_of

    if isinstance(scored, EvaluationResult):
        whole = {benchmark: row["of"] for benchmark, row in scored.metrics.items()}
        return Graded(system=scored.model, scores=scores_of(scored.items), items=whole)
    if isinstance(scored, str | Path):
        path = Path(scored).expanduser()
        (found,) = read_graded([Scores(path).rows.path if path.is_dir() else path])
        return found
    systems = scored["system"].unique() if "system" in scored else [name]
    if len(systems) != 1:
        raise InputError(
            f"{name}: the table holds {len(systems)} systems",
            remedy="choose the rows of one: items[items.system == NAME]",
        )
    return Graded(system=str(systems[0]), scores=scores_of(scored))


def _against(systems: "Sequence[Graded]") -> "list[Test]":
    from kdstudy.analysis.scores import against_first

    return against_first(systems)


def _told_apart(systems: "Sequence[Graded]") -> "list[Graded]":
    """Return the systems with names that no two of them share, numbered where they do."""
    names = [s.system for s in systems]
    if len(set(names)) == len(names):
        return [*systems]
    return [
        dataclasses.replace(s, system=f"{s.system} ({number})")
        for number, s in enumerate(systems, start=1)
    ]
