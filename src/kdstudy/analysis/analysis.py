"""Every study-level test of any table of runs, and every item-level test of graded items."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from kdstudy.analysis.cells import ALL, CELL, cells, main_runs
from kdstudy.analysis.clustered import DEFAULT, gain_tests
from kdstudy.analysis.correlations import correlation_tests
from kdstudy.analysis.diagnostics import bounds_tests, collapse_tests, power_tests, seed_tests
from kdstudy.analysis.families import corrected
from kdstudy.analysis.items import analyze_items
from kdstudy.analysis.matched import matched_tests
from kdstudy.analysis.mixed import mixed_model
from kdstudy.analysis.pooled import pooled_tests
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.seeds import seed_gains
from kdstudy.analysis.verdict import Test
from kdstudy.errors import InputError

__all__ = ["analyze", "analyze_items", "lead", "leads"]


def analyze(
    runs: pd.DataFrame,
    protocol: Literal["corrected", "paper"] = "corrected",
    *,
    chance: Mapping[str, float] | None = None,
    by_student: Sequence[Test] = (),
) -> list[Test]:
    """Return every test of a table of runs; docs/statistics.md says which answers what.

    Args:
        runs: From `runs.read_runs` or `runs.from_results`.
        protocol: `paper`: the paper's Tables 1 to 5. `corrected`: first the tests that know which
            runs share a student, then the paper's beside them.
        chance: Chance accuracy by task, under which a run counts as collapsed; without it what
            `runs.attrs["chance"]` says, as it does of a study's own table.
        by_student: Tests of `methods.student_tests`, which know the items; without them those of
            `seeds.seed_gains`, where there is one student or a run has several seeds.

    Returns:
        Tests, corrected inside each `family`; the first sentence says what was left out.

    Raises:
        InputError: The protocol is unknown, or see `cells.main_runs`.
    """
    if protocol not in ("corrected", "paper"):
        raise InputError(f"no protocol {protocol!r}", remedy="use corrected or paper")
    chance = runs.attrs.get("chance") if chance is None else chance
    frame = main_runs(runs)
    rows = cells(frame)
    found = pooled_tests(rows)
    if protocol == "corrected":
        alone = rows.student.nunique() == 1
        repeated = frame.duplicated([*CELL, "task"]).any()
        own = list(by_student) or (seed_gains(frame) if alone or repeated else [])
        found = [
            *(own if alone else []),
            *gain_tests(rows),
            *([] if alone else own),
            mixed_model(rows),
            *matched_tests(rows),
            *correlation_tests(rows),
            *bounds_tests(rows),
            *seed_tests(frame),
            *collapse_tests(frame, chance),
            *power_tests(rows),
            *found,
        ]
    found = corrected(found)
    said = " ".join([found[0].sentence, *frame.attrs["notes"]])
    return [dataclasses.replace(found[0], sentence=said), *found[1:]]


def lead(tests: Sequence[Test]) -> Test:
    """Return the gain test that a report leads with: all methods, on the average of tasks.

    Where no run has every task there is no average, and it is the last task's. With one student
    students are no units: then it is the first of `leads`.

    Raises:
        InputError: The tests are not those of `analyze(runs, "corrected")`.
    """
    return leads(tests)[0]


def leads(tests: Sequence[Test]) -> list[Test]:
    """Return the tests that a report leads with: `lead`, or of one student each method's own.

    Raises:
        InputError: The tests are not those of `analyze(runs, "corrected")`.
    """
    over = next((t for t in tests if t.name == DEFAULT and t.subject == ALL), None)
    if over is not None and over.clusters > 1:
        return [over]
    own = [t for t in tests if t.table == "student"]
    own = [t for t in own if t.scope == AVERAGE] or own
    if not own and over is None:
        raise InputError("these tests hold no lead", remedy="use the corrected protocol")
    return own or [over]
