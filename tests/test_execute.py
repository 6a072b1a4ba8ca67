"""Running a plan: order, resume, damage, and errors a person can act on."""

import dataclasses
import errno
import io
import json
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from kdstudy.cli.building import build
from kdstudy.engine import log
from kdstudy.engine import view as view_module
from kdstudy.engine.build import Unseen
from kdstudy.engine.execute import inline, missing, reason
from kdstudy.engine.store import Store
from kdstudy.engine.view import StudyView, duration
from kdstudy.errors import InputError, StageError
from kdstudy.stage import Kind, Stage, kinds

CALLS = []
BEHAVIOUR = {}


def work(work):
    """The stage function of these tests: adds up its inputs' numbers and its own."""
    CALLS.append(work.config["add"])
    behaviour = BEHAVIOUR.get(work.config["add"])
    if behaviour:
        behaviour(work)
    total = work.config["add"]
    for i, folder in enumerate(work.inputs.values()):
        total += json.loads((folder / "sum.json").read_text())
        work.progress(i + 1, len(work.inputs), "input", loss=0.5)
    (work.out / "sum.json").write_text(json.dumps(total))
    return f"sum {total}"


@pytest.fixture(autouse=True)
def fake_kind(monkeypatch):
    monkeypatch.setitem(kinds(), "toy", Kind(entry="test_execute:work"))
    CALLS.clear()
    BEHAVIOUR.clear()


def chain(a=1, b=2, c=4):
    """A and B feed C."""
    first = Stage(kind="toy", label="a", config={"add": a})
    second = Stage(kind="toy", label="b", config={"add": b})
    last = Stage(kind="toy", label="c", config={"add": c}, inputs={"x": first.key, "y": second.key})
    return {s.key: s for s in (first, second, last)}, last.key


def aided(**changes):
    """A is read by C, B only helps it."""
    first, second, last = chain(**changes)[0].values()
    last = dataclasses.replace(last, inputs={"x": first.key}, aids={"help": second.key})
    return {s.key: s for s in (first, second, last)}, last.key


def run(stages, target, store, console=None):
    todo, _ = missing(stages, [target], store)
    console = console or Console(file=io.StringIO())
    with StudyView("t", len(todo), len(stages) - len(todo), console) as view:
        inline(todo, store, view)


def test_a_run_builds_all_and_a_rerun_nothing(tmp_path):
    store = Store(tmp_path)
    stages, target = chain()
    run(stages, target, store)
    assert CALLS == [1, 2, 4]
    assert json.loads((store.get(target) / "sum.json").read_text()) == 7
    run(stages, target, store)
    assert CALLS == [1, 2, 4]


def test_a_change_builds_what_hangs_on_it_and_says_why(tmp_path):
    store = Store(tmp_path)
    run(*chain(), store)
    stages, target = chain(b=3)
    todo, _ = missing(stages, [target], store)
    assert [(s.label, reason(s, store, stages)) for s in todo] == [
        ("b", "add 2 -> 3"),
        ("c", "toy b changed"),
    ]
    run(stages, target, store)
    assert CALLS == [1, 2, 4, 3, 4]


def test_a_finished_target_needs_nothing_upstream(tmp_path):
    store = Store(tmp_path)
    stages, target = chain()
    run(stages, target, store)
    for key in stages:
        if key != target:
            (store.get(key) / "sum.json").unlink()
    assert missing(stages, [target], store) == ([], {})


def test_an_aid_changes_no_key_is_built_first_and_handed_over(tmp_path):
    store, (stages, target) = Store(tmp_path), aided()
    alone = dataclasses.replace(stages[target], aids={})
    assert alone.key == target
    seen = {}
    BEHAVIOUR[4] = lambda work: seen.update(work.aids)
    run(stages, target, store)
    assert CALLS == [1, 2, 4]
    (helper,) = stages[target].aids.values()
    assert seen == {"help": store.get(helper)}
    # What C computes does not know of it; its manifest does, even when the aid is gone.
    assert json.loads((store.get(target) / "sum.json").read_text()) == 5
    record = store.manifest(target)["aids"]["help"]
    assert (record["key"], record["label"], record["summary"]) == (helper, "b", "sum 2")


def test_a_finished_stage_never_asks_for_its_aid(tmp_path):
    store, (stages, target) = Store(tmp_path), aided()
    (helper,) = stages[target].aids.values()
    plain = dataclasses.replace(stages[target], aids={})
    run({**stages, target: plain}, target, store)
    assert CALLS == [1, 4]
    assert missing(stages, [target], store) == ([], {})
    # Neither does what reads that finished stage.
    reader = Stage(kind="toy", label="d", config={"add": 8}, inputs={"x": target})
    run({**stages, reader.key: reader}, reader.key, store)
    assert CALLS == [1, 4, 8] and store.get(helper) is None


def test_a_damaged_aid_is_built_again_for_whoever_still_needs_it(tmp_path):
    store, (stages, target) = Store(tmp_path), aided()
    (helper,) = stages[target].aids.values()
    run(stages, target, store)
    (store.get(helper) / "sum.json").write_text("9")
    assert missing(stages, [target], store) == ([], {})
    again, other = aided(c=8)
    assert missing(again, [other], store)[1] == {helper: "sum.json"}
    run(again, other, store)
    assert CALLS == [1, 2, 4, 2, 8]


def test_a_stage_runs_without_an_aid_that_is_not_there(tmp_path):
    store, (stages, target) = Store(tmp_path), aided()
    first, _, last = stages.values()
    inline([first, last], store, StudyView("t", 2, 0, Console(file=io.StringIO())))
    assert CALLS == [1, 4] and store.manifest(target)["aids"] == {}


def test_damage_upstream_is_found_before_it_is_read(tmp_path):
    store = Store(tmp_path)
    run(*chain(), store)
    stages, target = chain(c=8)
    first = next(iter(stages))
    (store.get(first) / "sum.json").write_text("9")  # same size, other content
    todo, damaged = missing(stages, [target], store)
    assert damaged == {first: "sum.json"}
    assert [s.label for s in todo] == ["a", "c"]
    run(stages, target, store)
    assert json.loads((store.get(target) / "sum.json").read_text()) == 11


def test_a_failure_keeps_what_is_finished_and_the_next_run_goes_on(tmp_path):
    store = Store(tmp_path)
    stages, target = chain()

    def interrupt(work):
        raise KeyboardInterrupt

    BEHAVIOUR[2] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(stages, target, store)
    todo, _ = missing(stages, [target], store)
    assert [reason(s, store, stages) for s in todo] == ["interrupted; will resume", "never built"]
    BEHAVIOUR.clear()
    run(stages, target, store)
    assert CALLS == [1, 2, 2, 4]


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, ["the disk is full", "kept"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, ["Permission denied", "/x"]),
        (RuntimeError("CUDA out of memory"), 1, ["out of memory", "micro_batch_size"]),
        (ZeroDivisionError("division by zero"), 1, ["ZeroDivisionError", "traceback: "]),
        (InputError("row 3 is odd", remedy="mend it"), 2, ["row 3 is odd", "mend it"]),
    ],
)  # fmt: skip
def test_every_failure_names_its_stage_and_says_what_to_do(tmp_path, error, code, expected):
    def fail(work):
        raise error

    BEHAVIOUR[2] = fail
    with pytest.raises(StageError) as caught:
        run(*chain(), Store(tmp_path))
    assert caught.value.exit_code == code
    message = str(caught.value)
    assert message.startswith("toy b: ")
    assert "Traceback" not in message
    for part in expected:
        assert part in message


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    text = io.StringIO()
    run(*chain(), Store(tmp_path), Console(file=text, width=60))
    lines = text.getvalue().split("\n")
    assert lines[0] == "t: 3 stages to run"
    assert lines[1].startswith("[1/3] toy") and lines[1].endswith("sum 1")
    assert lines[3].startswith("[3/3] toy") and lines[3].endswith("sum 7")
    assert "\x1b" not in text.getvalue()


def test_a_terminal_shows_step_rate_loss_and_time_left(tmp_path):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160)

    def wait(work):
        work.progress(1, 4, "step", loss=1.25)
        time.sleep(0.4)  # one refresh of the live view
        work.progress(2, 4, "step", loss=1.0)
        time.sleep(0.4)

    BEHAVIOUR[4] = wait
    run(*chain(), Store(tmp_path), console)
    shown = text.getvalue()
    assert "1/4 steps" in shown
    assert "steps/s" in shown
    assert "left" in shown
    assert "loss 1.25" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.2, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_told_from_the_pace_since_the_run_went_on(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(view_module.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    view = StudyView("t", 1, 0, Console(file=text))
    stage = next(iter(chain()[0].values()))
    view.begin(stage)
    now[0] += 5  # loading
    view.progress(stage, 101, 181, "step")
    now[0] += 40
    view.progress(stage, 121, 181, "step")
    assert "121/181 steps, 0.5 steps/s, 2 min 00 s left" in text.getvalue()


def test_a_stage_that_was_only_just_taken_is_told_with_its_owner():
    text = io.StringIO()
    view = StudyView("t", 1, 0, Console(file=text))
    first, second, _ = chain()[0].values()
    for stage, owners in ((first, ("", "a:1", "a:1")), (second, ("b:2", "", "b:2"))):
        for owner in owners:
            view.wait(stage, owner)
    told = [line.strip() for line in text.getvalue().split("\n") if line]
    assert told == ["toy a: being built by a:1", "toy b: being built by b:2"]


# Several processes.


class Told(Unseen):
    """Remembers what a person would see."""

    def __init__(self):
        self.seen = []

    def wait(self, stage, owner):
        self.seen.append(("wait", stage.label, owner))

    def finish(self, stage, manifest, *, here):
        self.seen.append(("finish", stage.label, here))


def test_what_another_builds_is_left_to_it_and_other_work_is_taken(tmp_path):
    store, (stages, target) = Store(tmp_path), chain()
    first = next(iter(stages.values()))
    view = Told()

    def other(out):
        def release(work):
            done.set()

        BEHAVIOUR[2] = release  # B is built while A is held
        thread.start()
        assert done.wait(30)
        (out / "sum.json").write_text("1")
        return "sum 1"

    done = threading.Event()
    thread = threading.Thread(
        target=lambda: inline(missing(stages, [target], store)[0], store, view)
    )
    facts = {"kind": "toy", "version": 1, "label": "a", "config": {}, "inputs": {}}
    store.build(first.key, lambda: facts, other)
    thread.join()
    finished = [entry for entry in view.seen if entry[0] == "finish"]
    assert finished == [("finish", "b", True), ("finish", "a", False), ("finish", "c", True)]
    assert ("wait", "a", f"{socket.gethostname()}:{os.getpid()}") in view.seen
    assert json.loads((store.get(target) / "sum.json").read_text()) == 7


def test_verify_reads_every_byte_also_of_what_nothing_missing_needs(tmp_path):
    store, (stages, target) = Store(tmp_path), chain()
    run(stages, target, store)
    first = next(iter(stages))
    file = store.get(first) / "sum.json"
    times = file.stat()
    file.write_text("9")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert missing(stages, [target], store) == ([], {})
    todo, damaged = missing(stages, [target], store, verify=True)
    assert [s.label for s in todo] == ["a"] and damaged == {first: "sum.json"}
    inline(todo, store, Unseen())
    assert missing(stages, [target], store, verify=True) == ([], {})
    assert json.loads((store.get(first) / "sum.json").read_text()) == 1


def test_the_log_says_what_happened_also_when_it_went_wrong(tmp_path):
    store, (stages, target) = Store(tmp_path), chain()

    def fail(work):
        raise InputError("row 3 is odd", remedy="mend it")

    BEHAVIOUR[4] = fail
    with pytest.raises(StageError):
        run(stages, target, store)
    BEHAVIOUR.clear()
    run(stages, target, store)
    events = log.lines(store.log(target))
    assert [e["event"] for e in events] == ["start", "fail", "start", "progress", "finish"]
    assert events[1]["error"].startswith("toy c: row 3 is odd")
    assert (events[3]["done"], events[3]["total"], events[3]["loss"]) == (1, 2, 0.5)
    assert all(e["host"] == socket.gethostname() and e["pid"] == os.getpid() for e in events)
    assert log.told(events[3]) == "1/2 inputs, loss 0.5"


def test_a_torn_log_is_read_up_to_where_it_was_torn(tmp_path):
    path = tmp_path / "k.jsonl"
    log.StageLog(path).write("start", label="a")
    with path.open("ab") as file:
        file.write(b'{"event": "progr')
    assert log.last_line(path)["event"] == "start"
    assert log.last_line(tmp_path / "none.jsonl") == {}


def test_the_time_of_interrupted_tries_and_the_peak_of_memory_are_on_record(tmp_path):
    store, (stages, target) = Store(tmp_path), chain()
    # 256 MiB, of which nothing is left when the stage ends.
    BEHAVIOUR[2] = lambda work: bytearray(b"x") * 2**28 and None
    run(stages, target, store)
    peaks = [store.manifest(key)["peak_memory_gib"] for key in stages]
    assert peaks[1] - peaks[0] > 0.2 and peaks[1] - peaks[2] > 0.2
    assert store.manifest(target)["earlier_seconds"] == 0

    def tire(work):
        work.progress(1, 9, "step")
        time.sleep(0.4)
        raise KeyboardInterrupt

    BEHAVIOUR.update({2: None, 8: tire})
    stages, target = chain(c=8)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(stages, target, store)
    BEHAVIOUR.clear()
    run(stages, target, store)
    assert 0.8 <= store.manifest(target)["earlier_seconds"] < 5
    # Built again later, the time of what it replaces does not count.
    (store.get(target) / "sum.json").unlink()
    run(stages, target, store)
    assert store.manifest(target)["earlier_seconds"] == 0


def test_only_what_is_there_counts_as_kept_from_before(tmp_path, capsys):
    stages, last = chain()
    other = Stage(kind="toy", label="never needed", config={"add": 9})
    study = SimpleNamespace(train=SimpleNamespace(precision="float32"))
    plan = SimpleNamespace(
        stages=stages | {other.key: other}, study=study, asked_precision="float32"
    )
    first, _, _ = stages
    assert build("t", plan, first, Store(tmp_path)) == 1
    assert "t: 1 stages to run\n" in capsys.readouterr().err
    assert build("t", plan, last, Store(tmp_path)) == 2
    assert "t: 2 stages to run, 1 kept from before\n" in capsys.readouterr().err
