"""Model names: folders, and Hub ids through HF_ENDPOINT against a local stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hub_stand_in import COMMIT, hub
from study_folder import model_folder

from kdstudy.data.corpora import locate
from kdstudy.errors import InputError
from kdstudy.models.resolve import resolve
from kdstudy.study.schema import CorpusRef, ModelRef

# huggingface_hub reads its endpoint when it is imported, so the client is a process of its own.
CLIENT = """
import json, sys
from pathlib import Path
from kdstudy.models.resolve import fetch, resolve
from kdstudy.study.schema import ModelRef
pins = json.loads(sys.argv[2])
found = resolve(ModelRef(**json.loads(sys.argv[1])), Path(), pins)
folder = fetch(found.local()) if sys.argv[3] == "fetch" else None
print(json.dumps([found.name, found.fingerprint, str(folder), pins]))
"""


def client(endpoint, cache, ref, pins=None, fetch=True):
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    call = [sys.executable, "-c", CLIENT, json.dumps(ref), json.dumps(pins or {})]
    call.append("fetch" if fetch else "pin")
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.fixture
def served(tmp_path):
    model_folder(tmp_path / "served")
    with hub("org/tiny", tmp_path / "served") as (endpoint, seen):
        yield endpoint, seen, tmp_path


def test_a_hub_model_is_pinned_to_its_commit_and_fetched(served):
    endpoint, _, folder = served
    name, fingerprint, fetched, pins = client(endpoint, folder / "cache", {"model": "org/tiny"})
    assert name == "tiny"
    assert fingerprint == f"hub:org/tiny@{COMMIT}"
    assert pins == {"org/tiny@main": COMMIT}
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (Path(fetched) / file).read_bytes() == (folder / "served" / file).read_bytes()


def test_what_is_pinned_needs_no_network(served):
    endpoint, seen, folder = served
    pins = {"org/tiny@main": COMMIT}
    assert client(endpoint, folder / "cache", {"model": "org/tiny"}, pins, fetch=False)
    whole = {"model": "org/tiny", "revision": COMMIT}
    assert client(endpoint, folder / "cache", whole, fetch=False)
    assert seen == []


def test_a_downloaded_model_works_without_the_hub(served):
    endpoint, _, folder = served
    first = client(endpoint, folder / "cache", {"model": "org/tiny"})
    gone = "http://127.0.0.1:9"
    again = client(gone, folder / "cache", {"model": "org/tiny"}, first[3])
    assert again[:3] == first[:3]


def test_an_unknown_model_and_a_dead_hub_are_told_apart(served):
    endpoint, _, folder = served
    assert "no such model" in client(endpoint, folder / "c", {"model": "org/none"}, fetch=False)
    dead = client("http://127.0.0.1:9", folder / "c", {"model": "org/tiny"}, fetch=False)
    assert "cannot be reached" in dead


def test_a_folder_wins_over_the_hub_and_is_known_by_its_bytes(tmp_path):
    model_folder(tmp_path / "mine")
    one = resolve(ModelRef(model="mine"), tmp_path, {})
    assert one.folder == str(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"changed!")
    assert resolve(ModelRef(model="mine"), tmp_path, {}).fingerprint != one.fingerprint


def test_a_users_adapter_is_part_of_the_identity(tmp_path):
    model_folder(tmp_path / "mine")
    plain = resolve(ModelRef(model="./mine"), tmp_path, {})
    (tmp_path / "adapter").mkdir()
    with pytest.raises(InputError, match=r"no adapter_config\.json"):
        resolve(ModelRef(model="./mine", adapter="adapter"), tmp_path, {})
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    adapted = resolve(ModelRef(model="./mine", adapter="adapter"), tmp_path, {})
    assert adapted.fingerprint != plain.fingerprint


DATA_CLIENT = """
import json
from pathlib import Path
from kdstudy.data.corpora import load, locate
from kdstudy.study.schema import CorpusRef
ref = CorpusRef(dataset="org/rows", validation_rows=2)
source = locate(ref, Path(), None, {})
corpus = load(source, rows=None, validation_rows=2, seed=0)
rows = [[e.instruction, e.response] for e in (*corpus.train, *corpus.validation)]
print(json.dumps([source.fingerprint, sorted(rows)]))
"""


def test_a_hub_data_set_is_pinned_and_read(tmp_path):
    (tmp_path / "served").mkdir()
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "served" / "train.jsonl").write_text(text)
    with hub("org/rows", tmp_path / "served", kind="datasets") as (endpoint, _):
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", DATA_CLIENT],
            env=environment | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    fingerprint, read = json.loads(done.stdout)
    assert fingerprint == f"hub:org/rows@{COMMIT}:train"
    assert read == [[row["prompt"], row["completion"]] for row in rows]


def test_a_configuration_of_a_hub_data_set_with_its_own_names(tmp_path):
    """Conversations as Parquet on the Hub, whose nulls are nobody's words."""
    served = tmp_path / "served"
    served.mkdir()
    configs = "".join(f"- config_name: {c}\n  data_files: {c}.parquet\n" for c in ("one", "two"))
    (served / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    talk = [[{"role": "user", "content": f"q{i}", "name": None},
             {"role": "assistant", "content": f"a{i}", "name": "x" if i else None}]
            for i in range(9)]  # fmt: skip
    Dataset.from_dict({"talk": talk, "answer": [float("nan")] * 9}).to_parquet(
        served / "two.parquet"
    )
    Dataset.from_dict({"other": ["words"]}).to_parquet(served / "one.parquet")
    ref = 'CorpusRef(dataset="org/rows", config="two", columns={"messages": "talk"})'
    program = DATA_CLIENT.replace('CorpusRef(dataset="org/rows", validation_rows=2)', ref)
    program = program.replace("[e.instruction, e.response]", "e.chat")
    with hub("org/rows", served, kind="datasets") as (endpoint, _):
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    fingerprint, read = json.loads(done.stdout)
    assert fingerprint == f"hub:org/rows@{COMMIT}:two:train"
    said = [json.loads(chat)["messages"] for chat in read]
    assert {len(messages) for messages in said} == {2}
    assert sorted(m[1]["content"] for m in said) == [f"a{i}" for i in range(9)]
    assert sum("name" in m[1] for m in said) == 8
    assert not any("name" in m[0] for m in said)


def test_a_known_corpus_without_a_data_folder(tmp_path):
    with pytest.raises(InputError, match="KDSTUDY_DATA"):
        locate(CorpusRef(name="math10k"), tmp_path, None, {})
