"""The store: nothing half-finished is read, nothing finished is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import filelock
import pytest

from kdstudy.engine import lease as lease_module
from kdstudy.engine.store import Store
from kdstudy.errors import InputError, StageError

FACTS = {"kind": "train", "version": 1, "label": "a", "config": {}, "inputs": {}}


def facts():
    return FACTS


def fill(text):
    def write(out):
        (out / "sub").mkdir(exist_ok=True)
        (out / "sub" / "x.txt").write_text(text)
        return f"wrote {text}"

    return write


def test_a_finished_stage_is_found_with_manifest_and_hashes(tmp_path):
    store = Store(tmp_path)
    assert store.get("k") is None
    folder = store.build("k", facts, fill("one"))
    assert store.get("k") == folder
    manifest = json.loads((folder / "manifest.json").read_text())
    # sha256 of "one", from coreutils' sha256sum
    assert manifest["files"] == {
        "sub/x.txt": {
            "size": 3,
            "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        }
    }
    assert manifest["summary"] == "wrote one"
    assert store.last_built("train", "a")["key"] == "k"


def test_a_stage_is_built_once(tmp_path):
    store = Store(tmp_path)
    store.build("k", facts, fill("one"))
    store.build("k", facts, fill("two"))
    assert (store.get("k") / "sub" / "x.txt").read_text() == "one"


def test_a_failed_build_publishes_nothing_and_leaves_its_work_for_the_next(tmp_path):
    store = Store(tmp_path)

    def fail(out):
        (out / "half.txt").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        store.build("k", facts, fail)
    assert store.get("k") is None
    assert store.begun("k")

    def resume(out):
        assert (out / "half.txt").read_text() == "half"
        return ""

    assert store.build("k", facts, resume) == store.get("k")
    assert not store.begun("k")


@pytest.mark.parametrize("harm", ["truncate", "remove", "flip"])
def test_damage_is_found(tmp_path, harm):
    store = Store(tmp_path)
    path = store.build("k", facts, fill("one")) / "sub" / "x.txt"
    assert store.damage("k") == ""
    if harm == "truncate":
        path.write_text("on")
    elif harm == "remove":
        path.unlink()
    else:
        path.write_text("onE")
    assert store.damage("k") == "sub/x.txt"
    assert store.get("k") is None
    store.build("k", facts, fill("one"))
    assert store.damage("k") == ""


def test_bits_that_rot_are_found_by_reading_and_what_is_written_since_at_once(tmp_path):
    store = Store(tmp_path)
    path = store.build("k", facts, fill("one")) / "sub" / "x.txt"
    before = path.stat()
    path.write_text("onE")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.get("k") is not None, "same size, same time: only reading tells"
    assert store.damage("k") == "sub/x.txt"
    path.touch()
    assert store.get("k") is None


def test_a_copied_store_is_read_once_and_believed_afterwards(tmp_path):
    store = Store(tmp_path)
    path = store.build("k", facts, fill("one")) / "sub" / "x.txt"
    manifest = path.parents[1] / "manifest.json"
    later = manifest.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    assert store.get("k") is not None
    assert manifest.stat().st_mtime_ns == later


def test_scratch_is_not_part_of_what_is_published(tmp_path):
    def write(out):
        (out / "scratch").mkdir()
        (out / "scratch" / "journal").write_text("for resuming")
        return fill("one")(out)

    folder = Store(tmp_path).build("k", facts, write)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "sub"]
    assert list(json.loads((folder / "manifest.json").read_text())["files"]) == ["sub/x.txt"]


def never(out):
    raise AssertionError("built again")


def test_what_was_whole_when_its_builder_died_is_published_and_not_built_again(tmp_path):
    store = Store(tmp_path)
    folder = store.build("k", facts, fill("one"))
    (folder / "scratch").mkdir()
    folder.rename(folder.with_name("k.partial"))  # as just before the last step
    assert store.get("k") is None
    assert store.build("k", facts, never) == folder
    assert store.damage("k") == "" and not (folder / "scratch").exists()


@pytest.mark.parametrize("harm", ["file", "manifest"])
def test_what_was_not_whole_is_built_again(tmp_path, harm):
    store = Store(tmp_path)
    folder = store.build("k", facts, fill("one"))
    partial = folder.rename(folder.with_name("k.partial"))
    torn = partial / ("sub/x.txt" if harm == "file" else "manifest.json")
    torn.write_bytes(torn.read_bytes()[:-1])
    (partial / ".manifest.json.123").write_text("{")
    store.build("k", facts, fill("one"))
    assert store.damage("k") == ""
    assert sorted(p.name for p in store.get("k").iterdir()) == ["manifest.json", "sub"]


def test_who_will_not_wait_is_told_that_another_builds(tmp_path):
    store = Store(tmp_path)
    seen = []

    def look(out):
        seen.append(Store(tmp_path).build("k", facts, never, wait=False))
        seen.append(Store(tmp_path).owner("k"))
        return fill("one")(out)

    store.build("k", facts, look)
    assert seen == [None, f"{socket.gethostname()}:{os.getpid()}"]
    assert store.owner("k") == ""


def test_a_stages_own_timeout_is_a_failure_and_no_other_builder(tmp_path):
    def wait_for_something(out):
        raise filelock.Timeout("a download's lock")

    with pytest.raises(filelock.Timeout, match="download"):
        Store(tmp_path).build("k", facts, wait_for_something, wait=False)


def test_a_lease_that_was_lost_publishes_nothing(tmp_path):
    """As when a machine slept for hours and another took its work over."""
    store = Store(tmp_path)

    def sleep(out):
        (tmp_path / "locks" / "k.lock").unlink()
        deadline = time.monotonic() + 30
        while not any(lost) and time.monotonic() < deadline:
            time.sleep(0.05)
        return fill("one")(out)

    lost = []
    real = lease_module.SoftFileLease

    def quick(path, **settings):
        lease = real(path, heartbeat_interval=0.05, on_compromise=lost.append, **settings)
        return lease

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_module, "SoftFileLease", quick)
        with pytest.raises(StageError, match="another process took this stage over"):
            store.build("k", facts, sleep)
    assert store.get("k") is None


def test_the_lock_of_another_machine_holds_while_it_is_touched_and_falls_when_it_is_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lease_module, "_SECONDS", 1.0)
    store, lock = Store(tmp_path), tmp_path / "locks" / "k.lock"
    lock.write_text("filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=0123\nduration=1.0\n")
    assert store.owner("k") == "elsewhere:1"
    held = threading.Event()

    def touch():
        for _ in range(8):
            time.sleep(0.25)
            lock.touch()
        held.set()

    toucher = threading.Thread(target=touch)
    toucher.start()
    store.build("k", facts, fill("one"))
    assert held.is_set(), "taken although its owner was alive"
    toucher.join()
    assert store.damage("k") == ""


def test_two_builders_do_the_work_once(tmp_path):
    built = []

    def slow(out):
        built.append(threading.get_ident())
        threading.Event().wait(0.2)
        return fill("one")(out)

    threads = [
        threading.Thread(target=lambda: Store(tmp_path).build("k", facts, slow)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert Store(tmp_path).damage("k") == ""


def test_a_killed_builder_leaves_no_lock_and_nothing_half_finished(tmp_path):
    code = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from kdstudy.engine.store import Store
        def fill(out):
            (out / "x.txt").write_text("half")
            print("writing", flush=True)
            time.sleep(60)
        Store(Path({str(tmp_path)!r})).build("k", lambda: {FACTS!r}, fill)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = Store(tmp_path)
    assert store.get("k") is None
    store.build("k", facts, fill("one"))
    assert store.get("k") is not None


def test_pins_are_added_to(tmp_path):
    store = Store(tmp_path)
    store.remember({"a": "1"})
    Store(tmp_path).remember({"b": "2"})
    assert store.pins() == {"a": "1", "b": "2"}


def test_a_new_report_replaces_the_old_one_and_nothing_that_others_put_there(tmp_path):
    store, output = Store(tmp_path), Store(tmp_path).output("s")
    one = {"kind": "report", "version": 1, "label": "s", "config": {}, "inputs": {}}

    def first(out):
        for name in ("report.html", "table9.tex"):
            (out / name).write_text("old")
        return ""

    store.show("s", store.build("a" * 32, lambda: one, first))
    (output / "runs").mkdir()
    (output / "runs" / "events").write_text("a tracker's")
    (output / "notes.md").write_text("mine")
    second = store.build(
        "b" * 32, lambda: one, lambda out: str((out / "report.html").write_text("new"))
    )
    store.show("s", second)
    there = {str(p.relative_to(output)): p.read_text() for p in output.rglob("*") if p.is_file()}
    assert there.pop("manifest.json")
    assert there == {"report.html": "new", "runs/events": "a tracker's", "notes.md": "mine"}


def test_two_study_files_of_one_name_do_not_share_an_output_folder(tmp_path):
    store = Store(tmp_path / "store")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    same = {one: True, two: True}
    store.claim("s", one, same.get)
    store.claim("s", one, same.get)
    with pytest.raises(InputError, match=r"one\.yaml"):
        store.claim("s", two, same.get)
    store.claim("another", two, same.get)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    Store(tmp_path / "copy").claim("s", two, same.get)
    same[one] = False  # moved away, or renamed inside
    store.claim("s", two, same.get)
    with pytest.raises(InputError, match=r"two\.yaml"):
        store.claim("s", one, same.get)


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(tmp_path / "file")
