"""Model names: folders, and Hub ids through HF_ENDPOINT against a local stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hub_clients import client
from hub_stand_in import COMMIT, hub
from study_folder import model_folder

from kdstudy.config.schema import CorpusRef, ModelRef
from kdstudy.data.corpora import locate
from kdstudy.errors import InputError, StageError
from kdstudy.models.fetch import fetch
from kdstudy.models.resolve import resolve, told_apart


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
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LO')
    with pytest.raises(InputError, match=r"adapter_config\.json cannot be used .it is not JSON"):
        resolve(ModelRef(model="./mine", adapter="adapter"), tmp_path, {})
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    adapted = resolve(ModelRef(model="./mine", adapter="adapter"), tmp_path, {})
    assert adapted.fingerprint != plain.fingerprint


READ = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "vocab.txt"),
    *("chat_template.jinja", "additional_chat_templates/tools.jinja", "vocab.json", "merges.txt"),
    *("tokenizer.model", "qwen.tiktoken", "model.safetensors", "model.safetensors.index.json"),
)


@pytest.mark.parametrize("name", READ)
def test_every_file_that_may_be_read_is_in_the_fingerprint(tmp_path, name):
    model_folder(tmp_path / "mine")
    file = tmp_path / "mine" / name
    found = [resolve(ModelRef(model="mine"), tmp_path, {}).fingerprint]
    for token in "ab":
        text = json.dumps({"model_type": "qwen2", "model": {"vocab": {token: 0}}})
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        found.append(resolve(ModelRef(model="mine"), tmp_path, {}).fingerprint)
    assert len(set(found)) == 3


def test_code_is_in_the_fingerprint_where_it_may_run(tmp_path):
    model_folder(tmp_path / "mine")
    for trust, different in ((True, 2), (False, 1)):
        found = set()
        for text in ("x = 1", "x = 2"):
            (tmp_path / "mine" / "modeling_own.py").write_text(text)
            ref = ModelRef(model="mine", trust_remote_code=trust)
            found.add(resolve(ref, tmp_path, {}).fingerprint)
        assert len(found) == different


def test_what_is_hashed_is_what_is_fetched(served):
    endpoint, _, folder = served
    for name in READ:
        (folder / "served" / name).parent.mkdir(exist_ok=True)
        if not (folder / "served" / name).exists():
            (folder / "served" / name).write_text("{}")
    (folder / "served" / "training_args.bin").write_bytes(b"pickle")
    fetched = Path(client(endpoint, folder / "cache", {"model": "org/tiny"})[2])
    here = {p.relative_to(fetched).as_posix() for p in fetched.rglob("*") if p.is_file()}
    hashed = resolve(ModelRef(model=str(folder / "served")), folder, {}).files
    assert here == {Path(p).relative_to(folder / "served").as_posix() for p in hashed} == {*READ}


def test_bytes_replaced_with_size_and_time_put_back_are_noticed(tmp_path):
    model_folder(tmp_path / "mine")
    weights, pins = tmp_path / "mine" / "model.safetensors", {}
    one = resolve(ModelRef(model="mine"), tmp_path, pins)
    before = weights.stat()
    weights.write_bytes(weights.read_bytes()[::-1])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolve(ModelRef(model="mine"), tmp_path, pins).fingerprint != one.fingerprint


@pytest.mark.parametrize("what", ["edited", "added", "removed", "adapter"])
def test_a_model_that_changed_after_planning_is_not_opened(tmp_path, what):
    model_folder(tmp_path / "mine")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    ref = ModelRef(model="mine", adapter="adapter")
    local = json.loads(json.dumps(resolve(ref, tmp_path, {}).local()))
    # Copied back, a file has another state and the same bytes: that is no change.
    config = tmp_path / "mine" / "config.json"
    config.write_bytes(config.read_bytes())
    assert fetch(local) == tmp_path / "mine"
    if what == "edited":
        (tmp_path / "mine" / "tokenizer.json").write_text("{}")
    elif what == "added":
        (tmp_path / "mine" / "chat_template.jinja").write_text("{{ messages }}")
    elif what == "removed":
        (tmp_path / "mine" / "tokenizer.json").unlink()
    else:
        (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(StageError, match="has changed since the study was planned"):
        fetch(local)


def test_a_link_keeps_its_own_name(tmp_path):
    model_folder(tmp_path / "runs" / "checkpoint-500")
    (tmp_path / "my-student").symlink_to(tmp_path / "runs" / "checkpoint-500")
    assert resolve(ModelRef(model="./my-student"), tmp_path, {}).name == "my-student"


def test_models_that_share_a_short_name_are_told_apart(tmp_path):
    for place in ("a/m", "b/m", "x/c/m", "y/c/m", "other"):
        model_folder(tmp_path / place)
        (tmp_path / place / "model.safetensors").write_text(place)
    for place in ("one/fit", "two/fit"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "adapter_config.json").write_text(json.dumps({"of": place}))
    pins = {"org/m@main": "1" * 40, "org/m@old": "2" * 40, "them/m@main": "3" * 40}
    refs = [
        ModelRef(model=model, revision=revision, adapter=adapter)
        for model, revision, adapter in [
            ("./a/m", None, None), ("./b/m", None, None), ("./x/c/m", None, None),
            ("./y/c/m", None, None), ("./other", None, None), ("./other", None, "one/fit"),
            ("./other", None, "two/fit"), ("org/m", None, None), ("org/m", "old", None),
            ("them/m", None, None), ("./a/m", None, None),
        ]
    ]  # fmt: skip
    told = told_apart([resolve(ref, tmp_path, pins) for ref in refs])
    names = [m.name for m in told]
    assert names[0] == names[-1] == "a/m"
    assert names[1] == "b/m"
    assert names[4] == "other"
    assert names[9] == "them/m"
    assert names[2:4] == ["x/c/m", "y/c/m"]
    assert names[7:9] == ["org/m@" + 12 * "1", "org/m@" + 12 * "2"]
    assert len(set(names)) == len(refs) - 1
    assert names[5].endswith("one/fit")
    assert names[6].endswith("two/fit")
    assert not any(name.startswith("/") for name in names), "a place on this machine is no name"


DATA_CLIENT = """
import json
from pathlib import Path
from kdstudy.data.corpora import load, locate
from kdstudy.config.schema import CorpusRef
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
