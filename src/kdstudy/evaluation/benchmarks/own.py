"""A user's own benchmarks: a file, or a class that another package registers."""

import functools
import hashlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from kdstudy.errors import InputError, KdstudyError
from kdstudy.evaluation.benchmarks.base import KINDS, Benchmark, Kind, Source
from kdstudy.evaluation.benchmarks.rows import from_rows, parse

GROUP = "kdstudy.benchmarks"
"""Entry points of this group name a `Source`, or a class that makes one without arguments."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnFile:
    """A benchmark in a file anywhere; the data folder is not looked at."""

    name: str
    path: Path
    kind: Kind
    labels: tuple[str, ...] = ()

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return a hash of the file's bytes and of how they are read.

        Raises:
            InputError: The file cannot be read.
        """
        read_as = f"{self.kind}:{','.join(self.labels)}:".encode()
        return hashlib.sha256(read_as + self._data()).hexdigest()

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark.

        Raises:
            InputError: The file cannot be read, is empty or has a malformed row.
        """
        where = str(self.path)
        rows = parse(self._data(), where, lines=self.path.suffix.lower() == ".jsonl")
        return from_rows(self.name, rows, self.kind, labels=self.labels, where=where)

    def _data(self) -> bytes:
        if self.path.exists() and not self.path.is_file():
            raise InputError(
                f"{self.name}: {self.path}: is no file",
                why="a benchmark is read more than once, by whoever needs it",
                remedy="write a pipe's contents to a file first"
                if self.path.is_fifo()
                else "give a file of items",
            )
        try:
            return self.path.read_bytes()
        except OSError as e:
            raise InputError(f"{self.name}: {self.path}: cannot be read ({e.strerror})") from e


def checked_file(name: str, path: Path, kind: Kind, labels: tuple[str, ...]) -> OwnFile:
    """Return a file as a benchmark; see `benchmarks.from_file`.

    Raises:
        InputError: A name that cannot be used, an unknown kind, or labels that cannot be.
    """
    require_name(name)
    if kind not in KINDS:
        raise InputError(
            f"benchmark {name}: kind is {kind!r}", remedy=f"write one of {', '.join(KINDS)}"
        )
    if labels and kind != "choice":
        raise InputError(f"benchmark {name}: labels are for kind choice, and kind is {kind}")
    usable = [isinstance(v, str) and bool(v) and v == v.strip().lower() for v in labels]
    if labels and (not all(usable) or len(labels) < 2 or len(set(labels)) < len(labels)):
        raise InputError(
            f"benchmark {name}: labels are {list(labels)}",
            why="there must be two or more different texts in lower case",
            remedy="write them so in the file's answers as well",
        )
    return OwnFile(name=name, path=Path(path).expanduser(), kind=kind, labels=labels)


def require_name(name: str) -> None:
    """Refuse a name that no benchmark of one's own can have, with an InputError."""
    if not _NAME.fullmatch(name) or name.casefold() == "average":
        raise InputError(
            f"benchmark name {name!r}",
            why="it must be letters, digits, '.', '-' and '_'; 'average' is taken by the tables",
            remedy="choose another name",
        )


def registered() -> dict[str, list[EntryPoint]]:
    """Return what other packages register, by name; nothing of it is imported."""
    return dict(_registered(tuple((path, _changed(path)) for path in sys.path)))


@functools.lru_cache(maxsize=4)
def _registered(_: tuple[tuple[str, int], ...]) -> dict[str, list[EntryPoint]]:
    """Read every package's entry points, which takes longer than all else that a plan reads."""
    found = defaultdict(list)
    for entry in entry_points(group=GROUP):
        found[entry.name].append(entry)
    return dict(found)


def _changed(folder: str) -> int:
    """Return when something was last put into a folder of `sys.path`, such as a package."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def plugin(name: str, entries: Sequence[EntryPoint]) -> Source:
    """Import a registered benchmark.

    Raises:
        InputError: Two packages register the name, or what is registered is no `Source`.
    """
    if len(entries) > 1:
        packages = ", ".join(_package(e) for e in entries)
        raise InputError(
            f"benchmark {name}: registered by {packages}", remedy="uninstall all of them but one"
        )
    entry = entries[0]
    where = f"benchmark {name}: {entry.value} of {_package(entry)}"
    remedy = "repair or uninstall that package; other benchmarks are not affected"
    try:
        made = entry.load()
        source = made() if isinstance(made, type) else made
    except Exception as e:
        raise InputError(f"{where} cannot be loaded ({_brief(e)})", remedy=remedy) from e
    if not isinstance(source, Source) or source.name != name or source.kind not in KINDS:
        raise InputError(
            f"{where} is no benchmark",
            why=f"it must have name = {name!r}, kind (one of {', '.join(KINDS)}), "
            "fingerprint(data_dir) and load(data_dir)",
            remedy=remedy,
        )
    return _Guarded(source, where)


class _Guarded:
    """A foreign source whose failures are told apart from ours."""

    def __init__(self, source: Source, where: str):
        self._source, self._where = source, where
        self.name, self.kind = source.name, source.kind
        self.labels = tuple(getattr(source, "labels", ()))

    def fingerprint(self, data_dir: Path | None) -> str:
        return str(self._called("fingerprint", data_dir))

    def load(self, data_dir: Path | None) -> Benchmark:
        made = self._called("load", data_dir)
        if not isinstance(made, Benchmark) or not made.examples or made.name != self.name:
            raise InputError(
                f"{self._where}: load returns no Benchmark named {self.name} with items",
                remedy="make it with kdstudy.evaluation.benchmarks.from_rows",
            )
        return made

    def _called(self, method: str, data_dir: Path | None) -> object:
        try:
            return getattr(self._source, method)(data_dir)
        except KdstudyError:
            raise
        except Exception as e:
            raise InputError(f"{self._where}: {method} fails ({_brief(e)})") from e


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"


def _brief(e: Exception) -> str:
    return f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
