"""One printed table: text cells with links to the rows behind them, and its files."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.report.latex import table
from kdstudy.report.views import Numbers, ends_of, shown, spread

PAGE_ROWS = 300
"""A page holds so many rows of one table; its files hold all."""


SPREAD = "Mean ± standard deviation over training seeds (of a sample: n − 1; – for one seed)."
"""What stands under a table that has standard deviations."""


class Cell(NamedTuple):
    """A cell that leads to the rows behind it.

    Attributes:
        text: The value.
        href: Where it leads on the page, "" for nowhere.
        sd: Standard deviation over training seeds, "" where there is one seed.
        ends: Its interval, such as `54.9 to 61.0`; "" for none.
    """

    text: str
    href: str = ""
    sd: str = ""
    ends: str = ""

    def printed(self) -> str:
        """Return the value with its interval."""
        return f"{self.text} ({self.ends})" if self.ends else self.text

    def whole(self) -> str:
        """Return the value with its standard deviation and its interval."""
        return self._replace(text=f"{self.text} ± {self.sd}" if self.sd else self.text).printed()


class Entry(NamedTuple):
    """A row of a table as the page shows it: its cells, and those of each run behind it."""

    cells: list[Cell]
    runs: list[list[Cell]]


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """One printed table: text cells, ready for HTML, Markdown, LaTeX and CSV.

    Attributes:
        name: File stem.
        title: What it shows.
        columns: Their heads; the first `labels` are row labels.
        entries: Its rows, and the runs behind each.
        note: One sentence under the table.
        labels: Number of label columns.
        paper: Which of the paper's tables it is, for this study, such as `Table 3`; "" for none.
        open: Whether the page shows it without a click.
        more: Where the page leads for the rows that it leaves out.
        style: CSS class of a table that is no table of numbers.
    """

    name: str
    title: str
    columns: Sequence[str]
    entries: Sequence[Entry]
    note: str = ""
    labels: int = 1
    paper: str = ""
    open: bool = False
    more: str = ""
    style: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        runs: Sequence[Sequence[Mapping[str, Any]]] = (),
        note: str = "",
        labels: int = 1,
        **page: Any,
    ) -> "Sheet":
        """Make a sheet from rows of text or `Cell`; a cell that a row lacks is a dash.

        A column that holds nothing but dashes is left out.

        Args:
            name: File stem.
            title: What it shows.
            rows: A row per system, or per whatever else the table lists.
            runs: For each row the rows of the single runs behind it; none where left out. Where
                there are any, a column `Seeds` counts them; it opens them on the page.
            note: What stands under it.
            labels: Number of label columns.
            page: `paper`, `open`, `more` and `style`.
        """
        columns = list(dict.fromkeys(c for row in rows for c in row))
        below = list(runs) or [[] for _ in rows]
        if any(below) and "Seeds" not in columns:
            columns.insert(labels, "Seeds")
            rows = [{"Seeds": str(len(b) or 1)} | r for r, b in zip(rows, below, strict=True)]
            below = [[{"Seeds": ""} | run for run in own] for own in below]
        entries = [
            Entry(_cells(row, columns), [_cells(run, columns) for run in own])
            for row, own in zip(rows, below, strict=True)
        ]
        spread = {i for e in entries for i, cell in enumerate(e.cells) if cell.sd}
        entries = [
            Entry([_dashed(c, i in spread) for i, c in enumerate(e.cells)], e.runs) for e in entries
        ]
        note = " ".join(part for part in (note, SPREAD if spread else "") if part)
        sheet = cls(name, title, columns, entries, note, labels, **page)
        lines = [line for e in entries for line in (e.cells, *e.runs)]
        known = {i for line in lines for i, cell in enumerate(line) if cell.text not in ("–", "")}
        return sheet._with([i for i in range(len(columns)) if i < labels or i in known])

    def _with(self, places: Sequence[int]) -> "Sheet":
        """Return the sheet with some of its columns."""
        entries = [
            Entry([e.cells[i] for i in places], [[run[i] for i in places] for run in e.runs])
            for e in self.entries
        ]
        columns = [self.columns[i] for i in places]
        return dataclasses.replace(self, columns=columns, entries=entries)

    def of_one_benchmark(self, benchmark: str) -> "Sheet":
        """Return the sheet without averages, which of one benchmark are its own numbers again.

        A row of the average goes where a row of the benchmark has the same other labels, and is
        named after the benchmark where none has; a column goes where the benchmark has one.

        Args:
            benchmark: The only benchmark that the study measures.
        """
        labels = [[c.text for c in e.cells[: self.labels]] for e in self.entries]
        own = [row for row in labels if benchmark in row]
        doubled = [[AVERAGE if c == benchmark else c for c in row] for row in own]
        entries = [
            Entry(self._named(e.cells, benchmark), [self._named(r, benchmark) for r in e.runs])
            for e, row in zip(self.entries, labels, strict=True)
            if row not in doubled
        ]
        gone = AVERAGE if benchmark in self.columns else ""
        places = [i for i, column in enumerate(self.columns) if column != gone]
        return dataclasses.replace(self, entries=entries)._with(places)

    def _named(self, cells: list[Cell], benchmark: str) -> list[Cell]:
        """Return a line whose label `average` is the benchmark's name."""
        named = [c._replace(text=benchmark) if c.text == AVERAGE else c for c in cells]
        return [*named[: self.labels], *cells[self.labels :]]

    @property
    def frame(self) -> pd.DataFrame:
        """The cells with their intervals, without standard deviations."""
        return self._frame(Cell.printed)

    def _frame(self, text: Callable[[Cell], str]) -> pd.DataFrame:
        return pd.DataFrame([[*map(text, e.cells)] for e in self.entries], columns=self.columns)

    @property
    def spread(self) -> list[str]:
        """The columns with standard deviations."""
        sds = zip(*([c.sd for c in e.cells] for e in self.entries), strict=True)
        return [c for c, found in zip(self.columns, sds, strict=True) if any(found)]

    @property
    def place(self) -> int:
        """Where the column `Seeds` stands; -1 where there is none."""
        return self.columns.index("Seeds") if "Seeds" in self.columns else -1

    def on_page(self) -> Sequence[Entry]:
        """Return the rows that the page shows, the first `PAGE_ROWS`."""
        return self.entries[:PAGE_ROWS]

    @property
    def left_out(self) -> int:
        """How many rows the page leaves to the files."""
        return max(0, len(self.entries) - PAGE_ROWS)

    def save(self, folder: Path) -> None:
        """Write the table as `name.csv`, `name.md` and `name.tex` (booktabs).

        The CSV has standard deviations in columns of their own, `... sd`.
        """
        self._for_csv().to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        latex = table(
            self._frame(Cell.whole),
            caption=f"{self._caption()}. {SPREAD}" if self.spread else self._caption(),
            label=f"tab:{self.name}",
            labels=self.labels,
        )
        (folder / f"{self.name}.tex").write_text(latex, encoding="utf-8")

    def _for_csv(self) -> pd.DataFrame:
        frame, spread = self.frame, self.spread
        for i, column in reversed([*enumerate(self.columns)]):
            if column in spread:
                frame.insert(i + 1, f"{column} sd", [e.cells[i].sd for e in self.entries])
        return frame

    def _caption(self) -> str:
        named = f"{self.title} ({self.paper} of the paper, for this study)"
        return named if self.paper else self.title

    def markdown(self) -> str:
        """Return the table under its title, with its note."""
        cells = [self.columns, *self._frame(Cell.whole).to_numpy().tolist()]
        lines = ["| " + " | ".join(_in_markdown(c) for c in row) + " |" for row in cells]
        align = [":--"] * self.labels + ["--:"] * (len(self.columns) - self.labels)
        body = "\n".join([lines[0], "|" + "|".join(align) + "|", *lines[1:]])
        return f"**{self._caption()}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def rows_link(
    *, system: str = "", benchmark: str = "", metric: str = "", reference: str = ""
) -> str:
    """Return the address that opens the rows of results.csv that fit."""
    wanted = {"system": system, "benchmark": benchmark, "metric": metric, "reference": reference}
    return _address("rows", wanted)


def items_link(*, run: str, benchmark: str = "", kind: str = "") -> str:
    """Return the address that opens the item browser on a distilled run."""
    return _address("items", {"run": run, "benchmark": benchmark, "kind": kind})


def number(row: Any | None, bare: bool = False, seeds: int = 0) -> Cell:
    """Return a row's value, linked to it; a dash for None.

    With it come its standard deviation over seeds and, unless `bare`, its interval.

    Args:
        row: A row of `seeds.Seeds`.
        bare: Leave out the interval.
        seeds: How many seeds the row's line has, to say where this number has fewer.
    """
    if row is None:
        return Cell("–")
    ends = "" if bare or math.isnan(row.low) else ends_of(row.metric, row.low, row.high)
    sd = spread(row.metric, row.sd) if row.seeds > 1 else ""
    if row.seeds < seeds:
        sd = f"{sd or '–'} ({row.seeds} of {seeds} seeds)"
    return Cell(shown(row.metric, row.value), link_of(row), sd, ends)


def bare(
    numbers: Numbers, r: Any, metric: str, benchmark: str = AVERAGE, reference: str = ""
) -> Cell:
    """Return a number of a row's system without its interval (`number`)."""
    row = numbers.row(r.system, metric, benchmark, reference)
    return number(row, bare=True, seeds=r.seeds)


def link_of(row: Any) -> str:
    """Return the address of one row of the results table."""
    return rows_link(
        system=row.system, benchmark=row.benchmark, metric=row.metric, reference=row.reference
    )


def _address(kind: str, wanted: Mapping[str, str]) -> str:
    given = {key: value for key, value in wanted.items() if value}
    return f"#{kind}?{urlencode(given, quote_via=quote, safe='')}"


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Cell]:
    cells = (row.get(c, "–") for c in columns)
    return [c if isinstance(c, Cell) else Cell(str(c)) for c in cells]


def _dashed(cell: Cell, spread: bool) -> Cell:
    """Give a number the dash of one seed where others of its column have a standard deviation."""
    return cell._replace(sd="–") if spread and not cell.sd and cell.text != "–" else cell


def _in_markdown(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
