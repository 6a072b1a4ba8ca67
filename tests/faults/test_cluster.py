"""The Ray executor on a real cluster of two nodes on this machine, one of which gets killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import harness
import psutil
import pytest
import toys

from kdstudy.config.resources import Needs
from kdstudy.engine import cluster as executor
from kdstudy.engine.build import Unseen
from kdstudy.engine.cluster import RayExecutor
from kdstudy.engine.execute import inline
from kdstudy.engine.log import lines
from kdstudy.engine.store import Store
from kdstudy.errors import InputError, StageError

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs kdstudy[ray]")

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def two_nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # Other tests' modules hide GPUs; Ray believes what it is told of one.
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        # A worker finds `toys` here.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
        made.add_node(**NODE)
        yield made
        made.shutdown()


@pytest.fixture
def diary(tmp_path):
    (tmp_path / "diary").mkdir()
    return tmp_path / "diary"


class Seen(Unseen):
    """Keeps what it is told; calls back when a stage goes on or is built by another."""

    def __init__(self, on_progress=None, on_wait=None):
        self.events, self.on_progress, self.on_wait = [], on_progress, on_wait

    def begin(self, stage):
        self.events.append(("begin", stage.label))

    def progress(self, stage, done, total, unit, **numbers):
        self.events.append(("progress", stage.label))
        if self.on_progress:
            self.on_progress(stage)

    def finish(self, stage, manifest, *, here):
        self.events.append(("finish", stage.label, here, manifest["summary"]))

    def wait(self, stage, owner):
        self.events.append(("wait", stage.label))
        if self.on_wait:
            self.on_wait()


def build(stages, store, made, view=None, **needs):
    said = []
    resources = SimpleNamespace(toy=Needs(**needs))
    RayExecutor(resources, made.address, said.append)(stages, store, view or Seen())
    return said


def second_nodes_work(made, store):
    """Return the second node once it builds a stage with a model, and that stage's key."""
    node = list(made.worker_nodes)[-1]
    raylet = node.all_processes["raylet"][0].process.pid
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for path in (store / "logs").glob("*.jsonl"):
            last = lines(path)[-1:]
            if not last or last[0]["event"] not in ("start", "progress"):
                continue
            if lines(path)[0]["kind"] not in ("train", "generate", "teacher_text"):
                continue
            try:
                if psutil.Process(last[0]["pid"]).ppid() == raylet:
                    return node, path.stem
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    raise AssertionError("the second node builds nothing")


def test_a_study_whose_node_is_killed_ends_with_inlines_bytes(two_nodes, bed, whole):
    arguments = ("run", "study.yaml", "--executor", "ray", "--address", two_nodes.address)
    driver = bed.start(*arguments)
    node, key = second_nodes_work(two_nodes, bed.store)
    before = bed.stages()
    two_nodes.remove_node(node, allow_graceful=False)
    two_nodes.add_node(**NODE)
    ended = bed.end(driver)
    assert ended.code == 0, ended.text
    assert "its node died; it is built again on another" in ended.text
    assert "Traceback" not in ended.text and "raylet" not in ended.text
    # Workers do not know of the harness's smaller shards.
    caches = {k for k, m in whole.stages().items() if m["kind"] == "teacher_cache"}
    expected = {k: files for k, files in whole.bytes().items() if k not in caches}
    assert {k: files for k, files in bed.bytes().items() if k not in caches} == expected
    assert bed.results() == whole.results()
    after = bed.stages()
    assert {k: after[k]["started"] for k in before} == {k: m["started"] for k, m in before.items()}
    events = {k: [e["event"] for e in lines(bed.store / "logs" / f"{k}.jsonl")] for k in after}
    assert {k: e.count("finish") for k, e in events.items()} == dict.fromkeys(after, 1)
    assert {k: e.count("start") for k, e in events.items()} == {k: 1 + (k == key) for k in after}


def test_stages_run_at_once_and_after_what_they_read(two_nodes, tmp_path, diary):
    # Both workers are there before times are taken.
    build([toys.toy(f"warm{i}", diary, seconds=1) for i in range(2)], Store(tmp_path / "w"),
          two_nodes)  # fmt: skip
    first = [toys.toy(name, diary, seconds=2) for name in ("a", "b")]
    last = toys.toy("c", diary, *first)
    view, store = Seen(), Store(tmp_path / "store")
    said = build([*first, last], store, two_nodes, view)
    (a,), (b,), (c,) = (toys.done(diary, name) for name in "abc")
    assert max(a["began"], b["began"]) < min(a["ended"], b["ended"])
    assert c["began"] > max(a["ended"], b["ended"])
    assert a["pid"] != b["pid"]
    assert a["threads"] == "1" and a["gpus"] == ""
    assert said == []
    assert sorted(e for e in view.events if e[0] == "finish") == [
        ("finish", name, True, f"wrote {name}") for name in "abc"
    ]
    assert ("progress", "a") in view.events
    assert view.events.index(("begin", "a")) < view.events.index(("progress", "a"))
    assert not list((store.root / "locks").iterdir())
    alone = Store(tmp_path / "alone")
    inline([*first, last], alone, Unseen())
    assert store.manifest(last.key)["files"] == alone.manifest(last.key)["files"]


def test_a_failure_reads_as_inline_and_what_runs_is_finished(two_nodes, tmp_path, diary):
    bad = toys.toy("bad", diary, act="fail beside slow")
    slow = toys.toy("slow", diary, seconds=3)
    later = [toys.toy(f"later{i}", diary, seconds=0.1) for i in range(4)]
    store = Store(tmp_path / "store")
    with pytest.raises(StageError) as caught:
        build([slow, bad, *later, toys.toy("never", diary, bad)], store, two_nodes)
    with pytest.raises(StageError) as alone:
        inline([bad], Store(tmp_path / "alone"), Unseen())
    assert str(caught.value) == str(alone.value)
    assert caught.value.exit_code == alone.value.exit_code == 2
    assert store.get(slow.key)
    assert toys.begun(diary, "never") == []
    assert not store.owner(bad.key)


def test_a_worker_that_dies_is_replaced_but_not_for_ever(two_nodes, tmp_path, diary):
    store = Store(tmp_path)
    once = toys.toy("once", diary, act="die once")
    said = build([once], store, two_nodes)
    assert said == ["  toy once: its worker died; it is built again"]
    assert (len(toys.begun(diary, "once")), len(toys.done(diary, "once"))) == (2, 1)
    always = toys.toy("always", diary, act="die")
    with pytest.raises(StageError, match="toy always: its worker died 3 times") as caught:
        build([always, once], store, two_nodes)
    assert caught.value.exit_code == 1 and "memory_gib" in caught.value.remedy
    assert len(toys.begun(diary, "always")) == 3


def test_what_another_process_builds_is_left_to_it(two_nodes, tmp_path, diary):
    store = Store(tmp_path)
    mine, theirs = toys.toy("mine", diary), toys.toy("theirs", diary)
    lock = store.lock(theirs.key)
    lock.__enter__()
    view = Seen(on_wait=lambda: lock.__exit__(None, None, None))
    build([theirs, mine], store, two_nodes, view)
    assert view.events.count(("wait", "theirs")) == 1
    assert len(toys.done(diary, "theirs")) == len(toys.done(diary, "mine")) == 1


def test_an_interrupt_ends_what_runs_and_leaves_no_owner(two_nodes, tmp_path, diary):
    def interrupt(stage):
        raise KeyboardInterrupt

    store = Store(tmp_path)
    stages = [toys.toy(f"long{i}", diary, seconds=100) for i in range(3)]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build(stages, store, two_nodes, Seen(on_progress=interrupt))
    assert time.monotonic() - started < 30
    assert [store.owner(stage.key) for stage in stages] == ["", "", ""]
    logs = [lines(store.log(stage.key)) for stage in stages]
    assert "interrupt" in {log[-1]["event"] for log in logs if log}
    pids = {log[-1]["pid"] for log in logs if log}
    until = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    try:
        return "ray::build_on_node" in " ".join(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def test_ctrl_c_at_a_terminal_reaches_all_and_the_driver_ends_them(tmp_path):
    # Of a Ray of its own, whose processes are in the terminal's group as well.
    bed = harness.Bed(tmp_path / "bed")
    call = [sys.executable, "-m", "kdstudy", "run", "study.yaml", "--store", "store"]
    process = subprocess.Popen(
        [*call, "--executor", "ray"], cwd=bed.folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"HOME": str(tmp_path)},  # where Ray leaves the cluster's token
    )  # fmt: skip
    until = time.monotonic() + 120
    while not list(bed.store.glob("logs/*.jsonl")) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: finished stages are kept" in text.splitlines()[-1]
    assert "Traceback" not in text and "_raylet" not in text
    locks = [path.stem for path in (bed.store / "locks").glob("*.lock")]
    assert not [key for key in locks if Store(bed.store).owner(key)]


def test_gpus_are_shared_out_and_hidden_from_who_has_none(two_nodes, tmp_path, diary):
    node = two_nodes.add_node(**NODE | {"num_cpus": 2, "num_gpus": 1})
    try:
        halves = [toys.toy(f"half{i}", diary, seconds=3) for i in range(2)]
        build(halves, Store(tmp_path), two_nodes, gpus=0.5)
        (a,), (b,) = (toys.done(diary, stage.label) for stage in halves)
        assert a["gpus"] == b["gpus"] == "0"
        assert max(a["began"], b["began"]) < min(a["ended"], b["ended"])
        build([toys.toy("none", diary)], Store(tmp_path), two_nodes)
        assert toys.done(diary, "none")[0]["gpus"] == ""
    finally:
        two_nodes.remove_node(node)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"cpus": 4, "gpus": 1}, "resources.toy: no node has 4 CPUs, 1 GPU"),
        ({"memory_gib": 1e6}, "1000000.0 GiB"),
    ],
)
def test_what_no_node_has_is_refused_before_anything_runs(
    two_nodes, tmp_path, diary, needs, expected
):
    with pytest.raises(InputError) as caught:
        build([toys.toy("a", diary)], Store(tmp_path), two_nodes, **needs)
    assert expected in caught.value.what
    assert "1 CPU" in caught.value.why
    assert toys.begun(diary, "a") == []


def test_a_run_whose_nodes_are_gone_says_so(two_nodes, tmp_path, diary, monkeypatch):
    monkeypatch.setattr(executor, "_NODELESS_SECONDS", 1.0)
    monkeypatch.setattr(executor, "_LOOK_SECONDS", 0.2)
    node = two_nodes.add_node(**NODE | {"num_gpus": 1})

    def lose_it(stage):
        if node in two_nodes.worker_nodes:
            two_nodes.remove_node(node, allow_graceful=False)

    view = Seen(on_progress=lose_it)
    with pytest.raises(StageError, match="no node is left that has 1 CPU, 1 GPU, as toy"):
        build([toys.toy("a", diary, seconds=30)], Store(tmp_path), two_nodes, view, gpus=1)


def test_a_node_that_does_not_see_the_store_is_named(two_nodes, tmp_path, diary, monkeypatch):
    # As on a node where that path is another folder.
    elsewhere = contextlib.nullcontext(tmp_path / "locks" / "never")
    monkeypatch.setattr(executor, "_token", lambda store: elsewhere)
    with pytest.raises(InputError, match="does not see the store") as caught:
        build([toys.toy("a", diary)], Store(tmp_path), two_nodes)
    assert f"node {os.uname().nodename}" in caught.value.what
    assert str(tmp_path) in caught.value.what


def test_a_node_without_what_a_stage_needs_is_named(two_nodes, tmp_path, diary):
    stage = toys.Toy(kind="toy", label="a", config={}, local={"models": {"m": {"folder": "/no"}}})
    with pytest.raises(InputError, match="does not have /no"):
        build([stage], Store(tmp_path), two_nodes)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "nowhere", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match="neither `auto` nor `host:port`"):
        RayExecutor(SimpleNamespace(), address, print)


def test_an_address_where_nothing_answers_is_refused_at_once():
    started = time.monotonic()
    with pytest.raises(InputError, match="nothing answers there"):
        RayExecutor(SimpleNamespace(), "127.0.0.1:1", print)
    assert time.monotonic() - started < 5


def test_auto_finds_that_the_last_cluster_is_gone(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1: nothing answers there"):
        RayExecutor(SimpleNamespace(), "auto", print)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as caught:
        RayExecutor(SimpleNamespace(), None, print)
    assert "pip install 'kdstudy[ray]'" in caught.value.remedy


def test_a_launchers_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match="in several processes"):
        RayExecutor(SimpleNamespace(), None, print)


def test_an_address_without_ray_is_wrong_input(tmp_path):
    ended = harness.Bed(tmp_path / "bed").run("run", "study.yaml", "--address", "auto")
    assert ended.code == 2
    assert "--address" in ended.text and "--executor ray" in ended.text
