"""One row per system: the runs that differ in their training seed alone, averaged.

`results.csv` has a row per run. What people look at has a row per system, since a seed is a draw of
one system and no system of its own: the mean over its seeds, their sample standard deviation
(n - 1), and the runs themselves one click below.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analysis.methods import NAME
from kdstudy.analysis.results import names_of
from kdstudy.analysis.verdict import Test
from kdstudy.report.views import Numbers, tooltips

Table = pd.DataFrame
Line = Mapping[str, Any]

GAINS = {
    "gain": "accuracy",
    "gain_clean": "accuracy_clean",
    "gain_renumbered": "accuracy_renumbered",
    "gain_contaminated": "accuracy_contaminated",
    "rouge_l_gain": "rouge_l",
}
"""What each gain is a difference of.

A run's gain is over the SFT run of its seed (`pairs.own_sft`), item by item. A system's
is its mean over seeds less the mean over the seeds of its student's SFT: the same number wherever
both have the same seeds.
"""

_CELL = ["system", "benchmark", "reference", "metric"]


class Seeds:
    """A study's table with one row per system, and the runs behind each row.

    Attributes:
        runs: The table as it is, one row per run and measure, with `over_seeds`'s columns.
        means: `over_seeds` of it.
        names: The system that each run is a draw of.
        several: Some system has more than one run.
        numbers: `means`, to look up.
        of_runs: `runs`, to look up.
    """

    def __init__(self, table: Table, tests: Sequence[Test] = ()):
        """Average a table from `results.collect`; `over_seeds` says what tests are for."""
        self.runs = table.reset_index(drop=True).assign(sd=math.nan, seeds=1)
        self.runs["rows"] = [(i,) for i in range(len(table))]
        self.names = names_of(table)
        self.several = len(set(self.names.values())) < len(self.names)
        self.means = over_seeds(table, tests)
        self.numbers, self.of_runs = Numbers(self.means), Numbers(self.runs)

    def lines(
        self, rows: Table, make: Callable[[Any, Numbers], Line], labels: int = 1
    ) -> dict[str, list[Line] | list[list[Line]]]:
        """Return `rows` and `runs` of a sheet: a line per row of `means`, and one per run of it.

        Args:
            rows: Rows of `means`, in order.
            make: Makes a line of a row and of the table that its other numbers are looked up in.
            labels: Columns that name a row; the number of seeds comes after them.
        """
        lines, runs = [], []
        for row in rows.itertuples():
            own = self.runs.loc[list(row.rows)].itertuples() if len(row.rows) > 1 else ()
            lines.append(self._counted(make(row, self.numbers), str(row.seeds), labels))
            below = (_of_seed(make(run, self.of_runs), run) for run in own)
            runs.append([self._counted(line, "", labels) for line in below])
        return {"rows": lines, "runs": runs}

    def dots(self, rows: Table) -> Table:
        """Return rows of a figure and, under each mean, the runs it is of, as `part` says.

        Args:
            rows: Rows of `means`, labelled for a figure (`views.labelled`).
        """
        below = rows[rows["rows"].map(len) > 1].explode("rows")
        own = self.runs.loc[below["rows"].astype(int)]
        nothing = dict.fromkeys(("low", "high", "sd"), math.nan)
        below = below.assign(
            system=own.system.to_numpy(), value=own.value.to_numpy(), seeds=1, **nothing
        )
        below["text"] = tooltips(below)
        both = [rows.assign(part="mean"), below.assign(part="seed")]
        return pd.concat(both if len(below) else both[:1], ignore_index=True).drop(columns="rows")

    def _counted(self, line: Line, seeds: str, labels: int) -> Line:
        """Return the line with a column of seeds, where some system has several."""
        if not self.several:
            return line
        cells = list(line.items())
        return dict([*cells[:labels], ("Seeds", seeds), *cells[labels:]])


def _of_seed(line: Line, run: Any) -> Line:
    """Return a run's line under its system's with the seed for a name, where its label would be."""
    found = dict(line)
    for column, cell in line.items():
        if isinstance(cell, str) and cell == run.system:
            found[column] = f"seed {run.seed}"
        elif not isinstance(cell, str) and cell.text == run.system:
            found[column] = cell._replace(text=f"seed {run.seed}")
    return found


def over_seeds(table: Table, tests: Sequence[Test] = ()) -> Table:
    """Return a table of results with one row per system, reference, benchmark and metric.

    Args:
        table: From `results.collect` or `results.read_csv`.
        tests: From `stats.study_tests`: where one is of a system's gain over SFT, that gain has its
            interval, so that sentences, figures and tables of a study have one.

    Returns:
        The same columns: `system` and `reference` are systems, `value` is the mean over seeds,
        `low` and `high` are means of the runs' ends (an interval over items that is no narrower
        than that of the mean), `n` is the fewest items of a run; `GAINS` says what a gain is. And
        `sd`, the sample standard deviation over seeds (NaN for one), `seeds`, how many runs have a
        value, and `rows`, the places of the runs' rows in `table`.
    """
    names = names_of(table)
    rows = table.reset_index(drop=True)
    rows = rows.assign(
        system=rows.system.map(names), reference=[names.get(r, r) for r in rows.reference]
    )
    cells = rows.groupby(_CELL, sort=False, dropna=False)
    found = rows[~rows.duplicated(_CELL)].set_index(_CELL)
    known = cells.value.count()
    found["value"], found["sd"], found["seeds"] = cells.value.mean(), cells.value.std(), known
    for end in ("low", "high"):
        found[end] = cells[end].mean().where(cells[end].count() == known)
    found["n"] = cells.n.min()
    found["rows"] = pd.Series({cell: tuple(at) for cell, at in cells.indices.items()}, dtype=object)
    found = found.reset_index()[[*table.columns, "sd", "seeds", "rows"]]
    return found if found.empty else _tested(_against_the_mean(found), tests)


def _tested(table: Table, tests: Sequence[Test]) -> Table:
    """Give gains the intervals of the tests that are of the same difference."""
    known = {(t.subject, t.scope): t for t in tests if (t.table, t.name) == ("student", NAME)}
    found = {}
    for row in table[table.metric == "gain"].itertuples():
        test = known.get((row.system, row.benchmark))
        if test is not None and abs(test.estimate - row.value) < 1e-6 and not math.isnan(test.low):
            found[row.Index] = test.low, test.high
    if found:
        table.loc[[*found], ["low", "high"]] = [*found.values()]
    return table


def _against_the_mean(table: Table) -> Table:
    """Move gains, with their ends, to the difference of the two means where seeds are unequal."""
    own = table[table.metric.isin(GAINS.values())]
    keys = zip(own.system, own.metric, own.benchmark, strict=True)
    means = dict(zip(keys, zip(own.value, own.seeds, strict=True), strict=True))
    nothing = (math.nan, 0)
    for r in table[table.metric.isin(GAINS)].itertuples():
        after, before = (
            means.get((s, GAINS[r.metric], r.benchmark), nothing) for s in (r.system, r.reference)
        )
        shift = after[0] - before[0] - r.value
        if abs(shift) < 1e-12 or math.isnan(shift):
            continue
        table.loc[r.Index, ["value", "low", "high"]] += shift
        table.loc[r.Index, "seeds"] = after[1]
    return table


def sft_of(table: Table) -> dict[str, str]:
    """Return the SFT system that each distilled system is compared with, where there is one.

    Args:
        table: From `results.collect`, or `over_seeds` of it.
    """
    rows = table[table.metric.isin(["gain", "rouge_l_gain"])]
    return dict(zip(rows.system, rows.reference, strict=True))
