"""A machine that is wanted back: the step in hand is saved, and none is done again."""

import contextlib
import os
import random
import signal
import time
from collections import Counter

import harness
import pytest

SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_signal_at_any_moment_ends_it_within_seconds_with_a_checkpoint(seed, whole, bed):
    draw, stopped, slowest = random.Random(seed), [], 0.0
    for number in (*(draw.choice(SIGNALS) for _ in range(10)), None):
        before, process = bed.stages(), bed.start()
        if number is not None:
            reach(bed, process, draw.randint(1, 20))
            time.sleep(draw.uniform(0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        sent = time.monotonic()
        ended = bed.end(process)
        if number is None or ended.code == 0:  # it was quicker than the signal
            assert ended.code == 0, ended.text
            break
        slowest = max(slowest, time.monotonic() - sent)
        assert ended.code == 1, ended.text
        assert "interrupted: finished stages are kept" in ended.text
        assert "Traceback" not in ended.text
        stopped.append(harness.interrupted(bed.work(), process.pid))
        harness.require_kept(bed, before, whole)
    assert len(stopped) >= 6 and slowest < 30
    harness.require_whole(bed, whole)
    repeated = harness.repeated(bed.work())
    assert repeated["step"] == 0
    assert repeated["generation"] <= harness.INTERVAL["generation"]
    print(f"\n{dict(Counter(stopped))}; slowest {slowest:.1f} s; done again: {dict(repeated)}")


def reach(bed, process, events):
    """Wait until a process has told of so many events."""
    while process.is_alive():
        if sum(line["pid"] == process.pid for line in bed.work()) >= events:
            return
        time.sleep(0.005)
