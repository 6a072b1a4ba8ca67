"""The pages for library users: their examples run, and their tables are complete."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import typer
from transformers import TrainingArguments

from kdstudy import methods
from kdstudy.cli import app, reference
from kdstudy.distill.config import _OF_METHOD, _REFUSED
from kdstudy.report.loss_words import LINES

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
    assert set(rows) == set(methods.METHODS) - {"seqkd", "offline_opd"}
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


def test_the_page_of_verbs_is_that_of_the_command_line():
    written = (DOCS / "cli.md").read_text("utf-8")
    assert written == reference.markdown(), "python -m kdstudy.cli.reference > docs/cli.md"
    assert "(docs/cli.md)" in (DOCS.parent / "README.md").read_text("utf-8")


def test_every_verb_has_an_example_that_it_takes_and_every_option_a_meaning():
    commands = typer.main.get_command(app).commands
    assert len(commands) == 17
    for name, command in commands.items():
        start, verb, *arguments = shlex.split(command.epilog.removeprefix("Example: "))
        assert (start, verb) == ("kdstudy", name)
        command.make_context(name, arguments)  # a wrong option or a missing one is an error
        assert all(p.help for p in command.params), name


def test_every_line_of_the_loss_statement_is_in_its_page():
    table = (DOCS / "statement.md").read_text("utf-8").split("|---|---|---|---|---|\n")[1]
    rows = [row.split(" | ")[0].removeprefix("| ") for row in table.split("\n\n")[0].split("\n")]
    assert rows == [line.title for line in LINES.values()]
