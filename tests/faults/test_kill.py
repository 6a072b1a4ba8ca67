"""kill -9 at any moment: nothing finished is lost, little is done again, no byte is different."""

import itertools
import random
import shutil
from collections import Counter

import harness
import pytest
from forked import fork
from strikes import Strike

from kdstudy.engine.store import Store

OPERATIONS = 1500  # on the store, by a whole run; about


def chain(bed, whole, die):
    """Let runs die one after another and the last one finish; return what each was building."""
    deaths = []
    for _ in range(12):
        before = bed.stages()
        process = die()
        code = bed.end(process).code
        harness.require_kept(bed, before, whole)
        if code == 0:  # this machine is quicker than it was
            break
        assert code == -9
        deaths.append(harness.interrupted(bed.work(), process.pid))
    done = bed.run()
    assert done.code == 0, done.text
    harness.require_whole(bed, whole)
    repeated = harness.repeated(bed.work())
    assert all(repeated[unit] <= most for unit, most in harness.INTERVAL.items()), repeated
    print(f"\n{len(deaths)} kills: {dict(Counter(deaths))}; done again, at most: {dict(repeated)}")
    return deaths


def killed_within(bed, whole, draw, shortest, longest):
    """Return what starts a run and kills it after a random share of a whole run's time."""
    length = float((whole.folder / "seconds").read_text())

    def die():
        process = bed.start()
        process.join(draw.uniform(shortest, longest) * length)
        process.kill()
        return process

    return die


@pytest.mark.parametrize("seed", [1, 2])
def test_at_any_moment(seed, whole, bed):
    die = killed_within(bed, whole, random.Random(seed), 0.03, 0.18)
    assert len(chain(bed, whole, die)) >= 6


def test_while_the_last_stages_are_built(whole, finished):
    finished.remove("token_fidelity", "results", "report")
    die = killed_within(finished, whole, random.Random(3), 0.02, 0.2)
    assert chain(finished, whole, die)


@pytest.mark.parametrize("seed", [4, 5])
def test_at_any_operation_on_the_store(seed, whole, bed):
    """Between two operations, or in the middle of a file that Arrow, torch or safetensors write."""
    draw = random.Random(seed)

    def die():
        at, torn = draw.randint(1, OPERATIONS // 7), draw.random() < 0.5
        return bed.start(strike=Strike(at=at, torn=torn))

    assert len(chain(bed, whole, die)) >= 6


KEY = "0123456789abcdef" * 2
FACTS = {"kind": "train", "version": 1, "label": "a", "config": {}, "inputs": {}}


def publish(root, strike=None):
    """Do once all that the store does for a study of one stage."""
    if strike is not None:
        strike.arm(root)
    store = Store(root)
    store.remember({"model": "commit"})
    folder = store.build(KEY, lambda: FACTS, fill)
    store.show("small", folder)


def fill(out):
    (out / "sub").mkdir(exist_ok=True)
    for name in ("one.txt", "sub/two.txt"):
        (out / name).write_text(name)
    return "filled"


@pytest.mark.parametrize("start", ["empty", "damaged", "changed report"])
def test_at_every_single_operation_of_building_publishing_and_showing(start, tmp_path):
    first = tmp_path / "first"
    Store(first)
    if start != "empty":
        publish(first)
        victim = "stages/" + KEY if start == "damaged" else "studies/small"
        (first / victim / "one.txt").write_text("ONE.txt")
    notes = {"my/notes.txt": b"by hand"} if start == "changed report" else {}
    for name, text in notes.items():
        (first / "studies" / "small" / name).parent.mkdir()
        (first / "studies" / "small" / name).write_bytes(text)
    for at in itertools.count(1):
        root = tmp_path / str(at)
        shutil.copytree(first, root)
        process = fork(publish, root, Strike(at=at))
        process.join(60)
        assert process.exitcode in (0, -9)
        store = Store(root)
        if found := store.get(KEY):
            assert store.damage(KEY) == "" and found.is_dir()
        publish(root)
        written = {"one.txt": b"one.txt", "sub/two.txt": b"sub/two.txt"}
        assert fingerprint(root / "stages" / KEY) == written
        assert fingerprint(store.output("small")) == written | notes
        assert store.pins() == {"model": "commit"}
        assert not store.begun(KEY)
        assert {p.name for p in (root / "studies").iterdir()} == {"small"}
        if process.exitcode == 0:
            break
    print(f"\n{start}: {at - 1} kills")
    assert at > 10


def fingerprint(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
