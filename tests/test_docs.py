"""The pages for library users: their examples run, and their tables are complete."""

import dataclasses
import re
from pathlib import Path

import pytest
from transformers import TrainingArguments

from kdstudy import methods
from kdstudy.distill.config import _OF_METHOD, _REFUSED

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("page", ["library.md", "from_trl.md"])
def test_the_examples_run_as_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.S | re.M)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert names["trainer"].state.global_step > 0


def test_every_method_and_field_is_in_the_table():
    text = (DOCS / "library.md").read_text()
    table = text[text.index("## Methods") : text.index("## What is guaranteed")]
    rows = dict(re.findall(r"^\| `(\w+)` (.*)$", table.split("---|\n")[1], re.M))
    assert set(rows) == set(methods.METHODS) - {"seqkd"}
    common = ("temperature", "tau_squared", "noise", "hard_label_weight")
    for name, row in rows.items():
        own = {f for f in methods.METHODS[name].model_fields if f in _OF_METHOD and f not in common}
        assert {f for f in _OF_METHOD if f"`{f}`" in row.split("|")[-2]} == own, name
    assert all(f"`{name}`" in table for name in common)


def test_what_is_refused_is_listed():
    text = (DOCS / "library.md").read_text()
    words = {"label_smoothing_factor": "label smoothing", "neftune_noise_alpha": "NEFTune"}
    assert all(words.get(name, name) in text for name in _REFUSED)


def test_every_field_of_trls_configuration_is_mapped():
    gkd = pytest.importorskip("trl.experimental.gkd")
    text = (DOCS / "from_trl.md").read_text()
    shared = {f.name for f in dataclasses.fields(TrainingArguments)}
    own = {f.name for f in dataclasses.fields(gkd.GKDConfig)} - shared
    assert own and not [name for name in sorted(own) if f"`{name}" not in text]
