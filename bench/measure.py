"""Time and memory of two ways to do the same work."""

import dataclasses
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

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


def peak_during(work: Callable[[], object]) -> int:
    """Return the most bytes that `work` needs on top of what is there before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    work()
    return _resident("VmHWM") - before


def peak_allocated(work: Callable[[], object]) -> int:
    """Return the most bytes of tensors that `work` holds on top of those that are there before it.

    Every allocation of torch's is counted, also of memory that the process has already; what other
    libraries allocate is not.
    """
    if torch.cuda.is_available():
        return peak_during(work)
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    moves = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = most = 0
    for _, moved in sorted(moves, key=lambda move: move[0]):
        held += moved
        most = max(most, held)
    return most


def printed_by(script: str, *arguments: str) -> int:
    """Return the number that a script prints last, in a process of its own."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
