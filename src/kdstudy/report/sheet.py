"""One printed table: text cells with links to the rows behind them, and its files."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pandas as pd

from kdstudy.report.views import interval, shown

OF_PAPER = {
    **{f"table{n}": f"Table {n}" for n in (1, 2, 3, 4, 5, 6, 9)},
    "table7": "Tables 7 and 8",
    "accuracy": "Figures 1 and 7",
    "base-teacher": "Figure 2",
    "agreement": "Figures 3, 8 and 10",
    "fidelity": "Figures 4, 9 and 11",
    "noise": "Figure 5",
    "temperature": "Figure 6",
}
"""Which of the paper's tables or figures one of ours is, for this study."""

PAGE_ROWS = 300
"""A page holds so many rows of one table; its files hold all."""


class Cell(NamedTuple):
    """A cell that leads to the rows behind it."""

    text: str
    href: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One printed table: text cells, ready for HTML, Markdown, LaTeX and CSV.

    Attributes:
        name: File stem.
        title: What it shows.
        frame: Text cells; the first `labels` columns are row labels.
        links: Where each cell of `frame` leads on the page, "" for nowhere.
        note: One sentence under the table.
        labels: Number of label columns.
    """

    name: str
    title: str
    frame: pd.DataFrame
    links: pd.DataFrame
    note: str = ""
    labels: int = 1

    @classmethod
    def of(cls, name: str, title: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> "Sheet":
        """Make a sheet from rows of text or `Cell`; a cell that a row lacks is a dash."""
        columns = list(dict.fromkeys(c for row in rows for c in row))
        cells = [[_cell(row.get(c, "–")) for c in columns] for row in rows]
        frame, links = (
            pd.DataFrame([[cell[i] for cell in row] for row in cells], columns=columns)
            for i in (0, 1)
        )
        return cls(name=name, title=title, frame=frame, links=links, **more)

    @property
    def paper(self) -> str:
        """Which of the paper's tables it is, such as `Table 7`; "" for none."""
        return OF_PAPER.get(self.name, "")

    def on_page(self) -> Iterator[list[Cell]]:
        """Yield the rows that the page shows, the first `PAGE_ROWS`."""
        rows = zip(self.frame.to_numpy(), self.links.to_numpy(), strict=True)
        for texts, links in list(rows)[:PAGE_ROWS]:
            yield [Cell(text, href) for text, href in zip(texts, links, strict=True)]

    @property
    def left_out(self) -> int:
        """How many rows the page leaves to the files."""
        return max(0, len(self.frame) - PAGE_ROWS)

    def save(self, folder: Path) -> None:
        """Write the table as `name.csv`, `name.md` and `name.tex` (booktabs)."""
        self.frame.to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self._markdown(), encoding="utf-8")
        latex = self.frame.to_latex(
            index=False,
            escape=True,
            caption=self._caption(),
            label=f"tab:{self.name}",
            column_format="l" * self.labels + "r" * (self.frame.shape[1] - self.labels),
        )
        (folder / f"{self.name}.tex").write_text(latex, encoding="utf-8")

    def _caption(self) -> str:
        return (
            f"{self.title} ({self.paper} of the paper, for this study)"
            if self.paper
            else (self.title)
        )

    def _markdown(self) -> str:
        cells = [list(self.frame.columns), *self.frame.to_numpy().tolist()]
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


def number(row: Any | None, bare: bool = False) -> Cell:
    """Return a row's value, with its interval unless `bare`, linked to it; a dash for None."""
    if row is None:
        return Cell("–")
    text = interval(row.metric, row.value, row.low, row.high)
    return Cell(shown(row.metric, row.value) if bare else text, link_of(row))


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


def _in_markdown(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
