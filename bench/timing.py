"""Timing of two ways to do the same work."""

import dataclasses
import statistics
import time
from collections.abc import Callable

Work = Callable[[], int]
"""Does the work once and returns how many units (tokens, steps) it made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """Medians over the repeats.

    Attributes:
        peer: Seconds per unit of the peer.
        ours: Seconds per unit of ours.
        ratio: Peer's seconds over ours, of the two runs that stood side by side.
    """

    peer: float
    ours: float
    ratio: float


def interleaved(peer: Work, ours: Work, repeats: int) -> Timed:
    """Time both in turn, so that a machine that slows down or is shared slows both."""
    pairs = [(_seconds_per_unit(peer), _seconds_per_unit(ours)) for _ in range(repeats)]
    return Timed(
        statistics.median(theirs for theirs, _ in pairs),
        statistics.median(mine for _, mine in pairs),
        statistics.median(theirs / mine for theirs, mine in pairs),
    )


def _seconds_per_unit(work: Work) -> float:
    started = time.perf_counter()
    made = work()
    return (time.perf_counter() - started) / made
