"""Stages in several processes: the same results, one message of a failure, one end for all."""

import os
import shutil
import time
from pathlib import Path

import forked
import pytest
import yaml
from refusals import refused
from safetensors.torch import load_file, save_file

from kdstudy.models import zoo

STUDY = {
    "name": "shared",
    "teachers": ["zoo-s"],
    "students": ["zoo-xs"],
    "seeds": [0, 1],
    "corpus": {"name": "synthetic", "rows": 40, "validation_rows": 11},
    "benchmarks": ["synth_addsub"],
    "limit": 13,
    "methods": ["sft", "word_kd"],
    "token_rows": 0,
    "train": {
        "epochs": 1.5, "batch_size": 6, "max_length": 192, "evaluations": 1, "probe_rows": 0,
    },
    "generation": {"max_new_tokens": 24},
}  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(folder, *arguments):
    call = ("run", "study.yaml", "--store", "store", *arguments)
    return forked.Running(call, folder, ENVIRONMENT, daemon=False)


def results(folder):
    return (folder / "store" / "studies" / "shared" / "results.csv").read_bytes()


def pids(folder):
    """Return who wrote the logs of the stages."""
    logs = (folder / "store" / "logs").glob("*.jsonl")
    return {line.split('"pid": ')[1].split(",")[0] for p in logs for line in p.open()}


def test_two_processes_share_the_stages_and_the_table_is_that_of_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(yaml.safe_dump(STUDY))
    for name, jobs in (("one", ()), ("two", ("--jobs", "2"))):
        done = start(tmp_path / name, *jobs).end()
        said = done.stderr
        assert done.returncode == 0, said
    assert "being built by" not in said and "elsewhere" not in said
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert len(pids(tmp_path / "one")) == 1 and len(pids(tmp_path / "two")) == 2


def test_who_helps_ends_with_the_first_however_it_ends(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    running = start(tmp_path, "--jobs", "2")
    process = running.process
    until = time.monotonic() + 100
    while len(pids(tmp_path)) < 2:
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.05)
    (helper,) = {int(pid) for pid in pids(tmp_path)} - {process.pid}
    process.kill()
    process.join()
    alive = Path(f"/proc/{helper}/stat")
    while alive.exists() and " Z " not in alive.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_failure_is_told_once_whoever_meets_it(tmp_path):
    shutil.copytree(zoo.path("zoo-xs"), tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    study = STUDY | {"students": ["zoo-xs", "./broken"], "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = start(tmp_path, "--jobs", "2").end()
    said = done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert said.count("kdstudy: ") == 1 and "not finite" in said.split("kdstudy: ")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(("--jobs", "0"), "no such number"), (("--jobs", "2", "--executor", "ray"), "Ray decides")],
)
def test_what_makes_no_sense_is_refused(tmp_path, arguments, expected):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    call = ("run", tmp_path / "study.yaml", "--store", tmp_path / "store")
    assert expected in refused(tmp_path / "x", *call, *arguments)
