"""Overview of one benchmark: items, chance, licence, and where its file is or would come from."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kdstudy.errors import KdstudyError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind, Source
from kdstudy.evaluation.benchmarks.files import EditedBenchmark, FileSource, check_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What is known of a benchmark without a download.

    Attributes:
        kind: None when another package's benchmark cannot be loaded.
        family: `math`, `commonsense`, `instruct`, `synthetic`, or `own` for another package's.
        found: Where it is: `data folder`, `data folder, edited` (not the published file), `data
            folder, unchecked` (no published file to compare it with), `cache`, `cache, damaged`,
            `built in`, `package`, or `nowhere`; empty when that cannot be told.
        items: How many there are here; None when it is nowhere or malformed.
        published: How many the published set has; None when there is no such set.
        chance: See `Benchmark`; None with `items`, and for texts.
        majority: See `Benchmark`; None with `items`, and for texts.
        licence: Of the data; `*` marks what is commonly stated and not checked at its origin.
        note: What a user should know: where it would come from, what is wrong with it, repeats.
    """

    name: str
    kind: Kind | None
    family: str
    found: str
    items: int | None = None
    published: int | None = None
    chance: float | None = None
    majority: float | None = None
    licence: str = ""
    note: str = ""


def overview_of(source: Source, family: str, data_dir: Path | None) -> Overview:
    """Look a benchmark over; nothing is downloaded, and a malformed file is no error.

    Raises:
        InputError: There is no such data folder.
    """
    check_folder(data_dir)
    found, note, published, licence = "", "", None, ""
    loaded = None
    try:
        if isinstance(source, FileSource):
            published, licence = source.items, source.licence
            found = source.place(data_dir)
            note = _whence(source, found, data_dir)
        else:
            found = "package" if family == "own" else "built in"
        if found not in ("nowhere", "cache, damaged"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EditedBenchmark)  # `found` says so
                loaded = source.load(data_dir)
            note = _remarks(loaded, published)
    except KdstudyError as e:
        note = e.what
    return Overview(
        name=source.name,
        kind=source.kind,
        family=family,
        found=found,
        items=len(loaded.examples) if loaded else None,
        published=published,
        chance=loaded.chance if loaded and loaded.kind != "text" else None,
        majority=loaded.majority if loaded and not math.isnan(loaded.majority) else None,
        licence=licence,
        note=note,
    )


def _whence(source: FileSource, found: str, data_dir: Path | None) -> str:
    if source.pin is None:
        return source.remedy(data_dir)
    parts = urlsplit(source.pin.url)
    repository = "/".join(parts.path.split("/")[1:3])
    again = "again " if found == "cache, damaged" else ""
    return f"downloaded {again}from {repository} ({parts.hostname}) when used"


def _remarks(loaded: Benchmark, published: int | None) -> str:
    remarks = []
    if published is not None and len(loaded.examples) != published:
        remarks.append(f"the published set has {published} items")
    if loaded.repeated:
        remarks.append(f"repeated questions: {loaded.repeated}")
    if loaded.conflicting:
        remarks.append(f"with conflicting answers: {loaded.conflicting}")
    return "; ".join(remarks)
