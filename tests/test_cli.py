"""The command line as a contract: verbs, exit codes, and no traceback for a user's mistake."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import forked
import pytest
import yaml
from forked import kdstudy
from study_folder import STUDY, write_folder

from kdstudy import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def test_every_verb_is_there_and_no_other():
    shown = kdstudy("--help").stdout
    for verb in (
        *("demo", "run", "plan", "report", "distill", "eval", "score", "audit"),
        *("analyze", "paper", "ls", "schema", "doctor", "models", "export"),
    ):
        assert f"  {verb} " in shown


def test_plan_as_json_shows_every_default_and_every_stage(folder):
    done = kdstudy("plan", "study.yaml", "--json", cwd=folder)
    document = json.loads(done.stdout)
    assert document["study"]["train"]["lora"]["alpha"] == 16
    assert document["protocol_differences"] == []
    statuses = {(s["status"], s["why"]) for s in document["stages"]}
    assert statuses == {("miss", "never built")}


def test_plan_names_what_differs_from_corrected(folder):
    study = {k: v for k, v in STUDY.items() if k != "ablations"} | {"protocol": "reference"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    shown = kdstudy("plan", "study.yaml", cwd=folder).stdout
    assert "differs from corrected: train.loss_tokens = positions (not response)" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "gone.yaml"], "no such study file"),
        (["plan", "rows.jsonl"], "rows.jsonl"),
        (["run"], "Missing argument"),
        (["rum"], "No such command"),
        (["ls", "modles"], "modles"),
        (["plan", "study.yaml", "--store", "rows.jsonl"], "cannot be written"),
        (["distill", "--student", "a", "--data", "rows.jsonl", "--out", "o"], "needs a --teacher"),
        (
            ["distill", "--student=./small", "--data=gone.jsonl", "--out=o", "--method=sft"],
            "gone.jsonl: no such file",
        ),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_clear_message(folder, arguments, expected):
    done = kdstudy(*arguments, cwd=folder)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_field_names_file_and_line(folder):
    study = yaml.safe_dump(STUDY) + "train:\n  lerning_rate: 1\n"
    (folder / "study.yaml").write_text(study)
    done = kdstudy("run", "study.yaml", cwd=folder)
    assert done.returncode == 2
    line = len(study.split("\n")) - 1
    assert f"study.yaml, line {line}: train.lerning_rate" in done.stderr


def test_a_stage_that_fails_is_exit_code_1_or_2_and_keeps_what_is_finished(folder):
    # The models of this folder are not loadable: the first generation stage must say so.
    done = kdstudy("run", "study.yaml", cwd=folder)
    assert done.returncode == 2
    assert "generate small on synth_addsub" in done.stderr
    assert "Traceback" not in done.stderr
    shown = kdstudy("plan", "study.yaml", cwd=folder).stdout
    assert "hit        corpus" in shown
    assert "hit        benchmark" in shown


def test_ls_lists(tmp_path):
    assert "word_kd" in kdstudy("ls", "methods").stdout
    assert "gsm8k" in kdstudy("ls", "benchmarks").stdout
    assert "synthetic" in kdstudy("ls", "corpora").stdout
    runs = kdstudy("ls", "runs", "--store", tmp_path / "none")
    assert (runs.returncode, runs.stdout) == (0, "")
    names = [row["name"] for row in json.loads(kdstudy("ls", "models", "--json").stdout)]
    assert {"zoo-xs", "zoo-s", "zoo-m", "zoo-l"} == set(names)


def test_the_schema_is_json():
    assert json.loads(kdstudy("schema").stdout)["title"] == "Study"


ENCODED = """
import sys
sys.stdout.reconfigure(encoding=sys.argv[1])  # as PYTHONIOENCODING and a terminal's locale do
sys.argv = ["kdstudy", "paper"]
from kdstudy.cli import main
main()
"""


def test_a_terminal_of_another_encoding_gets_the_whole_output(tmp_path):
    (tmp_path / "encoded.py").write_text(ENCODED)

    def paper(encoding):
        running = forked.Running([encoding], tmp_path, None, tmp_path / "encoded.py")
        running.process.join()
        assert running.process.exitcode == 0, running.err.read_text()
        return running.out.read_bytes().decode(encoding)

    text = paper("utf-8")
    assert "−" in text  # U+2212, which no other here has
    for encoding in ("cp1252", "latin-1"):
        shown = paper(encoding)
        assert len(shown.splitlines()) == len(text.splitlines())
        assert shown.splitlines()[-1] == text.splitlines()[-1]
        assert "?" not in set(shown) - set(text)


NO_HOME = """
import os, pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
from kdstudy.cli import main
sys.argv = ["kdstudy", "ls", "benchmarks"]
try:
    main()
except SystemExit as e:
    code = e.code
from nltk import downloader
sys.exit(code)
"""


def test_a_user_without_a_home_folder_gets_one(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "KDSTUDY_CACHE")}
    environment |= {"TMPDIR": str(tmp_path)}
    call = [sys.executable, "-c", NO_HOME]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gsm8k" in done.stdout
    assert str(tmp_path) in done.stderr


def test_the_version_is_said_in_one_place(tmp_path):
    said = kdstudy("--version", cwd=tmp_path).stdout.split()
    assert said == ["kdstudy", __version__]
    heads = re.findall(r"^## \[?(\d[^\]\s]*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == __version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]


def test_a_tilde_is_the_home_folder_wherever_it_stands(tmp_path):
    (tmp_path / "data").mkdir()
    environment = os.environ | {"HOME": str(tmp_path)}
    rows = "student,method,task,score,seed\na,sft,t,0.5,0\na,kd,t,0.6,0\n"
    (tmp_path / "r.csv").write_text(rows)
    done = kdstudy("ls", "benchmarks", "--data-dir=~/data", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    done = kdstudy("ls", "benchmarks", env=environment | {"KDSTUDY_DATA": "~/data"})
    assert done.returncode == 0, done.stderr
    assert kdstudy("analyze", "~/r.csv", cwd=tmp_path, env=environment).returncode == 0
    assert not (tmp_path / "~").exists()
