"""A study whose models are folders that a plan can pin and nothing can run."""

import json
from pathlib import Path

import yaml

from kdstudy.config.read import read_study
from kdstudy.plan.plan import make_plan

STUDY = {
    "name": "t",
    "teachers": ["./big"],
    "students": ["./small", "./medium"],
    "corpus": {"path": "rows.jsonl", "validation_rows": 2},
    "benchmarks": ["synth_addsub", "synth_multiarith"],
    "ablations": {
        "temperature": {"methods": ["word_kd"], "values": [1, 2]},
        "noise": {"methods": ["word_kd"], "values": [0, 1]},
        "base_teacher": {"methods": ["word_kd"]},
    },
}


def model_folder(folder: Path, *, vocabulary: str = "abc") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "of": folder.name}))
    vocab = {token: i for i, token in enumerate(vocabulary)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    (folder / "model.safetensors").write_bytes(folder.name.encode())


def write_folder(folder: Path) -> Path:
    for name in ("big", "small", "medium"):
        model_folder(folder / name)
    rows = [{"prompt": f"What is {i} + 1?", "completion": f"{i + 1}"} for i in range(10)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plan_of(folder: Path, pins: dict[str, str] | None = None, **fields):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | fields))
    return make_plan(read_study(path), folder, None, {} if pins is None else pins)
