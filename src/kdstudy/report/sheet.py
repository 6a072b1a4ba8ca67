"""One printed table: text cells with links to the rows behind them, and its files."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
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


class Entry(NamedTuple):
    """A row of a table as the page shows it: its cells, and those of each run behind it."""

    cells: list[Cell]
    runs: list[list[Cell]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One printed table: text cells, ready for HTML, Markdown, LaTeX and CSV.

    Attributes:
        name: File stem.
        title: What it shows.
        frame: Text cells, without standard deviations; the first `labels` columns are row labels.
        links: Where each cell of `frame` leads on the page, "" for nowhere.
        entries: The same cells with standard deviations, and the runs behind each row.
        note: One sentence under the table.
        labels: Number of label columns.
        paper: Which of the paper's tables it is, for this study, such as `Table 3`; "" for none.
        open: Whether the page shows it without a click.
        more: Where the page leads for the rows that it leaves out.
        style: CSS class of a table that is no table of numbers.
    """

    name: str
    title: str
    frame: pd.DataFrame
    links: pd.DataFrame
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
        entries, columns = _without_dashes(entries, columns, labels)
        return cls(
            name=name,
            title=title,
            frame=_frame([[c.printed() for c in e.cells] for e in entries], columns),
            links=_frame([[c.href for c in e.cells] for e in entries], columns),
            entries=entries,
            note=" ".join(part for part in (note, SPREAD if spread else "") if part),
            labels=labels,
            **page,
        )

    def of_one_benchmark(self, benchmark: str) -> "Sheet":
        """Return the sheet without averages, which of one benchmark are its own numbers again.

        A row of the average goes where a row of the benchmark has the same other labels, and is
        named after the benchmark where none has; a column goes where the benchmark has one.

        Args:
            benchmark: The only benchmark that the study measures.
        """
        columns = list(self.frame.columns)
        labels = [[c.text for c in e.cells[: self.labels]] for e in self.entries]
        own = [row for row in labels if benchmark in row]
        doubled = [[AVERAGE if c == benchmark else c for c in row] for row in own]
        kept = [e for e, row in zip(self.entries, labels, strict=True) if row not in doubled]
        entries = [
            Entry(self._named(e.cells, benchmark), [self._named(r, benchmark) for r in e.runs])
            for e in kept
        ]
        if {benchmark, AVERAGE} <= set(columns):
            at = columns.index(AVERAGE)
            columns = columns[:at] + columns[at + 1 :]
            entries = [
                Entry(_without(e.cells, at), [_without(r, at) for r in e.runs]) for e in entries
            ]
        return dataclasses.replace(
            self,
            entries=entries,
            frame=_frame([[c.printed() for c in e.cells] for e in entries], columns),
            links=_frame([[c.href for c in e.cells] for e in entries], columns),
        )

    def _named(self, cells: list[Cell], benchmark: str) -> list[Cell]:
        """Return a line whose label `average` is the benchmark's name."""
        named = [c._replace(text=benchmark) if c.text == AVERAGE else c for c in cells]
        return [*named[: self.labels], *cells[self.labels :]]

    @property
    def spread(self) -> list[str]:
        """The columns with standard deviations."""
        sds = zip(*([c.sd for c in e.cells] for e in self.entries), strict=True)
        return [c for c, found in zip(self.frame.columns, sds, strict=True) if any(found)]

    @property
    def place(self) -> int:
        """Where the column `Seeds` stands; -1 where there is none."""
        columns = list(self.frame.columns)
        return columns.index("Seeds") if "Seeds" in columns else -1

    def on_page(self) -> Iterator[Entry]:
        """Yield the rows that the page shows, the first `PAGE_ROWS`."""
        yield from self.entries[:PAGE_ROWS]

    @property
    def left_out(self) -> int:
        """How many rows the page leaves to the files."""
        return max(0, len(self.frame) - PAGE_ROWS)

    def save(self, folder: Path) -> None:
        """Write the table as `name.csv`, `name.md` and `name.tex` (booktabs).

        The CSV has standard deviations in columns of their own, `... sd`.
        """
        self._for_csv().to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self._markdown(), encoding="utf-8")
        latex = table(
            self._whole(),
            caption=f"{self._caption()}. {SPREAD}" if self.spread else self._caption(),
            label=f"tab:{self.name}",
            labels=self.labels,
        )
        (folder / f"{self.name}.tex").write_text(latex, encoding="utf-8")

    def _for_csv(self) -> pd.DataFrame:
        spread, found = self.spread, {}
        for i, column in enumerate(self.frame.columns):
            found[column] = self.frame[column]
            if column in spread:
                found[f"{column} sd"] = [e.cells[i].sd for e in self.entries]
        return pd.DataFrame(found)

    def _whole(self) -> pd.DataFrame:
        """Return the cells with everything that they hold."""
        return _frame([[_whole(c) for c in e.cells] for e in self.entries], self.frame.columns)

    def _caption(self) -> str:
        named = f"{self.title} ({self.paper} of the paper, for this study)"
        return named if self.paper else self.title

    def _markdown(self) -> str:
        cells = [list(self.frame.columns), *self._whole().to_numpy().tolist()]
        lines = ["| " + " | ".join(_in_markdown(c) for c in row) + " |" for row in cells]
        align = [":--"] * self.labels + ["--:"] * (self.frame.shape[1] - self.labels)
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


def _cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell(str(value))


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Cell]:
    return [_cell(row.get(c, "–")) for c in columns]


def _dashed(cell: Cell, spread: bool) -> Cell:
    """Give a number the dash of one seed where others of its column have a standard deviation."""
    return cell._replace(sd="–") if spread and not cell.sd and cell.text != "–" else cell


def _without_dashes(
    entries: list[Entry], columns: list[str], labels: int
) -> tuple[list[Entry], list[str]]:
    """Leave out columns, behind the labels, in which neither a row nor a run has anything."""
    lines = [line for e in entries for line in (e.cells, *e.runs)]
    empty = [
        i
        for i in range(labels, len(columns))
        if lines and all(line[i].text in ("–", "") for line in lines)
    ]
    for i in reversed(empty):
        columns = columns[:i] + columns[i + 1 :]
        entries = [Entry(_without(e.cells, i), [_without(r, i) for r in e.runs]) for e in entries]
    return entries, columns


def _without(cells: Sequence[Cell], place: int) -> list[Cell]:
    return [*cells[:place], *cells[place + 1 :]]


def _whole(cell: Cell) -> str:
    value = f"{cell.text} ± {cell.sd}" if cell.sd else cell.text
    return f"{value} ({cell.ends})" if cell.ends else value


def _frame(cells: list[list[str]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(cells, columns=list(columns))


def _in_markdown(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
