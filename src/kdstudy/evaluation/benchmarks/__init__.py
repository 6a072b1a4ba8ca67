"""Benchmarks by name. A new one is an entry in its family's SOURCES, or a package's own."""

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from kdstudy.config.refs import BenchmarkRef
from kdstudy.data import files as rows_of_files
from kdstudy.data import formats
from kdstudy.data.download import Progress
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks import commonsense, instruct, math, own, synthetic
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind, Source
from kdstudy.evaluation.benchmarks.files import EditedBenchmark, FileSource
from kdstudy.evaluation.benchmarks.harness import HarnessTask
from kdstudy.evaluation.benchmarks.overview import Overview, overview_of
from kdstudy.evaluation.benchmarks.rows import from_rows

__all__ = [
    "Benchmark",
    "EditedBenchmark",
    "HarnessTask",
    "Overview",
    "Source",
    "canonical",
    "domain",
    "fetch",
    "fingerprint",
    "from_file",
    "from_rows",
    "harness_task",
    "kind",
    "labels",
    "load",
    "meant",
    "names",
    "overview",
    "published",
    "training_rows",
]

_FILES: tuple[FileSource, ...] = (*math.SOURCES, *commonsense.SOURCES, *instruct.SOURCES)
_SOURCES: dict[str, Source] = {s.name: s for s in (*_FILES, *synthetic.SOURCES)}


def names() -> list[str]:
    """Return the names of all benchmarks, family by family, then those of other packages."""
    return [*_SOURCES, *_plugins()]


def canonical(name: str) -> str:
    """Return the registered name; case, dashes, underscores and spaces do not matter.

    A set's other names, such as `arc-challenge` or `openbookqa`, are known as well.

    Raises:
        InputError: There is no such benchmark.
    """
    known = {_bare(registered): registered for registered in _plugins()} | _ours()
    if _bare(name) in known:
        return known[_bare(name)]
    near = difflib.get_close_matches(_bare(name), known, n=1)
    hint = f"did you mean {known[near[0]]}? " if near else ""
    raise InputError(
        f"there is no benchmark {name!r}",
        remedy=f"{hint}the benchmarks are {', '.join(names())}",
    )


def kind(name: str) -> Kind:
    """Return what a benchmark's answers are, without reading it.

    Raises:
        InputError: There is no such benchmark.
    """
    return _source(name).kind


def domain(name: str) -> str:
    """Return `math`, `commonsense` or `instruct`; "" for a set of a user or of a package."""
    source = _SOURCES.get(_ours().get(_bare(name), ""))
    if isinstance(source, FileSource):
        return source.family
    return "math" if source is not None else ""


def labels(name: str) -> tuple[str, ...]:
    """Return what a benchmark's choices are called, without reading it; empty for letters.

    Raises:
        InputError: There is no such benchmark.
    """
    return getattr(_source(name), "labels", ())


def fingerprint(name: str, data_dir: Path | None = None) -> str:
    """Return the sha256, in hexadecimal, of a benchmark's content: equal hash, equal items.

    Of a file it is that of its bytes. A file that is not here yet has its published hash, so a plan
    needs no network.

    Raises:
        InputError: There is no such benchmark, no such data folder, or the file is nowhere and no
            published one is known.
    """
    return _source(name).fingerprint(data_dir)


def fetch(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> None:
    """Download a benchmark's published file unless `load` would find it on this machine.

    Args:
        name: As `canonical` takes it.
        data_dir: As `load` takes it.
        progress: Called with the bytes that are here and how many there will be (None: unknown).

    Raises:
        InputError: There is no such benchmark, no published file is known, or `HF_HUB_OFFLINE` is
            set.
        StageError: The download failed.
    """
    source = _source(name)
    if isinstance(source, FileSource):
        source.fetch(data_dir, progress)


def load(name: str, data_dir: Path | None = None) -> Benchmark:
    """Return a benchmark: from the data folder, else the cache, else a pinned download.

    Args:
        name: As `canonical` takes it.
        data_dir: Folder that holds `math/gsm8k/test.json` and so on; synthetic sets need none.

    Warns:
        EditedBenchmark: The file in the data folder is not the published one. It is used.

    Raises:
        InputError: There is no such benchmark; its file is nowhere and may not be downloaded; or it
            is empty or has a malformed row.
        StageError: The download failed.
    """
    return _source(name).load(data_dir)


def overview(name: str, data_dir: Path | None = None) -> Overview:
    """Return what is known of a benchmark without a download; what is wrong with it is a note.

    Raises:
        InputError: There is no such benchmark or data folder.
    """
    name = canonical(name)
    try:
        source = _source(name)
    except InputError as e:
        return Overview(name=name, kind=None, family="own", found="nowhere", note=e.what)
    if isinstance(source, FileSource):
        family = source.family
    else:
        family = "synthetic" if source.name in _SOURCES else "own"
    return overview_of(source, family, data_dir)


def from_file(name: str, path: Path, kind: Kind, labels: Sequence[str] = ()) -> Source:
    """Return a benchmark of one's own.

    Args:
        name: What reports call it: letters, digits, `.`, `-` and `_`; no known benchmark's name.
        path: JSON Lines where it ends in `.jsonl`, else a JSON list, of rows as `from_rows` takes.
        kind: What the answers are.
        labels: Of choices: what an answer may be, in lower case, such as `("yes", "no")`; empty for
            letters.

    Raises:
        InputError: A name that cannot be used, an unknown kind, or labels that cannot be.
    """
    if _bare(name) in _ours():
        raise InputError(
            f"{name}: is the name of a known benchmark",
            why="scores under one name must be of one set",
            remedy="choose another name for the file",
        )
    return own.checked_file(name, path, kind, tuple(labels))


def meant(reference: BenchmarkRef) -> Source:
    """Return the benchmark that a study's reference means; a file's path is absolute, or from here.

    Raises:
        InputError: There is none, or as `from_file` does.
    """
    if reference.harness is not None:
        return harness_task(reference)
    if reference.path is None:
        return _source(reference.name)
    path = Path(reference.path).expanduser()
    return from_file(reference.name, path, reference.kind or "text", reference.labels)


def harness_task(reference: BenchmarkRef, base: Path = Path()) -> HarnessTask:
    """Return the task of lm-evaluation-harness that a reference means; its file starts at `base`.

    Raises:
        InputError: Its name cannot be used.
    """
    own.require_name(reference.name)
    if _bare(reference.name) in _ours():
        raise InputError(
            f"{reference.name}: is the name of a known benchmark",
            why="scores under one name must be of one set",
            remedy="choose another name for the task",
        )
    task = str(reference.harness)
    if Path(task).suffix in (".yaml", ".yml"):
        task = os.path.abspath(base / Path(task).expanduser())
    return HarnessTask(reference.name, task, reference.shots)


def training_rows(
    ref: BenchmarkRef, data_dir: Path | None
) -> tuple[Iterator[tuple[str, Any]], str]:
    """Return training rows of a known benchmark with their places, and where they are from.

    They are those of `train.jsonl` or `train.json` beside the set's file in the data folder; of
    synthetic sets, of their generator.

    Raises:
        InputError: There are none.
    """
    source = _source(ref.name)
    if isinstance(source, synthetic.SyntheticSource):
        return source.training_rows(), f"{source.name}'s generator"
    path = source.training_file(data_dir) if isinstance(source, FileSource) else None
    if path is None:
        beside = "; or put train.jsonl beside the set's file in the data folder"
        raise InputError(
            f"{source.name}: shots: no training rows are at hand",
            why="exemplars are never taken from test items",
            remedy="give exemplars: FILE, rows with a question and its answer"
            + (beside if isinstance(source, FileSource) else ""),
        )
    return rows_of_files.read(path, formats.COLUMNS), str(path)


def published(name: str, fingerprint: str) -> bool | None:
    """Return whether content with this fingerprint is the published file's.

    Returns:
        None when no published file is known that it could be compared with: sets that are
        generated, of other packages or without a pin, and HellaSwag in LLM-Adapters' form.

    Raises:
        InputError: There is no such benchmark.
    """
    source = _source(name)
    return source.published(fingerprint) if isinstance(source, FileSource) else None


def _source(name: str) -> Source:
    name = canonical(name)
    return _SOURCES[name] if name in _SOURCES else own.plugin(name, _plugins()[name])


def _plugins() -> dict[str, list[EntryPoint]]:
    """Return what other packages register under names that are free."""
    ours = _ours()
    found = own.registered()
    for name in [name for name in found if _bare(name) in ours]:
        warnings.warn(
            f"benchmark {name} of another package is left out: {ours[_bare(name)]} is ours",
            stacklevel=3,
        )
        del found[name]
    return found


def _ours() -> dict[str, str]:
    """Return name by bare name, aliases included."""
    aliases = {_bare(alias): source.name for source in _FILES for alias in source.aliases}
    return aliases | {_bare(name): name for name in _SOURCES}


def _bare(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.casefold())
