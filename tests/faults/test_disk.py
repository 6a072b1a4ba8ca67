"""Disks that are full, broken or read-only: said in one line, nothing lost, no byte different."""

import contextlib
import errno
import os
import random
import shutil
import subprocess
from collections import Counter

import harness
import pytest
from strikes import Strike


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a disk of so many KiB of a folder, or resizes it."""
    made = []

    def resize(folder, size):
        options = f"size={size}k"
        if folder in made:
            assert mount("-o", f"remount,{options}", folder)
        elif shutil.which("mount") and mount("-t", "tmpfs", "-o", options, "tmpfs", folder):
            made.append(folder)
        else:
            pytest.skip("no tmpfs can be mounted here")

    yield resize
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def read_only(folder):
    """Make a folder read-only for everybody, as far as this machine lets us."""
    if os.geteuid() == 0:
        if not (mount("--bind", folder, folder) and mount("-o", "remount,ro,bind", folder)):
            pytest.skip("root, and no read-only mount can be made here")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    folders = [p for p in (folder, *folder.rglob("*")) if p.is_dir()]
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)


def require_told(ended):
    assert ended.code in (1, 2), ended.text
    assert "Traceback" not in ended.text
    assert "kdstudy: " in ended.text


@pytest.mark.parametrize("seed", [1, 2])
def test_a_disk_that_fills_up_again_and_again(seed, whole, bed, small_disk):
    """A real one: Arrow, torch and safetensors have words of their own for it."""
    draw, size, full = random.Random(seed), 24, []
    bed.store.mkdir()
    while True:
        small_disk(bed.store, size)
        before, process = bed.stages(), bed.start()
        ended = bed.end(process)
        if ended.code == 0:
            break
        require_told(ended)
        assert "the disk is full" in ended.text or "does not fit" in ended.text, ended.text
        assert str(bed.store) in ended.text
        full.append(harness.interrupted(bed.work(), process.pid))
        harness.require_kept(bed, before, whole)
        size += draw.randint(40, 400)
    print(f"\nfull {len(full)} times, in {dict(Counter(full))}; at last {size} KiB")
    assert len(full) > 5
    harness.require_whole(bed, whole)


@pytest.mark.parametrize(
    ("number", "lasting", "reading"),
    [
        (errno.ENOSPC, True, False),
        (errno.EDQUOT, False, False),
        (errno.EIO, False, True),
        (errno.EIO, True, False),
        (errno.EROFS, True, False),
    ],
)
def test_an_error_at_any_operation_on_the_store(number, lasting, reading, whole, bed):
    draw, met = random.Random(number), []
    for _ in range(8):
        before = bed.stages()
        strike = Strike(draw.randint(1, 180), error=number, lasting=lasting, reading=reading)
        process = bed.start(strike=strike)
        ended = bed.end(process)
        # Some errors change nothing: a log that cannot be read, what is removed if it can be.
        if ended.code or lasting:
            require_told(ended)
        if number in (errno.ENOSPC, errno.EDQUOT) and ended.code:
            assert "is full" in ended.text, ended.text
        met.append(harness.interrupted(bed.work(), process.pid))
        harness.require_kept(bed, before, whole)
    print(f"\n{errno.errorcode[number]}: {dict(Counter(met))}")
    done = bed.run()
    assert done.code == 0, done.text
    for scratch in (bed.store / "stages").glob("*/scratch"):
        shutil.rmtree(scratch)  # its removal had failed
    harness.require_whole(bed, whole)


def test_a_finished_store_can_be_read_where_it_cannot_be_written(whole, finished):
    with read_only(finished.store):
        done = finished.run()
        assert done.code == 0, done.text
        assert "stages are finished" in done.text
        for verb in (("plan", "study.yaml"), ("ls", "runs"), ("run", "study.yaml", "--verify")):
            assert finished.run(*verb).code == 0
    assert not finished.work()


def test_an_unfinished_one_says_that_it_cannot_be_written(whole, finished):
    finished.remove("results", "report")
    with read_only(finished.store):
        done = finished.run()
    require_told(done)
    assert "ead-only" in done.text or "ermission denied" in done.text
    assert str(finished.store) in done.text
    assert finished.run().code == 0
    harness.require_whole(finished, whole)
