"""The layout: who may import whom, and that README's file tree is the tree on disk."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "kdstudy"
NO_TORCH = [
    *SOURCE.glob("*.py"),
    *(SOURCE / "cli").glob("*.py"),
    *(SOURCE / "study").glob("*.py"),
    *(SOURCE / "engine").glob("*.py"),
    *(SOURCE / "analyze").rglob("*.py"),
    *(SOURCE / "report").rglob("*.py"),
    *(SOURCE / "paper").rglob("*.py"),
    *(SOURCE / "data").glob("*.py"),
    *(SOURCE / "evaluate" / "benchmarks").glob("*.py"),
    *(
        p
        for p in (SOURCE / "evaluate").glob("*.py")
        if p.name not in {"generate.py", "tokens.py", "vllm.py"}
    ),
    SOURCE / "models" / "resolve.py",
    SOURCE / "models" / "checkpoint.py",
]  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "accelerate"}


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", NO_TORCH, ids=lambda p: str(p.relative_to(SOURCE)))
def test_these_never_import_torch_when_they_are_imported(path):
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY


def test_distill_and_evaluate_never_import_each_other():
    for room, other in (("distill", "evaluate"), ("evaluate", "distill")):
        for path in (SOURCE / room).rglob("*.py"):
            assert not [n for n in imports(path) if n.startswith(f"kdstudy.{other}")], path


def test_what_to_do_and_the_work_itself_know_nothing_of_how_it_is_run():
    for room in ("study", "data", "models", "distill", "evaluate", "analyze"):
        for path in (SOURCE / room).rglob("*.py"):
            assert not [n for n in imports(path) if n.startswith("kdstudy.engine")], path


def test_records_and_errors_import_nothing_of_ours_but_each_other():
    for name in ("records", "errors"):
        ours = [n for n in imports(SOURCE / f"{name}.py") if n.startswith("kdstudy")]
        assert set(ours) <= {"kdstudy.errors"}


def test_the_readmes_tree_is_the_tree_on_disk():
    block = re.search(r"```tree\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    listed, folder = set(), ""
    for line in block.strip().split("\n"):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parts = folder.split("/")[:depth] if folder else []
        if name.endswith("/"):
            folder = "/".join([*parts, name.rstrip("/")])
        else:
            listed.add("/".join([*parts, name]))
    on_disk = {
        str(p.relative_to(SOURCE))
        for p in SOURCE.rglob("*.py")
        if p.name != "__init__.py" or p.stat().st_size > 0
    }
    python = {p for p in listed if p.endswith(".py")}
    assert python == on_disk


def test_no_pickle_and_no_bare_except():
    for path in SOURCE.rglob("*.py"):
        assert not {"pickle", "dill", "joblib"} & set(imports(path)), path
        handlers = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ExceptHandler)
        ]
        assert all(h.type is not None for h in handlers), path
