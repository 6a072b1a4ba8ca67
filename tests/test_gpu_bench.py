"""The proof for a GPU in its tiny form, and that it tells right from wrong."""

import importlib
import json
import os
import sys
from pathlib import Path

import forked
import pytest
import torch

from kdstudy.methods import METHODS

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


def parts():
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module("gpu").PARTS
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.name)
def test_every_part_runs_in_its_tiny_form(part, gpu, monkeypatch):
    """Here in one process, which saves the imports; the command gives each part its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    name, function = part.entry.split(":")
    work = getattr(importlib.import_module(name), function)
    if part.name in ("decode vLLM", "step 7B"):
        with pytest.raises(gpu.Missing):
            work(tiny=True)
        return
    rows = work(tiny=True)
    assert rows
    if part.check:
        assert all(row["passed"] for row in rows), rows
    # Between them the two parts leave no method out.
    spans = {name for name, cls in METHODS.items() if cls.teacher_gives == "spans"}
    checked = {"losses": METHODS.keys() - spans, "losses of spans": spans}.get(part.name, set())
    cases = [row["case"] for row in rows]
    for method in checked:
        for dtype in ("float32", "bfloat16"):
            assert any(case.startswith(f"{method}, {dtype}") for case in cases)
    if part.name == "losses":
        assert any(case.endswith(", compiled") for case in cases)


COMMAND = """
import runpy, sys
sys.path.insert(0, {folder!r})
runpy.run_path({script!r}, run_name="__main__")
"""


def test_the_command_chooses_the_tiny_form_and_prints_what_it_checked(tmp_path):
    """As `python bench/run.py gpu`, from a process that has torch loaded, and its parts of it."""
    script = tmp_path / "run.py"
    script.write_text(COMMAND.format(folder=str(BENCH), script=str(BENCH / "run.py")))
    call = ("gpu", "--out", "gpu.json", "--only", "cache", "--only", "decode vLLM")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = forked.Running(call, tmp_path, environment, script, daemon=False).end()
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["tiny"], "chosen by itself where there is no GPU"
    found = {part["part"]: part["state"] for part in result["parts"]}
    assert found == {"cache": "passed", "decode vLLM": "left out"}
    for part in result["parts"]:
        for row in part["rows"]:
            assert f"| {row['case']} |" in done.stdout


def test_budgets_leave_the_whole_under_nine_minutes(gpu):
    assert sum(part.seconds for part in gpu.PARTS) <= 9 * 60
    assert sum(part.seconds for part in gpu.PARTS if part.check) < 300


BROKEN = """
import os, time
import gpu
def wrong(tiny): return [{"case": "w", "passed": False, "found": "2", "limit": "1"}]
def right(tiny): return [{"case": "r", "passed": True, "found": "0", "limit": "1"}]
def raises(tiny): raise ValueError("no such luck")
def lacks(tiny): raise gpu.Missing("no peer")
def dies(tiny): os._exit(3)
def hangs(tiny): time.sleep(60)
"""


def test_a_part_that_fails_hangs_or_dies_says_so_and_the_others_go_on(
    tmp_path, gpu, monkeypatch, capsys
):
    (tmp_path / "broken_parts.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))

    def part(name, check):
        seconds = 1 if name == "hangs" else 3
        return gpu.Part(name=name, entry=f"broken_parts:{name}", seconds=seconds, check=check)

    names = ("wrong", "raises", "lacks", "dies", "hangs", "right")
    found = {name: gpu._done(part(name, True), tiny=True) for name in names}
    assert {name: row["state"] for name, row in found.items()} == {
        "wrong": "failed", "raises": "failed", "lacks": "left out", "dies": "failed",
        "hangs": "failed", "right": "passed",
    }  # fmt: skip
    assert found["raises"]["problem"] == "ValueError: no such luck"
    assert found["dies"]["problem"] == "its process died (exit code 3)"
    assert "longer than its 4 s" in found["hangs"]["problem"]
    for names, check, code in (
        (["right", "lacks"], True, 0),
        (["wrong", "right"], True, 1),
        (["raises"], True, 1),
        (["raises"], False, 0),
    ):
        monkeypatch.setattr(gpu, "PARTS", [part(name, check) for name in names])
        assert gpu.main(["--tiny"]) == code, names
    assert "| w |" not in capsys.readouterr().out.splitlines()[-1]


def test_the_bench_of_methods_has_a_row_for_each(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module("methods")
    rows = bench.rows_of(1, *bench.TINY)
    assert {row["case"].split(",")[0] for row in rows} == set(METHODS)
    (base,) = (row for row in rows if row["case"].startswith("word_kd"))
    for what in ("time_ratio", "memory_ratio"):
        assert base[what] == 1 and all(row[what] > 0 for row in rows)
    # It holds no distribution of a teacher.
    (plain,) = (row for row in rows if row["case"].startswith("sft"))
    assert plain["memory_ratio"] < 1


def test_peaks_are_those_of_what_is_held_together(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    measure = importlib.import_module("measure")
    kept = []

    def work():
        torch.empty(3 * 2**20, dtype=torch.uint8)
        for _ in range(4):
            torch.empty(2**20, dtype=torch.uint8)
        kept.append(torch.empty(2**20, dtype=torch.uint8))
        kept.append(torch.empty(5 * 2**19, dtype=torch.uint8))

    # Three MiB at once, given back; then one and two and a half together.
    assert measure.peak_allocated(work) == pytest.approx(3.5 * 2**20, abs=2**12)
