"""The layout: who may import whom, and that README's file tree is the tree on disk."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "kdstudy"
NO_TORCH = [
    *SOURCE.glob("*.py"),
    *(SOURCE / "cli").glob("*.py"),
    *(SOURCE / "api").glob("*.py"),
    *(p for p in (SOURCE / "methods").glob("*.py") if p.name != "hidden_loss.py"),
    *(SOURCE / "config").glob("*.py"),
    *(SOURCE / "plan").glob("*.py"),
    SOURCE / "distill" / "trackers.py",
    *(SOURCE / "engine").glob("*.py"),
    *(SOURCE / "analysis").rglob("*.py"),
    *(SOURCE / "report").rglob("*.py"),
    *(SOURCE / "paper").rglob("*.py"),
    *(SOURCE / "data").glob("*.py"),
    *(SOURCE / "answers").glob("*.py"),
    *(SOURCE / "measures").glob("*.py"),
    *(SOURCE / "evaluation" / "benchmarks").glob("*.py"),
    *(SOURCE / "evaluation" / "graders").glob("*.py"),
    *(SOURCE / "evaluation" / "variants").glob("*.py"),
    *(
        p
        for p in (SOURCE / "evaluation").glob("*.py")
        if p.name not in {"generate.py", "likelihoods.py", "tokens.py", "vllm.py"}
    ),
    *(p for p in (SOURCE / "doctor").glob("*.py") if p.name != "probe.py"),
    SOURCE / "models" / "resolve.py",
    SOURCE / "models" / "hub.py",
    SOURCE / "models" / "fetch.py",
    SOURCE / "models" / "vocabulary.py",
    SOURCE / "models" / "checkpoint.py",
]  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "accelerate"}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(path, top_level_only=False):
    tree = parsed(path)
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", NO_TORCH, ids=lambda p: str(p.relative_to(SOURCE)))
def test_these_never_import_torch_when_they_are_imported(path):
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY


def test_only_the_probe_of_doctor_brings_torch_with_it():
    """Not even by what it imports: `--help` and a study file that cannot be read are quick."""
    room = [f"kdstudy.doctor.{p.stem}" for p in (SOURCE / "doctor").glob("[a-z]*.py")]
    room.remove("kdstudy.doctor.probe")
    code = f"import sys, {', '.join(room)}\nprint(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


LAYERS = (
    *("errors", "records", "fields", "plugins", "artifacts", "stage", "compared_pairs"),
    *("methods", "answers", "data", "config"),
    *("models", "evaluation", "measures", "analysis", "distill", "plan", "engine", "report"),
    *("paper", "api", "doctor", "cli"),
)
"""Files and rooms from the ground up: each imports what stands before it, and nothing behind.

A room's `kinds.py`, its stages' declarations, stands on the ground: whoever plans may read it.
"""


def test_no_import_runs_back_up():
    assert {p.parent.name for p in SOURCE.glob("*/__init__.py")} <= set(LAYERS)
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "kdstudy"
            ):
                continue
            room = node.module.split(".")[1:2] or [a.name for a in node.names]
            if node.module.endswith(".kinds"):
                continue
            for name in set(room) & set(LAYERS):
                assert LAYERS.index(name) <= LAYERS.index(own), f"{path} imports {name}"


def test_declarations_of_stages_import_types_alone():
    """They are read for every key, by `--help` too."""
    allowed = {"artifacts", "stage", "config.cuts", "data.prompts", "models.kinds"}
    for path in SOURCE.glob("*/kinds.py"):
        ours = {n.removeprefix("kdstudy.") for n in imports(path) if n.startswith("kdstudy")}
        assert ours <= allowed, path


def test_a_stages_configuration_is_read_as_its_kinds_type():
    for path in SOURCE.rglob("*.py"):
        untyped = r"\b(work|stage|s|answering|training)\.config(\[|\.get\()"
        found = re.search(untyped, path.read_text())
        assert found is None, f"{path}: {found and found[0]}"


def test_distill_and_evaluate_never_import_each_other():
    for room, other in (("distill", "evaluation"), ("evaluation", "distill")):
        for path in (SOURCE / room).rglob("*.py"):
            found = {n for n in imports(path) if n.startswith(f"kdstudy.{other}")}
            assert not found - {f"kdstudy.{other}.kinds"}, path


def test_what_to_do_and_the_work_itself_know_nothing_of_how_it_is_run():
    for room in [
        "methods",
        "config",
        "plan",
        "data",
        "models",
        "distill",
        "evaluation",
        "analysis",
    ]:
        for path in (SOURCE / room).rglob("*.py"):
            assert not [n for n in imports(path) if n.startswith("kdstudy.engine")], path


def test_files_and_roles_of_stages_are_named_in_artifacts_alone():
    tree = parsed(SOURCE / "artifacts.py")
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    files = {t for t in texts if re.fullmatch(r"\w+\.(parquet|json|csv|safetensors)", str(t))}
    assert len(files) > 15
    handed_out = {"document.py": {"results.csv", "items.parquet"}}  # beside the page, for people
    for path in {*SOURCE.rglob("*.py")} - {SOURCE / "artifacts.py"}:
        text = path.read_text()
        found = {n.value for n in ast.walk(parsed(path)) if isinstance(n, ast.Constant)}
        assert found & files <= handed_out.get(path.name, set()), path
        by_hand = re.search(r"\.(inputs|aids)(\[|\.get\()", text)
        assert by_hand is None or path == SOURCE / "stage.py", path


def test_the_library_prints_nothing_and_knows_nothing_of_the_command_line():
    for path in (SOURCE / "api").glob("*.py"):
        assert not [n for n in imports(path) if n.split(".")[0] in ("typer", "click", "rich")], path
        assert not [n for n in imports(path) if n.startswith("kdstudy.cli")], path
        assert "print(" not in path.read_text(), path


def test_records_and_errors_import_nothing_of_ours_but_each_other():
    for name in ("records", "errors"):
        ours = [n for n in imports(SOURCE / f"{name}.py") if n.startswith("kdstudy")]
        assert set(ours) <= {"kdstudy.errors"}


def rooms():
    return sorted(p.parent.name for p in SOURCE.glob("*/__init__.py"))


def test_the_readmes_tree_has_a_line_for_each_room_and_each_file_beside_them():
    block = re.search(r"```tree\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    listed = {line.split()[0] for line in block.strip().split("\n")}
    files = {p.name for p in SOURCE.glob("*.py")}
    assert listed == files | {f"{room}/" for room in rooms()} | {"studies/"}


@pytest.mark.parametrize("room", rooms())
def test_each_room_lists_its_files(room):
    """As a tree in the docstring of its `__init__.py`: a folder under a folder is indented."""
    text = ast.get_docstring(parsed(SOURCE / room / "__init__.py"), clean=False)
    listed, folder = set(), ""
    for line in text.split("\n"):
        entry = re.match(r"( *)([\w.]+\.py|[\w]+/)(?: |$)", line)
        if entry is None or len(entry[1]) > 2:
            continue  # a sentence, or what is said of a file goes on
        folder = folder if entry[1] else ""
        if entry[2].endswith("/"):
            folder = entry[2]
        else:
            listed.add(folder + entry[2])
    on_disk = {
        str(p.relative_to(SOURCE / room))
        for p in (SOURCE / room).rglob("*.py")
        if p != SOURCE / room / "__init__.py" and p.stat().st_size > 0
    }
    assert listed == on_disk


def test_no_pickle_and_no_bare_except():
    for path in SOURCE.rglob("*.py"):
        assert not {"pickle", "dill", "joblib"} & set(imports(path)), path
        handlers = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.ExceptHandler)]
        assert all(h.type is not None for h in handlers), path


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        others = {n for n in imports(path) if n.split(".")[0].startswith("test_")}
        assert not others, f"{path}: what two share is a file of its own beside them"
