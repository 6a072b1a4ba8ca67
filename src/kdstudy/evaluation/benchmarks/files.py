"""Benchmarks that are files: in the data folder, else in the cache, else a pinned download."""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdstudy.data.download import Progress, cache_dir, fetch, holds
from kdstudy.errors import InputError, KdstudyError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.benchmarks.rows import Row, from_rows, parse

Place = Literal[
    "data folder",
    "data folder, edited",
    "data folder, unchecked",
    "cache",
    "cache, damaged",
    "nowhere",
]


class EditedBenchmark(UserWarning):
    """A file in the data folder is not the published one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A published file.

    Attributes:
        url: Where it is, at a fixed commit.
        sha256: Hash of its bytes, in hexadecimal.
        wrap: Makes one of its rows a row as `from_rows` takes it, raising ValueError with what is
            wrong; None where they are such rows and the file in the data folder should be the same.
    """

    url: str
    sha256: str
    wrap: Callable[[Any], dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """A benchmark at `<data_dir>/<family>/<folder>/<file>`, whose rows `from_rows` takes.

    Folder names are compared without case.

    Attributes:
        aliases: Other names it is known under.
        items: How many items the published set has.
        licence: Of the data; `*` marks what is commonly stated and not checked at its origin.
        pin: The published file; None where none is known.
        get: Where to get the file by hand.
        first: Only so many items from the file's beginning belong to the set.
    """

    name: str
    family: str
    folder: str
    file: str = "test.json"
    aliases: tuple[str, ...] = ()
    kind: Kind = "number"
    labels: tuple[str, ...] = ()
    items: int
    licence: str
    pin: Pin | None = None
    get: str = ""
    first: int | None = None
    version: str = "1"

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return the sha256, in hexadecimal, of the bytes that `load` reads.

        Where the file is not in the data folder that is the published file's, which need not be
        here yet.

        Raises:
            InputError: The file is nowhere and no published one is known, or it cannot be read.
        """
        path = self._local(data_dir)
        if path is None:
            return self._pin(data_dir).sha256
        return hashlib.sha256(_read(path)).hexdigest()

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark, downloading its file if need be.

        Warns:
            EditedBenchmark: The file in the data folder is not the published one. It is used.

        Raises:
            InputError: The file is nowhere and may not be downloaded, is empty or malformed.
            StageError: The download failed.
        """
        path = self._local(data_dir)
        if path is not None:
            data = _read(path)
            if self.published(hashlib.sha256(data).hexdigest()) is False:
                warnings.warn(
                    f"{self.name}: {path} is not the published file; scores on it compare with no "
                    "others",
                    EditedBenchmark,
                    stacklevel=3,
                )
            return self._benchmark(path, data, None)
        path = self.fetch(data_dir)
        return self._benchmark(path, _read(path), self._pin(data_dir).wrap)

    def fetch(self, data_dir: Path | None, progress: Progress | None = None) -> Path:
        """Return the file's path, having downloaded it into the cache if it is nowhere.

        Raises:
            InputError: No published file is known, or `HF_HUB_OFFLINE` is set.
            StageError: The download failed.
        """
        path = self._local(data_dir)
        if path is not None:
            return path
        pin = self._pin(data_dir)
        try:
            return fetch(pin.url, pin.sha256, self._cached(pin), progress=progress)
        except KdstudyError as e:
            e.what = f"{self.name}: {e.what}"
            e.remedy += f"; or put it at {self._wanted(data_dir)}" if pin.wrap is None else ""
            raise

    def training_file(self, data_dir: Path | None) -> Path | None:
        """Return the file of training rows beside the set's own in the data folder, if any."""
        path = self._local(data_dir)
        beside = [path.with_name(f"train{end}") for end in (".jsonl", ".json")] if path else []
        return next((found for found in beside if found.is_file()), None)

    def place(self, data_dir: Path | None) -> Place:
        """Return where the file is that `load` would read, and whether it is as published.

        Raises:
            InputError: There is no such data folder, or the file cannot be read.
        """
        if self._local(data_dir) is not None:
            same = self.published(self.fingerprint(data_dir))
            if same is None:
                return "data folder, unchecked"
            return "data folder" if same else "data folder, edited"
        if self.pin is None or not self._cached(self.pin).exists():
            return "nowhere"
        whole = holds(self._cached(self.pin), self.pin.sha256)
        return "cache" if whole else "cache, damaged"

    def published(self, fingerprint: str) -> bool | None:
        """Return whether these are the published bytes; None when there is nothing to compare."""
        if self.pin is None:
            return None
        if fingerprint == self.pin.sha256:
            return True
        # The file in the data folder is another form of what is published.
        return None if self.pin.wrap is not None else False

    def remedy(self, data_dir: Path | None) -> str:
        """Return how to get the file by hand."""
        return f"put {self.get or 'the file'} at {self._wanted(data_dir)}"

    def _benchmark(
        self, path: Path, data: bytes, wrap: Callable[[Any], dict[str, Any]] | None
    ) -> Benchmark:
        rows = parse(data, str(path), lines=path.suffix == ".jsonl")[: self.first]
        if wrap is not None:
            rows = [_wrapped(row, wrap, path) for row in rows]
        return from_rows(
            self.name, rows, self.kind, labels=self.labels, version=self.version, where=str(path)
        )

    def _local(self, data_dir: Path | None) -> Path | None:
        """Return the file in the data folder, None when it is not there."""
        if data_dir is None:
            return None
        check_folder(data_dir)
        folder: Path | None = Path(data_dir)
        for part in (self.family, self.folder):
            folder = folder and _child(folder, part)
        path = folder and folder / self.file
        return path if path and path.is_file() else None

    def _pin(self, data_dir: Path | None) -> Pin:
        if self.pin is None:
            raise InputError(
                f"{self.name}: its file is not here",
                why="no published copy is known whose bytes could be checked, so it is not "
                "downloaded",
                remedy=self.remedy(data_dir),
            )
        return self.pin

    def _cached(self, pin: Pin) -> Path:
        name = f"{self.name}-{pin.sha256[:16]}{Path(pin.url).suffix}"
        return cache_dir() / "benchmarks" / name

    def _wanted(self, data_dir: Path | None) -> str:
        inside = f"{self.family}/{self.folder}/{self.file}"
        if data_dir is not None:
            return str(Path(data_dir) / inside)
        return f"DIR/{inside} and give --data-dir DIR (or set KDSTUDY_DATA)"


def check_folder(data_dir: Path | None) -> None:
    """Raise InputError if a data folder is named and is none: a slip must not start downloads."""
    # Unlike Path.is_dir, os.path's takes what is too long for a path as no folder.
    if data_dir is not None and not os.path.isdir(data_dir):
        raise InputError(
            f"{data_dir}: there is no such data folder",
            remedy="correct --data-dir or the environment variable KDSTUDY_DATA",
        )


def _wrapped(row: Row, wrap: Callable[[Any], dict[str, Any]], path: Path) -> Row:
    try:
        return Row(row.place, wrap(row.content))
    except ValueError as e:
        raise InputError(f"{path}, {row.place}: {e}") from e


def _child(folder: Path, name: str) -> Path | None:
    """Return the folder's entry of that name; an exact match wins over one in another case."""
    if (folder / name).is_dir():
        return folder / name
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return next((e for e in entries if e.name.casefold() == name.casefold() and e.is_dir()), None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror})") from e
