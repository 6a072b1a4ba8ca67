"""Some rows of a file written again, as they are, in the file's own type. Never imports torch."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from kdstudy.data.files import PACKED, json_list, kind, lines, named, opened, records
from kdstudy.errors import InputError

_Put = Callable[[bytes], None]


def write_some(source: Path, rows: Collection[int], out: Path, first: int = 1) -> int:
    """Write some rows of a file as they are: lines keep their bytes, Parquet its schema.

    Whether the new file is packed, and how, its own name says; where that ends in nothing known, it
    is packed as the source is.

    Args:
        source: The file.
        rows: Numbers of the rows to write; they keep their order.
        out: The new file; it is there whole or not at all.
        first: Number of the source's first row.

    Returns:
        How many rows the source has.

    Raises:
        InputError: It cannot be written, or is named as another type than the source.
    """
    how, name = kind(source), named(out)
    if name.kind not in ("", how):
        raise InputError(
            f"{out}: is named as {name.kind}, and {source.name} is {how}",
            why="rows are written as they are, in the type that they were read in",
            remedy=f"give a name that ends in {named(source).suffix or '.json'}",
        )
    packing = name.packing if name.kind else named(source).packing
    with _made(out) as part:
        if how == "parquet":
            return _some_parquet(source, rows, part, first)
        with opened(source) as given, _packed(part, packing) as put:
            if how == "json":
                whole = json_list(source, given)
                kept = [row for n, row in enumerate(whole, start=first) if n in rows]
                put(_json(kept, indent=4) + b"\n")
                return len(whole)
            if how == "jsonl":
                return _some_lines((line for _, line in lines(given)), rows, put, first)
            texts = (record.text.encode() for record in records(source, given))
            put(_ended(next(texts, b"")))
            return _some_lines(texts, rows, put, first)


def write_objects(rows: Iterable[Any], out: Path) -> None:
    """Write rows as JSON Lines.

    Raises:
        InputError: The file cannot be written, or a row holds what JSON has not.
    """
    with _made(out) as part, _packed(part, named(out).packing) as put:
        for row in rows:
            put(_json(row) + b"\n")


def _some_lines(texts: Iterable[bytes], rows: Collection[int], put: _Put, first: int) -> int:
    number = first - 1
    for number, text in enumerate(texts, start=first):
        if number in rows:
            put(_ended(text))
    return number - first + 1


def _ended(line: bytes) -> bytes:
    return line if not line or line.endswith((b"\n", b"\r")) else line + b"\n"


def _some_parquet(source: Path, rows: Collection[int], part: Path, first: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = first
    try:
        with (
            pq.ParquetFile(source) as file,
            pq.ParquetWriter(part, file.schema_arrow) as writer,
        ):
            for batch in file.iter_batches():
                kept = [i for i in range(batch.num_rows) if number + i in rows]
                writer.write_table(pa.Table.from_batches([batch]).take(kept))
                number += batch.num_rows
    except pa.ArrowException as e:
        raise InputError(f"{source}: cannot be written again ({e})") from e
    return number - first


def _json(value: Any, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            return text.encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair: JSON can escape it, UTF-8 cannot hold it.
            return json.dumps(value, indent=indent).encode()
    except (TypeError, ValueError) as e:
        raise InputError(f"a row cannot be written as JSON ({e})") from e


@contextlib.contextmanager
def _made(out: Path) -> Iterator[Path]:
    """Give a file beside `out` that gets its name once it is whole."""
    out = out.absolute()
    part = out.with_name(f".{out.name}.part")
    try:
        yield part
        os.replace(part, out)
    except OSError as e:
        raise _unwritable(out, e) from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def _packed(part: Path, packing: str) -> Iterator[_Put]:
    """Give a function that writes bytes; its failures are not those of what is read meanwhile."""
    with contextlib.ExitStack() as files:
        if packing:
            import pyarrow as pa

            stream: Any = files.enter_context(pa.CompressedOutputStream(str(part), PACKED[packing]))
        else:
            stream = files.enter_context(part.open("wb"))

        def put(data: bytes) -> None:
            try:
                stream.write(data)
            except OSError as e:
                raise _unwritable(part, e) from e

        yield put


def _unwritable(path: Path, e: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({e.strerror or e})")
