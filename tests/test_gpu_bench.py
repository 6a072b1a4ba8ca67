"""The proof for a GPU in its tiny form, and that it tells right from wrong."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


def run(out, *options):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCH / "run.py"), "gpu", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done, json.loads(out.read_text())


def test_the_tiny_form_passes_every_check_and_measures_every_bench(tmp_path, gpu):
    done, result = run(tmp_path / "gpu.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["tiny"], "chosen by itself where there is no GPU"
    states = {part["part"]: (part["state"], part["problem"]) for part in result["parts"]}
    assert list(states) == [part.name for part in gpu.PARTS]
    for part in gpu.PARTS:
        if part.name in ("decode vLLM", "step 7B"):
            assert states[part.name][0] == "left out"
        elif part.check:
            assert states[part.name] == ("passed", "")
        else:
            assert states[part.name] == ("measured", ""), done.stderr
    from kdstudy.study.methods import METHODS

    cases = [row["case"] for part in result["parts"] for row in part["rows"]]
    for name in METHODS:
        assert any(case.startswith(f"{name}, bfloat16") for case in cases)
    assert any(case.endswith(", compiled") for case in cases)
    for case in cases:
        assert f"| {case} |" in done.stdout


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
        return gpu.Part(name=name, entry=f"broken_parts:{name}", seconds=3, check=check)

    names = ("wrong", "raises", "lacks", "dies", "hangs", "right")
    found = {name: gpu._done(part(name, True), tiny=True) for name in names}
    assert {name: row["state"] for name, row in found.items()} == {
        "wrong": "failed", "raises": "failed", "lacks": "left out", "dies": "failed",
        "hangs": "failed", "right": "passed",
    }  # fmt: skip
    assert found["raises"]["problem"] == "ValueError: no such luck"
    assert found["dies"]["problem"] == "its process died (exit code 3)"
    assert "longer than its 3 s" in found["hangs"]["problem"]
    for names, check, code in (
        (["right", "lacks"], True, 0),
        (["wrong", "right"], True, 1),
        (["raises"], True, 1),
        (["raises"], False, 0),
    ):
        monkeypatch.setattr(gpu, "PARTS", [part(name, check) for name in names])
        assert gpu.main(["--tiny"]) == code, names
    assert "| w |" not in capsys.readouterr().out.splitlines()[-1]
