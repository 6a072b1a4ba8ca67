"""Benchmarks by name. A new one is an entry in its family's SOURCES."""

import difflib
import re
from pathlib import Path

from kdstudy.errors import InputError
from kdstudy.evaluate.benchmarks import math, synthetic
from kdstudy.evaluate.benchmarks.base import Benchmark, Source

__all__ = ["Benchmark", "canonical", "fingerprint", "load", "names"]

_SOURCES: dict[str, Source] = {s.name: s for s in (*math.SOURCES, *synthetic.SOURCES)}


def names() -> list[str]:
    """Return the names of all benchmarks, family by family."""
    return list(_SOURCES)


def canonical(name: str) -> str:
    """Return the registered name; case, dashes, underscores and spaces do not matter.

    Raises:
        InputError: There is no such benchmark.
    """
    known = {_bare(registered): registered for registered in _SOURCES}
    if _bare(name) in known:
        return known[_bare(name)]
    near = difflib.get_close_matches(_bare(name), known, n=1)
    hint = f"did you mean {known[near[0]]}? " if near else ""
    raise InputError(
        f"there is no benchmark {name!r}",
        remedy=f"{hint}the benchmarks are {', '.join(_SOURCES)}",
    )


def fingerprint(name: str, data_dir: Path | None = None) -> str:
    """Return the sha256, in hexadecimal, of a benchmark's content: equal hash, equal items.

    Raises:
        InputError: There is no such benchmark, or its file is not there.
    """
    return _SOURCES[canonical(name)].fingerprint(data_dir)


def load(name: str, data_dir: Path | None = None) -> Benchmark:
    """Return a benchmark.

    Args:
        name: As `canonical` takes it.
        data_dir: Folder that holds `math/gsm8k/test.json` and so on; synthetic sets need none.

    Raises:
        InputError: There is no such benchmark, its file is not there, is empty, or has a
            malformed row.
    """
    return _SOURCES[canonical(name)].load(data_dir)


def _bare(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.casefold())
