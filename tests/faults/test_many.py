"""Many processes, one store: every stage is built once, nobody reads a torn one, nobody waits on
the dead."""

import random
import time
from collections import Counter

from harness import require_whole

from kdstudy.engine.store import Store

PROCESSES = 20


def begun(bed) -> Counter:
    return Counter(line["key"] for line in bed.work() if line["event"] == "begin")


def read_while_they_run(bed, processes) -> int:
    """Read every byte that is published while it is being written; return how many stages."""
    store, reads = Store(bed.store), 0
    while any(p.exitcode is None for p in processes):
        for key in bed.stages():
            assert store.get(key) is not None and store.damage(key) == "", key
            reads += 1
        time.sleep(0.05)
    return reads


def test_twenty_processes_build_every_stage_once(bed, whole):
    processes = [bed.start() for _ in range(PROCESSES)]
    reads = read_while_they_run(bed, processes)
    ends = [bed.end(p) for p in processes]
    assert [e.code for e in ends] == [0] * PROCESSES, next(e.text for e in ends if e.code)
    require_whole(bed, whole)
    assert begun(bed) == Counter(dict.fromkeys(bed.stages(), 1))
    assert reads > len(bed.stages())
    builders = {line["pid"] for line in bed.work() if line["event"] == "begin"}
    assert len(builders) > 1, "the work was not shared"
    assert not list((bed.store / "locks").iterdir())


def test_the_work_of_the_dead_is_taken_over(bed, whole):
    chance = random.Random(7)
    processes = [bed.start() for _ in range(PROCESSES)]
    killed = 0
    while killed < PROCESSES // 2:
        time.sleep(chance.uniform(0.1, 0.5))
        alive = {p.pid: p for p in processes if p.exitcode is None}
        mine = [line for line in bed.work() if line["pid"] in alive]
        last = {line["pid"]: line["event"] for line in mine}
        building = [pid for pid, event in last.items() if event != "finish"]
        if not alive:
            break
        alive[chance.choice(building or list(alive))].kill()
        killed += 1
    ends = [bed.end(p) for p in processes]
    assert {e.code for e in ends} <= {0, -9}, next(e.text for e in ends if e.code > 0)
    assert sum(e.code == -9 for e in ends) >= 3 and any(e.code == 0 for e in ends)
    require_whole(bed, whole)
    again = sum(n - 1 for n in begun(bed).values())
    assert 1 <= again <= killed
