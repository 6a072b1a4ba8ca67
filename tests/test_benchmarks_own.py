"""Benchmarks of a user's own: files, packages, and the page that explains them."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from kdstudy.cli.listing import listing
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks

DOCS = Path(__file__).resolve().parents[1] / "docs"

PLUGIN = """
import hashlib
from kdstudy.evaluation import benchmarks

ROWS = [{"question": "2 + 2?", "answer": 4}]

class Mine:
    name = "mine"
    kind = "number"

    def fingerprint(self, data_dir):
        return hashlib.sha256(repr(ROWS).encode()).hexdigest()

    def load(self, data_dir):
        return benchmarks.from_rows(self.name, ROWS, self.kind)

class Unnamed:
    kind = "number"

class Raises(Mine):
    name = "raises"

    def load(self, data_dir):
        raise KeyError("answer")

class Empty(Mine):
    name = "empty"

    def load(self, data_dir):
        return []

class Misnamed(Mine):
    name = "misnamed"

    def load(self, data_dir):
        return benchmarks.from_rows("gsm8k", ROWS, self.kind)

instance = Mine()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that registers benchmarks, as `pip install` would."""
    (tmp_path / "my_package.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)

    def act(package: str = "my-package", **entries: str) -> None:
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = my_package:{target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[kdstudy.benchmarks]", *lines]))
        importlib.invalidate_caches()

    return act


def write(folder: Path, name: str, rows: list) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def test_a_file_becomes_a_benchmark_whether_list_or_lines(tmp_path):
    rows = [{"question": "2 + 2?", "answer": 4}, {"question": "2 + 3?", "answer": "5"}]
    loaded = [
        benchmarks.from_file("mine", write(tmp_path, name, rows), "number").load(None)
        for name in ("rows.json", "rows.jsonl")
    ]
    assert loaded[0] == loaded[1]
    assert (loaded[0].name, loaded[0].kind, loaded[0].majority) == ("mine", "number", 0.5)


def test_the_fingerprint_changes_with_bytes_and_with_how_they_are_read(tmp_path):
    path = write(tmp_path, "rows.jsonl", [{"question": "Is it?", "answer": "yes"}])
    copy = write(tmp_path, "copy.jsonl", [{"question": "Is it?", "answer": "yes"}])

    def pinned(file, kind="choice", labels=("yes", "no")):
        return benchmarks.from_file("mine", file, kind, labels).fingerprint(None)

    assert pinned(path) == pinned(copy)
    others = {
        pinned(path),
        pinned(path, labels=("yes", "no", "maybe")),
        pinned(path, "text", ()),
        pinned(write(tmp_path, "other.jsonl", [{"question": "Is it?", "answer": "no"}])),
    }
    assert len(others) == 4


@pytest.mark.parametrize(
    ("name", "kind", "labels", "message"),
    [
        ("a b", "number", (), "benchmark name 'a b'"),
        ("", "number", (), "benchmark name ''"),
        ("../x", "number", (), "benchmark name"),
        ("Average", "number", (), "'average' is taken"),
        ("mine", "numbers", (), "kind is 'numbers'"),
        ("mine", "number", ("yes", "no"), "labels are for kind choice"),
        ("mine", "choice", ("yes",), "labels are ['yes']"),
        ("mine", "choice", ("yes", "yes"), "two or more different"),
        ("mine", "choice", ("Yes", "no"), "in lower case"),
        ("mine", "choice", ("yes", ""), "two or more"),
    ],
)
def test_what_a_file_cannot_be_is_refused(tmp_path, name, kind, labels, message):
    with pytest.raises(InputError) as error:
        benchmarks.from_file(name, tmp_path / "x.jsonl", kind, labels)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["gsm8k", "GSM-8K", "openbookqa", "synth_svamp"])
def test_a_known_name_is_not_given_to_another_file(tmp_path, name):
    with pytest.raises(InputError, match="is the name of a known benchmark"):
        benchmarks.from_file(name, tmp_path / "x.jsonl", "number")


def test_a_bad_file_is_named_with_its_line(tmp_path):
    path = write(tmp_path, "rows.jsonl", [{"question": "a", "answer": "1"}, {"question": "b"}])
    source = benchmarks.from_file("mine", path, "number")
    with pytest.raises(InputError, match=r'rows\.jsonl, line 2: "answer" is missing'):
        source.load(None)
    gone = benchmarks.from_file("mine", tmp_path / "gone.jsonl", "number")
    for act in (gone.load, gone.fingerprint):
        with pytest.raises(InputError, match=r"^mine: .*gone\.jsonl: cannot be read"):
            act(None)


def test_ls_shows_packages_last_broken_or_not(installed, tmp_path):
    installed(gone="Gone", mine="Mine")
    broken, row = listing("benchmarks", tmp_path)[-2:]
    assert (broken["name"], broken["items"], broken["kind"]) == ("gone", "-", "-")
    assert "cannot be loaded (AttributeError" in broken["note"]
    assert (row["name"], row["items"], row["found"]) == ("mine", "1", "package")


@pytest.mark.parametrize("target", ["Mine", "instance"])
def test_a_packages_benchmark_is_known_by_name(installed, target):
    installed(mine=target)
    assert benchmarks.names()[-1] == "mine"
    assert "my_package" not in sys.modules
    assert benchmarks.canonical("MINE") == "mine"
    assert benchmarks.kind("mine") == "number"
    assert len(benchmarks.fingerprint("mine")) == 64
    assert benchmarks.load("mine").examples[0].answer == "4"
    known = benchmarks.overview("mine")
    assert (known.items, known.found, known.family) == (1, "package", "own")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("gone", "Gone", "cannot be loaded (AttributeError"),
        ("mine", "Unnamed", "is no benchmark"),
        ("other", "Mine", "is no benchmark"),
        ("number", "ROWS", "is no benchmark"),
        ("raises", "Raises", "load fails (KeyError: 'answer')"),
        ("empty", "Empty", "load returns no Benchmark"),
        ("misnamed", "Misnamed", "load returns no Benchmark named misnamed"),
    ],
)
def test_a_broken_package_is_named_and_breaks_nothing_else(installed, name, target, message):
    installed(**{name: target})
    with pytest.raises(InputError) as error:
        benchmarks.load(name)
    assert message in str(error.value) and "my-package" in str(error.value)
    assert message.split(" (")[0] in benchmarks.overview(name).note
    assert len(benchmarks.load("synth_addsub").examples) == 300


def test_two_packages_may_not_share_a_name(installed):
    installed(mine="Mine")
    installed("second", mine="Mine")
    with pytest.raises(InputError, match="registered by ") as error:
        benchmarks.load("mine")
    assert "my-package" in str(error.value) and "second" in str(error.value)


def test_a_package_does_not_take_a_name_of_ours(installed):
    installed(**{"GSM-8K": "Mine"})
    with pytest.warns(UserWarning, match="GSM-8K of another package is left out"):
        assert benchmarks.canonical("gsm8k") == "gsm8k"


def test_the_pages_examples_run_as_they_stand(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "data.md").read_text(), re.S | re.M)
    names = {}
    for block in blocks:
        exec(compile(block, "data.md", "exec"), names)
    assert names["capitals"].examples[0].answer == "B"
    assert names["capitals"].chance == pytest.approx(1 / 3)
    (tmp_path / "my_package.py").write_text(blocks[-1])
    installed(weekdays="Weekdays")
    assert len(benchmarks.load("weekdays").examples) == 7


@pytest.mark.parametrize(
    ("kind", "labels", "row", "answer"),
    [
        ("number", (), {"question": "a", "answer": "She has 1,000+72.\n#### 1,072"}, "1072"),
        ("number", (), {"question": "a", "answer": "-12,345.5"}, "-12345.5"),
        ("number", (), {"question": "a", "answer": 7, "choices": ["7", "8"]}, "7"),
        ("choice", ("yes", "no"), {"question": "a", "answer": "Yes"}, "yes"),
        ("choice", ("true", "false"), {"question": "a", "answer": False}, "false"),
        ("choice", (), {"question": "a", "choices": ["Kyoto", "Tokyo"], "answer": "Tokyo"}, "B"),
        ("choice", (), {"question": "a", "options": ["B", "A"], "answer": "B"}, "B"),
        (
            "choice", (),
            {"question": "a Answer Choices: (A) x (B) y", "choices": ["x", "y"], "answer": "A"},
            "A",
        ),
        ("text", (), {"question": "a", "references": ["r1", "r2"]}, "r1"),
    ],
)  # fmt: skip
def test_answers_as_people_write_them(kind, labels, row, answer):
    assert benchmarks.from_rows("mine", [row], kind, labels=labels).examples[0].answer == answer


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("number", {"question": "a", "answer": "so\n#### many"}, "'many', not a number"),
        ("number", {"question": "a", "answer": "1,00"}, "not a number"),
        ("choice", {"question": "a", "choices": ["x", "y"], "answer": 1}, "offers A, B"),
        ("choice", {"question": "a", "choices": ["x", "x"], "answer": "x"}, "offers A, B"),
        ("choice", {"question": "a", "choices": {"text": ["x"]}, "answer": "A"}, '"choices" is no'),
    ],
)
def test_answers_that_could_mean_two_things_are_refused(kind, row, message):
    with pytest.raises(InputError, match=message):
        benchmarks.from_rows("mine", [row], kind)
