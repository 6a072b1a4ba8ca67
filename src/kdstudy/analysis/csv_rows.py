"""A CSV file as text cells by column, each row under the line of the file that it begins on."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from kdstudy.errors import InputError


def read_rows(path: Path) -> pd.DataFrame:
    """Return a CSV table as text; the index holds lines of the file, the header's being the first.

    Blank lines are skipped, as are empty cells beyond the header's at a row's end (a trailing
    comma); cells that a row lacks at its end are empty.

    Raises:
        InputError: The file cannot be read or is no table, a row has more cells than the header,
            or a column is named twice.
    """
    try:
        # Opened here: given a name, pandas would fetch what looks like an address.
        with path.open(encoding="utf-8-sig", newline="") as f:
            return _rows(f, path)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not a CSV table (no UTF-8 text: {e.reason})") from e


def rows_of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table as `read_rows` returns the file that `table.to_csv(index=False)` writes.

    Args:
        table: Its index is left out.
        name: What errors call it.
    """
    return _rows(io.StringIO(table.to_csv(index=False), newline=""), name)


def _rows(lines: Iterable[str], name: Path | str) -> pd.DataFrame:
    rows: dict[int, list[str]] = {}
    reader, begins = csv.reader(lines, strict=True), 1
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                rows[begins] = cells
            # A quoted cell may hold line breaks: the next row begins behind this one's end.
            begins = reader.line_num + 1
    except csv.Error as e:
        raise InputError(f"{name}, line {begins}: is not a CSV table ({e})") from e
    if not rows:
        raise InputError(f"{name}: is not a CSV table (it is empty)")
    return _table(name, rows)


def _table(path: Path | str, rows: dict[int, list[str]]) -> pd.DataFrame:
    (_, header), *others = rows.items()
    while len(header) > 1 and not header[-1].strip():
        header = header[:-1]
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise InputError(f"{path}: has two columns {twice[0]!r}", remedy="rename or drop one")
    width = len(header)
    for line, cells in others:
        if any(cell.strip() for cell in cells[width:]):
            raise InputError(
                f"{path}, line {line}: is not a CSV table ({len(cells)} cells, the header has "
                f"{width})",
                why="a cell could be under another column's name",
            )
    filled = [cells[:width] + [""] * (width - len(cells)) for _, cells in others]
    return pd.DataFrame(filled, index=[line for line, _ in others], columns=header, dtype="str")
