"""What SECURITY.md promises: nothing runs, nothing leaves the store, nothing secret is written."""

import ast
import dataclasses
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from refusals import call, files, refused
from study_folder import STUDY, model_folder, write_folder

import kdstudy
from kdstudy.errors import InputError
from kdstudy.models import zoo
from kdstudy.stage import kinds

SECRETS = {
    name: f"secret-of-{name}-4711"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MY_TOKEN", "AWS_SECRET")
}
GOOD = {
    **{"name": "t", "teachers": ["zoo-l"], "students": ["zoo-s"]},
    **{"corpus": "synthetic", "benchmarks": ["synth_addsub"]},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def write(folder, **fields):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(GOOD | fields))
    return path


PLACES = ["../x", "/tmp/x", "a/b", "..", ".", ".x", "a\\..\\b", "a\0b", "a\n", "", "a" * 65, "-x"]


@pytest.mark.parametrize("name", PLACES)
def test_a_studys_name_is_no_path(tmp_path, name):
    refused(tmp_path, "plan", write(tmp_path, name=name), "--store", tmp_path / "store")


@pytest.mark.parametrize("name", [n for n in PLACES if n != "a" * 65])
def test_a_benchmarks_name_is_no_path(tmp_path, name):
    (tmp_path / "items.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    own = {"name": name, "path": "items.jsonl", "kind": "number"}
    study = write(tmp_path, benchmarks=[own])
    refused(tmp_path, "plan", study, "--store", tmp_path / "store")


@pytest.mark.parametrize("name", ["../../x", "org/../x", "..", "a/b/c", "https://example.org/x"])
def test_a_hub_id_is_no_path(tmp_path, name):
    for fields in ({"teachers": [name]}, {"corpus": {"dataset": name}}):
        refused(tmp_path, "plan", write(tmp_path, **fields), "--store", tmp_path / "store")


def test_names_on_disk_are_hashes_and_everything_lies_in_the_store(tmp_path):
    """Model folders whose names and paths climb; only the study's name is a file's name."""
    inside = tmp_path / "inside"
    write_folder(inside)
    model_folder(inside / "deep" / "..." / "--help")
    students = ["./deep/../small", "./deep/.../--help"]
    (inside / "study.yaml").write_text(yaml.safe_dump(STUDY | {"students": students}))
    before = files(tmp_path)
    done = call("run", inside / "study.yaml", "--store", inside / "store")
    assert done.code == 2
    made = files(tmp_path) - before
    assert made
    for path in made:
        kind, *rest = path.relative_to(inside / "store").parts
        assert kind in ("stages", "logs", "latest", "pins.json", "studies.json")
        assert not rest or re.fullmatch(r"[0-9a-f]{32}(\.partial|\.jsonl)?", rest[0])


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def pickled(tmp_path):
    """A model's folder whose weights are a pickle that would run; and what would be seen then."""
    folder = tmp_path / "model"
    shutil.copytree(zoo.path("zoo-xs"), folder)
    (folder / "model.safetensors").unlink()
    trap = pickle.dumps(Trap(tmp_path / "ran"))
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt", "optimizer.pt"):
        (folder / name).write_bytes(trap)
    return folder, tmp_path / "ran"


def test_a_models_pickle_is_refused_and_never_read(tmp_path, pickled):
    from kdstudy.models.load import load_model

    folder, ran = pickled
    study = write(tmp_path, students=["./model"])
    message = refused(tmp_path, "plan", study, "--store", tmp_path / "store")
    assert "pickle" in message and "save_pretrained" in message
    with pytest.raises(InputError, match="pickle"):
        load_model(folder)
    shutil.copy(zoo.path("zoo-xs") / "model.safetensors", folder)
    load_model(folder)
    assert not ran.exists()


def test_an_adapters_pickle_is_refused_and_never_read(tmp_path, pickled):
    from kdstudy.models.load import load_model

    folder, ran = pickled
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.bin").write_bytes((folder / "model.pt").read_bytes())
    with pytest.raises(InputError, match="pickles, which can run code"):
        load_model(zoo.path("zoo-xs"), adapter=folder)
    assert not ran.exists()


def test_a_models_code_runs_only_where_the_study_says_so(tmp_path):
    from kdstudy.models.load import load_model, load_tokenizer

    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(zoo.path("zoo-xs"), folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(ran)!r})\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_model(folder)
    with pytest.raises(InputError):
        load_model(folder, trust_remote_code=False)
    load_tokenizer(zoo.path("zoo-xs"))
    assert not ran.exists()


def test_trust_is_off_by_default_and_recorded_when_it_is_on(tmp_path):
    plain = {"model": "zoo-s"}
    for fields, trusted in ((plain, False), (plain | {"trust_remote_code": True}, True)):
        study = write(tmp_path, students=[fields])
        done = call("plan", study, "--store", tmp_path / "store", "--json")
        document = json.loads(done.out)
        assert document["study"]["students"][0]["trust_remote_code"] is trusted


def test_no_reader_of_pickles_is_called_anywhere():
    """numpy's and torch's readers of arrays unpickle where they are let."""
    root = Path(kdstudy.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec", "os.system"), path
                assert "read_pickle" not in name, path
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert name != "torch.load" or keywords.get("weights_only") == "True", path
                assert keywords.get("allow_pickle", "False") == "False", path
                assert keywords.get("shell", "False") == "False", path


def fails(work):
    """A stage that fails as a bug does, with the environment at hand."""
    environment = dict(os.environ)
    raise RuntimeError(f"a bug in {work.out.name} with {len(environment)} variables")


def test_secrets_are_in_no_file_and_in_no_output(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    write_folder(tmp_path)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    store = ("--store", tmp_path / "store")
    shown = [call("run", study, *store)]
    failing = dataclasses.replace(kinds()["generate"], entry="test_security:fails", version=99)
    monkeypatch.setitem(kinds(), "generate", failing)
    shown += [call("run", study, *store), call("plan", study, *store, "--json")]
    shown += [call("report", study, *store), call("ls", "runs", *store, "--json")]
    reports = list((tmp_path / "store").glob("logs/*.txt"))
    assert len(reports) == 1
    assert "a bug in" in reports[0].read_text()
    assert list((tmp_path / "store" / "studies").rglob("report.html"))
    written = [path.read_bytes() for path in files(tmp_path / "store")]
    written += [(done.out + done.err).encode() for done in shown]
    everything = b"\n".join(written)
    for value in (*SECRETS.values(), os.environ["PATH"]):
        assert value.encode() not in everything
