"""Stores that are damaged: what is not as published is built again, what cannot be is named."""

import json
import shutil

import pytest
import yaml
from refusals import call
from study_folder import STUDY, write_folder

from kdstudy.engine.store import Store

CORPUS = "corpus rows"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study whose corpus and benchmarks are built; its models cannot be loaded."""
    folder = write_folder(tmp_path_factory.mktemp("begun"))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    done = call("run", folder / "study.yaml", "--store", folder / "store")
    assert "the model cannot be loaded" in done.err
    return folder


@pytest.fixture
def store(begun, tmp_path):
    return shutil.copytree(begun / "store", tmp_path / "store", symlinks=True)


def corpus(store):
    """Return the folder of the stage that these tests damage."""
    manifests = store.glob("stages/*/manifest.json")
    return next(m.parent for m in manifests if json.loads(m.read_text())["kind"] == "corpus")


def line(shown, start):
    rows = (" ".join(row.split()) for row in shown.split("\n"))
    return next(row for row in rows if start in row)


MANIFESTS = {
    **{"empty": b"", "text": b"hello", "list": b"[]", "number": b"3", "bytes": b"\xff"},
    **{"deep": b"[" * 100_000, "other keys": b'{"a": 1}', "big": b"9" * 5000},
}
CHANGES = [
    *({"files": None}, {"files": [1]}, {"files": {"a": 3}}, {"files": {"a": {}}}),
    *({"files": {"../../pins.json": {"size": -1, "sha256": ""}}}, {"key": "x"}, {"key": None}),
    *({"files": {"a\0b": {"size": 1, "sha256": ""}}}, {"kind": 3}, {"label": None}),
    *({"files": {"a" * 5000: {"size": 1, "sha256": ""}}}, {"config": 3}, {"inputs": []}),
    *({"seconds": "x"}, {"summary": None}, {"version": "1"}),
]


def rebuilt(begun, store):
    """Check that a plan sees the damage, and that a run puts the stage right."""
    shown = call("plan", begun / "study.yaml", "--store", store)
    assert shown.code == 0, shown.err
    assert line(shown.out, CORPUS).startswith("miss")
    done = call("run", begun / "study.yaml", "--store", store)
    assert done.code == 2
    assert "the model cannot be loaded" in done.err
    assert "Traceback" not in done.err
    again = call("plan", begun / "study.yaml", "--store", store)
    assert line(again.out, CORPUS).startswith("hit")
    opened = Store(store)
    assert not [p for p in store.glob("stages/*") if not p.suffix and opened.damage(p.name)]


@pytest.mark.parametrize("data", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_something_else(begun, store, data):
    (corpus(store) / "manifest.json").write_bytes(data)
    rebuilt(begun, store)


@pytest.mark.parametrize("cut", range(0, 400, 40))
def test_a_manifest_cut_short(begun, store, cut):
    path = corpus(store) / "manifest.json"
    path.write_bytes(path.read_bytes()[:cut])
    rebuilt(begun, store)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: str(c)[:30])
def test_a_manifest_with_other_contents(begun, store, change):
    path = corpus(store) / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    rebuilt(begun, store)


def put(path, what):
    """Put something else in a path's place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if what == "file":
        path.write_text("x")
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)


@pytest.mark.parametrize("what", ["nothing", "file", "folder", "loop"])
@pytest.mark.parametrize("place", ["train.parquet", "manifest.json", ""])
def test_something_else_in_a_finished_stages_place(begun, store, place, what):
    put(corpus(store) / place, what)
    rebuilt(begun, store)


@pytest.mark.parametrize("what", ["file", "loop"])
def test_something_else_where_a_stage_is_to_be_built(begun, store, what):
    folder = corpus(store)
    shutil.rmtree(folder)
    put(folder.with_name(f"{folder.name}.partial"), what)
    rebuilt(begun, store)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\0", b"../../..", b"a" * 5000])
def test_what_was_last_built_is_forgotten_not_followed(begun, store, data):
    for path in (store / "latest").iterdir():
        path.write_bytes(data)
    shutil.rmtree(corpus(store))
    rebuilt(begun, store)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[1]", b'{"a": 3}', b"[" * 100_000])
def test_what_was_remembered_is_asked_again(begun, store, data):
    (store / "pins.json").write_bytes(data)
    done = call("plan", begun / "study.yaml", "--store", store)
    assert done.code == 0, done.err
    pins = json.loads((store / "pins.json").read_text())
    assert pins == json.loads((begun / "store" / "pins.json").read_text())


@pytest.mark.parametrize("what", ["file", "loop"])
@pytest.mark.parametrize("place", ["stages", "locks", "latest", "studies", "."])
def test_a_store_that_cannot_be_one_is_named(begun, tmp_path, store, place, what):
    put(store / place if place != "." else store, what)
    done = call("plan", begun / "study.yaml", "--store", store)
    assert done.code == 2
    assert "cannot be written" in done.err
    assert done.out == ""


@pytest.mark.parametrize("place", ["pins.json", "locks/pins.lock"])
def test_what_cannot_be_remembered_is_said(begun, store, place):
    put(store / place, "folder")
    if place != "pins.json":
        put(store / "pins.json", "nothing")
    done = call("plan", begun / "study.yaml", "--store", store)
    assert done.code == 1
    assert "cannot be written" in done.err
    assert done.out == ""


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-at-all/store", "study.yaml/store"])
def test_a_path_that_is_none_is_refused(begun, name):
    place = name if name.startswith("~") else begun / name
    done = call("plan", begun / "study.yaml", "--store", place)
    assert done.code == 2
    assert done.err.startswith("kdstudy: store ")
