"""Seeded word problems, generated when asked for: benchmarks that need no data folder."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdstudy.data import synthetic
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.benchmarks.rows import from_rows

_ITEMS = 300
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticSource:
    """A benchmark of `kdstudy.data.synthetic`; the data folder is not looked at."""

    name: str
    kind: Kind = "number"

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return a hash of the generator and of what it is asked for; nothing is drawn."""
        asked = f"{synthetic.fingerprint()}:{self.name}:{_ITEMS}:{_SEED}"
        return hashlib.sha256(asked.encode()).hexdigest()

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark."""
        return _drawn(self.name, self.kind)

    def training_rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield endless rows of the training split, of the set's own form, with their places."""
        made = synthetic.BENCHMARKS[self.name]
        drawn = synthetic.problems("train", _SEED, keep=made.keep, extra=made.extra)
        for number, problem in enumerate(drawn, start=1):
            yield f"{self.name}, training row {number}", synthetic.to_row(problem)


@functools.cache
def _drawn(name: str, kind: Kind) -> Benchmark:
    rows = synthetic.benchmark_rows(name, n=_ITEMS, seed=_SEED)
    return from_rows(name, rows, kind)


SOURCES = tuple(SyntheticSource(name=name) for name in synthetic.BENCHMARKS)
