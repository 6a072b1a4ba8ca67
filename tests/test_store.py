"""The store: nothing half-finished is read, nothing finished is lost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from kdstudy.errors import InputError
from kdstudy.study.store import Store

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
        from kdstudy.study.store import Store
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


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Store(tmp_path / "file")
