"""A study in several processes of a launcher: interrupted, gone on with, equal to one process."""

import csv
import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import yaml

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
STUDY = {
    "name": "tiny",
    "teachers": [{"model": "zoo-s", "finetune": False}],
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 79, "validation_rows": 11},
    "benchmarks": ["synth_addsub"],
    "limit": 13,
    "methods": ["sft", "word_kd"],
    "train": {
        "epochs": 3, "batch_size": 4, "learning_rate": 2e-3, "max_length": 192, "evaluations": 2,
        "probe_rows": 5,
        # Processes draw dropout for their own rows.
        "lora": {"dropout": 0},
    },
    "generation": {"max_new_tokens": 48, "batch_size": 300},
}  # fmt: skip


def launch(folder):
    arguments = ["-m", "kdstudy", "run", "study.yaml", "--store", folder / "store"]
    return subprocess.Popen(
        [sys.executable, *LAUNCH, *arguments],
        cwd=folder.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder):
    with (folder / "store" / "studies" / "tiny" / "results.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def wait_for(what, seconds=100):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_study_in_two_processes_is_interrupted_goes_on_and_equals_one(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    one, two = tmp_path / "one", tmp_path / "two"
    alone = forked.kdstudy("run", "study.yaml", "--store", one / "store", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr

    launched = launch(two)
    checkpoints = "store/**/scratch/checkpoints/checkpoint-*"
    wait_for(lambda: list(two.glob(checkpoints)))
    launched.send_signal(signal.SIGTERM)
    _, said = launched.communicate(timeout=40)
    assert launched.returncode != 0
    assert said.count("kdstudy: interrupted") == 1
    # 51 steps: the first checkpoint is where the study evaluates, the other where it stopped.
    first, last = sorted(int(path.name.split("-")[1]) for path in two.glob(checkpoints))
    assert first == 26 < last < 51

    again = launch(two)
    out, said = again.communicate(timeout=100)
    assert again.returncode == 0, said
    assert out.strip().endswith("report.html")
    mine, theirs = results(one), results(two)
    assert len(mine) == len(theirs) > 50
    for ours, other in zip(mine, theirs, strict=True):
        for name, value in ours.items():
            try:
                assert float(other[name]) == pytest.approx(float(value), rel=1e-6, nan_ok=True)
            except ValueError:
                assert other[name] == value
