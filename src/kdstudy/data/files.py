"""Files of rows, whatever their type, read row by row. Never imports torch.

JSON Lines, a JSON list, CSV, TSV and Parquet; all but Parquet also packed by gzip or Zstandard. A
folder is its files in the order of their names.
"""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kdstudy.errors import InputError

TYPES = ".jsonl, .json, .csv, .tsv (each also with .gz or .zst) or .parquet"
"""What a file of rows may end in, in words."""
PACKED = {".gz": "gzip", ".zst": "zstd"}
_KINDS = {
    **{".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"},
    **{".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"},
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_LONGEST_CELL = 2**31 - 1
_BOM = b"\xef\xbb\xbf"
_BATCH = 1024  # rows of Parquet that are Python objects at a time
# How shards are named after the split that they belong to.
_SPLIT = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev|eval)(?=[-_.])")
_SAME_SPLIT = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}


class Name(NamedTuple):
    """What a file's name says.

    Attributes:
        stem: The name without its type.
        kind: json, jsonl, csv, tsv, parquet; '' where it ends in nothing known.
        packing: .gz or .zst, in lower case; '' for none.
        suffix: What says so, such as `.jsonl.gz`.
    """

    stem: str
    kind: str
    packing: str
    suffix: str


class Record(NamedTuple):
    """A row of CSV: the line that it begins on, its text as it stands there, and its cells."""

    line: int
    text: str
    cells: list[str]


def named(path: Path) -> Name:
    """Return what a file's name says."""
    bare, packing = path.name, ""
    if Path(bare).suffix.lower() in PACKED:
        bare, packing = Path(bare).stem, Path(bare).suffix.lower()
    known = _KINDS.get(Path(bare).suffix.lower(), "")
    if not known or (known == "parquet" and packing):
        return Name(path.name, "", "", "")
    stem = Path(bare).stem
    return Name(stem, known, packing, path.name[len(stem) :])


def kind(path: Path) -> str:
    """Return how a file is read: json, jsonl, csv, tsv or parquet; of a folder, its files.

    A file whose name ends in nothing known is taken for a JSON list.
    """
    return named(shards(path)[0]).kind or "json"


def shards(path: Path) -> list[Path]:
    """Return the files of a path: itself, or those that a folder holds, in the order of names.

    Raises:
        InputError: There is nothing, or a folder without rows, or with files of several types or
            of several splits.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file", remedy="check the path")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        raise InputError(
            f"{path}: is a folder that datasets' save_to_disk wrote",
            remedy="write one split as a file: load_from_disk(...).to_parquet('rows.parquet')",
        )
    files = (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    found = sorted(p for p in files if named(p).kind)
    if not found:
        raise InputError(
            f"{path}: is a folder that holds no file of rows", remedy=f"give a file, {TYPES}"
        )
    if len({named(p).kind for p in found}) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise InputError(
            f"{path}: is a folder with files of several types ({names})",
            remedy="give one file, or a folder of one type",
        )
    splits = {_split(p) for p in found}
    if len(splits) > 1:
        raise InputError(
            f"{path}: is a folder with files of several splits ({', '.join(sorted(splits))})",
            why="rows for testing would be trained on",
            remedy="give one file, or a folder that holds one split",
        )
    return found


def read(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of one file; the place is `line 3` or, where there are no lines, `row 3`.

    Args:
        path: The file.
        columns: Of Parquet, which columns to read; all where it has none of them.

    Raises:
        InputError: It cannot be read, or is not what its name says; the place is named.
    """
    how = kind(path)
    if how == "parquet":
        yield from _parquet_rows(path, columns)
        return
    with opened(path) as stream:
        if how == "jsonl":
            for number, line in lines(stream):
                yield f"line {number}", _object(path, number, line)
        elif how == "json":
            for number, row in enumerate(json_list(path, stream), start=1):
                yield f"row {number}", row
        else:
            yield from _table(path, records(path, stream))


def columns_of(path: Path) -> list[str]:
    """Return the names of all columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{path}: is not Parquet that can be read ({e})") from e


def is_null(value: Any) -> bool:
    """Return whether a value says that there is none: null, or the number that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def table_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a table (Parquet, a Hub data set) without the nulls that tables are made of.

    A cell with nothing in it is an empty text. Inside a cell, a field that is null is left out:
    Arrow gives every struct of a column all the fields that any of them has.
    """
    return {name: "" if is_null(cell) else _pruned(cell) for name, cell in row.items()}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked; what fails while it is read is told like an opening.

    Raises:
        InputError: It is not there, cannot be read, or is damaged.
    """
    with contextlib.ExitStack() as open_files:
        try:
            stream: Any = open_files.enter_context(path.open("rb"))
            if packing := named(path).packing:
                import pyarrow as pa

                unpacked = pa.CompressedInputStream(pa.PythonFile(stream), PACKED[packing])
                stream = open_files.enter_context(io.BufferedReader(unpacked))
            yield stream
        except OSError as e:
            raise InputError(f"{path}: cannot be read ({e.strerror or e})") from e


def lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of every line that is not blank; no byte order mark, ends kept."""
    # Lines of bytes end in \n alone: JSON strings may hold U+2028 and other ends of lines.
    for number, line in enumerate(stream, start=1):
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, line


def json_list(path: Path, stream: BinaryIO) -> list[Any]:
    """Return a JSON list of rows.

    Raises:
        InputError: It is none, or no UTF-8.
    """
    try:
        rows = json.loads(stream.read().decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: is not UTF-8 text (byte {e.start})") from e
    except json.JSONDecodeError as e:
        raise InputError(
            f"{path}, line {e.lineno}: is not JSON ({e.msg})",
            remedy="a file with one object per line must end in .jsonl; "
            f"other types end in {TYPES}",
        ) from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is JSON that cannot be read ({e})") from e
    if not isinstance(rows, list):
        raise InputError(f"{path}: is no JSON list of rows", remedy="write [{...}, {...}]")
    return rows


def records(path: Path, stream: BinaryIO) -> Iterator[Record]:
    """Yield the rows of CSV or TSV, the header first; blank lines are skipped.

    Raises:
        InputError: A row is no CSV, or no UTF-8; its line is named.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    held: list[str] = []

    def each() -> Iterator[str]:
        for line in text:
            held.append(line)
            yield line

    csv.field_size_limit(_LONGEST_CELL)
    # strict: else a quote that nothing closes takes all further rows into one cell.
    reader = csv.reader(each(), delimiter=_DELIMITERS[kind(path)], strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield Record(line, "".join(held), cells)
            held.clear()
            line = reader.line_num + 1
    except csv.Error as e:
        raise InputError(
            f"{path}, line {line}: is not {kind(path).upper()} ({e})",
            remedy='a cell that holds a quote is written in quotes, each quote in it twice: "a""b"',
        ) from e
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}, at or behind line {line}: is not UTF-8 text ({e.reason})",
            remedy="save the file as UTF-8",
        ) from e


def _table(path: Path, rows: Iterator[Record]) -> Iterator[tuple[str, dict[str, str]]]:
    header = next(rows, None)
    if header is None:
        return
    names = header.cells
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise InputError(f"{path}, line {header.line}: two columns are called {', '.join(twice)}")
    for row in rows:
        if len(row.cells) != len(names):
            raise InputError(
                f"{path}, line {row.line}: has {len(row.cells)} cells, and the header {len(names)}",
                remedy="put a cell that holds the separator or a line break in quotes",
            )
        yield f"line {row.line}", dict(zip(names, row.cells, strict=True))


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}, line {number}: is not UTF-8 text ({e.reason})", remedy="save it as UTF-8"
        ) from e
    except json.JSONDecodeError as e:
        raise InputError(f"{path}, line {number}: is not JSON ({e.msg})") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}, line {number}: is JSON that cannot be read ({e})") from e
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: is not a JSON object")
    return row


def _parquet_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            chosen = [n for n in file.schema_arrow.names if n in columns]
            for batch in file.iter_batches(batch_size=_BATCH, columns=chosen or None):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", table_row(row)
    except (pa.ArrowException, OSError) as e:
        why = (str(e).splitlines() or [""])[0][:200]
        raise InputError(f"{path}: is not Parquet that can be read ({why})") from e


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _pruned(v) for k, v in value.items() if v is not None}
    return [_pruned(v) for v in value] if isinstance(value, list) else value


def _split(path: Path) -> str:
    found = _SPLIT.search(path.name.lower())
    return _SAME_SPLIT.get(found[1], found[1]) if found else "unnamed"
