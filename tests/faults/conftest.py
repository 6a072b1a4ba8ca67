"""The uninterrupted run that every other is held against, made once for all workers."""

import os
import signal

import filelock
import harness
import pytest

# Before the server is forked: two threads would not help models this small.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell's background job starts with Ctrl-C ignored, and so would all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def whole(tmp_path_factory, worker_id):
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "whole"
    with filelock.FileLock(f"{folder}.lock"):
        bed = harness.Bed(folder)
        bed.run("schema")  # has the server import everything
        if not (folder / "seconds").exists():
            done = bed.run()
            assert done.code == 0, done.text
            (folder / "seconds").write_text(str(done.seconds))
    return bed


@pytest.fixture
def bed(tmp_path):
    return harness.Bed(tmp_path / "bed")


@pytest.fixture
def finished(whole, tmp_path):
    return whole.copy(tmp_path / "finished")
