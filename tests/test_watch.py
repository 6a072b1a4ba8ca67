"""`ls runs`: what runs, what failed, what was interrupted, from the store alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from kdstudy.engine import watch
from kdstudy.engine.log import StageLog
from kdstudy.engine.store import Store
from kdstudy.errors import InputError

HERE = f"{socket.gethostname()}:{os.getpid()}"
BUILDER = """
    import time
    from pathlib import Path
    from kdstudy.engine.log import StageLog
    from kdstudy.engine.store import Store
    store = Store(Path({root!r}))
    def fill(out):
        log = StageLog(store.log("{key}"))
        log.write("start", kind="train", label="zoo-s/gkd")
        log.progress(120, 300, "step", loss=0.41234)
        print("running", flush=True)
        time.sleep(60)
    store.build("{key}", dict, fill)
"""


def finish(store, key, label, kind="train"):
    facts = {"kind": kind, "version": 1, "label": label, "config": {}, "inputs": {}}

    def fill(out):
        StageLog(store.log(key)).write("start", kind=kind, label=label)
        return f"made {label}"

    store.build(key, lambda: facts, fill)


def by_run(root):
    return {row["run"]: row for row in watch.runs(root)}


def test_a_running_stage_shows_its_owner_and_its_last_words_and_a_killed_one_that_it_stopped(
    tmp_path,
):
    key = "a" * 32
    code = textwrap.dedent(BUILDER.format(root=str(tmp_path), key=key))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"running\n"
    owner = f"{socket.gethostname()}:{process.pid}"
    row = by_run(tmp_path)["zoo-s/gkd"]
    assert (row["state"], row["kind"], row["owner"]) == ("running", "train", owner)
    assert row["last"] == "120/300 steps, loss 0.4123" and row["key"] == "a" * 12
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    row = by_run(tmp_path)["zoo-s/gkd"]
    assert (row["state"], row["owner"]) == ("interrupted", owner)
    assert row["last"] == "120/300 steps, loss 0.4123"


def test_finished_training_runs_and_whatever_failed_of_any_kind(tmp_path):
    store = Store(tmp_path)
    finish(store, "1" * 32, "zoo-s/sft")
    finish(store, "2" * 32, "zoo-s/sft on synth", kind="generate")

    def fail(out):
        log = StageLog(store.log("3" * 32))
        log.write("start", kind="score", label="zoo-s")
        log.write("fail", error="score zoo-s: row 3 is odd\n  do: mend it")
        raise ValueError

    with pytest.raises(ValueError):
        store.build("3" * 32, dict, fail)
    rows = watch.runs(tmp_path)
    assert [(r["state"], r["kind"], r["run"], r["last"]) for r in rows] == [
        ("failed", "score", "zoo-s", "score zoo-s: row 3 is odd"),
        ("finished", "train", "zoo-s/sft", "made zoo-s/sft"),
    ]
    assert {r["owner"] for r in rows} == {HERE}


def test_age_is_the_time_since_it_began_failed_or_finished(tmp_path):
    store = Store(tmp_path)
    finish(store, "1" * 32, "a")
    path = store.get("1" * 32) / "manifest.json"
    facts = json.loads(path.read_text())
    for ago, shown in ((90, "1 min 30 s"), (3 * 86400, "3 d"), (-7200, "0.0 s")):
        facts["started"], facts["seconds"] = time.time() - ago - 10, 10.0
        path.write_text(json.dumps(facts))
        assert by_run(tmp_path)["a"]["age"] == shown


def test_no_store_and_strange_files_in_one(tmp_path):
    assert watch.runs(tmp_path / "none") == []
    store = Store(tmp_path)
    finish(store, "1" * 32, "a")
    (tmp_path / "stages" / "note.txt").write_text("mine")
    (tmp_path / "stages" / ("4" * 32 + ".partial")).mkdir()
    (tmp_path / "logs" / ("1" * 32 + ".jsonl")).write_bytes(b"\xff\xfe[]\n{}\n")
    rows = by_run(tmp_path)
    assert rows["a"]["state"] == "finished" and rows["a"]["owner"] == ""
    assert (rows["?"]["state"], rows["?"]["key"]) == ("interrupted", "4" * 12)


def test_a_store_that_cannot_be_read_is_an_error_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "stages").mkdir()

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        watch.runs(tmp_path)


def made(store, key, label, config, inputs=None):
    facts = {"kind": "train", "version": 3, "label": label}
    facts |= {"config": config, "inputs": inputs or {"corpus": "c" * 32}}
    store.build(key, lambda: facts, lambda out: "2 steps")


def test_runs_of_one_name_are_told_apart_by_what_differs(tmp_path):
    store = Store(tmp_path)
    slow, fast = ({"train": {"learning_rate": rate, "epochs": 2}} for rate in (3e-4, 1e-3))
    made(store, "1" * 32, "zoo-s/gkd", slow)
    made(store, "2" * 32, "zoo-s/gkd", fast)
    made(store, "3" * 32, "zoo-s/sft", slow)
    by_key = {row["key"][0]: row for row in watch.runs(tmp_path)}
    assert by_key["1"]["differs"] == "train.learning_rate=0.0003"
    assert by_key["2"]["differs"] == "train.learning_rate=0.001"
    assert by_key["3"]["differs"] == ""
    assert by_key["1"]["run"] == by_key["2"]["run"] == "zoo-s/gkd"


def test_another_corpus_or_an_unfinished_run_is_told_apart_too(tmp_path):
    store = Store(tmp_path)
    config = {"train": {"epochs": 2}}
    made(store, "1" * 32, "zoo-s/gkd", config)
    made(store, "2" * 32, "zoo-s/gkd", config, {"corpus": "d" * 32})

    def fail(out):
        log = StageLog(store.log("3" * 32))
        inputs = {"corpus": "c" * 32}
        log.write(
            "start",
            kind="train",
            label="zoo-s/gkd",
            config={"train": {"epochs": 5}},
            inputs=inputs,
            version=3,
        )
        log.write("fail", error="no")
        raise ValueError

    with pytest.raises(ValueError):
        store.build("3" * 32, dict, fail)
    by_key = {row["key"][0]: row["differs"] for row in watch.runs(tmp_path)}
    assert by_key["1"] == f"train.epochs=2, inputs.corpus={'c' * 24}..."
    assert by_key["2"] == f"train.epochs=2, inputs.corpus={'d' * 24}..."
    assert by_key["3"] == f"train.epochs=5, inputs.corpus={'c' * 24}..."
