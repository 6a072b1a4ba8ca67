"""Kinds of checkpoint that cannot be used: refused at the door, with what to do instead."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import tiny_models as tiny
from hub_clients import client
from hub_stand_in import COMMIT, hub
from study_folder import model_folder, plan_of, write_folder

from kdstudy.config.schema import ModelRef
from kdstudy.errors import InputError
from kdstudy.models.checkpoint import check_config, check_folder
from kdstudy.models.load import load_model
from kdstudy.models.resolve import resolve

SHELL = Path(__file__).parent / "from_a_shell.py"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"quantised \(bitsandbytes\)"),
        ({"quantization_config": {"quant_method": "mxfp4"}, "model_type": "gpt_oss"}, "mxfp4"),
        ({"model_type": "llama9"}, "'llama9' is unknown to transformers"),
        ({"model_type": "bert"}, "bert is not a causal language model\n.*an encoder"),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, "roberta is not"),
        ({"model_type": "modernbert"}, "modernbert is not a causal language model"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is not"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "an encoder-decoder"),
        ({"model_type": "vit"}, "vit is not a causal language model"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "a classifier"),
        ({"model_type": None}, "names no model_type"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}},
            "its own Python code",
        ),
    ],
)
def test_what_a_configuration_tells(tmp_path, config, message):
    folder = tmp_path / "m"
    model_folder(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"} | config))
    with pytest.raises(InputError, match=message) as error:
        resolve(ModelRef(model="./m"), tmp_path, {})
    assert (error.value.why and error.value.remedy) or "model_type" in message
    with pytest.raises(InputError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "quantization_config": None},
        {"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]},
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        {"model_type": "mamba"},
        {"model_type": "qwen2", "auto_map": {"AutoModelForCausalLM": "modeling_q.Q"}},
    ],
)
def test_what_is_a_causal_model_passes(config):
    check_config(config, "m", trust_remote_code=False)
    own = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "m.Own"}}
    check_config(own, "m", trust_remote_code=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"p"}, "only pickles of PyTorch"),
        ({"consolidated.00.pth": b"p"}, "only pickles of PyTorch"),
        ({"model-Q4_K_M.gguf": b"GGUF"}, "only GGUF"),
        ({"model.onnx": b"o"}, "only ONNX"),
        ({}, "holds no weights"),
        ({"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS pointer"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "one", "b": "two"}}',
             "one": b"1"},
            "1 of its 2 weight files are missing, the first is two",
        ),
    ],
)  # fmt: skip
def test_what_the_files_tell(tmp_path, files, message):
    folder = tmp_path / "m"
    model_folder(folder)
    (folder / "model.safetensors").unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        resolve(ModelRef(model="./m"), tmp_path, {})


@pytest.mark.parametrize(
    ("names", "message"),
    [(["x.gguf"], "only GGUF"), (["adapter_config.json"], "is a PEFT adapter"),
     (["model.safetensors"], "no config.json"), (["readme.txt"], "no config.json")],
)  # fmt: skip
def test_folders_without_a_configuration(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        check_folder(tmp_path, trust_remote_code=False)


def test_an_adapter_of_pickles_is_refused_at_the_door(tmp_path):
    model_folder(tmp_path / "m")
    (tmp_path / "a").mkdir()
    for name in ("adapter_config.json", "adapter_model.bin"):
        (tmp_path / "a" / name).write_text("{}")
    with pytest.raises(InputError, match=r"only adapter_model\.bin"):
        resolve(ModelRef(model="./m", adapter="a"), tmp_path, {})


def test_the_conversion_that_a_refusal_names_works_as_printed(tmp_path):
    import torch

    tiny.save(tmp_path / "m", tiny.qwen(1))
    weights = tiny.qwen(1).state_dict()
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(InputError, match="convert them") as error:
        resolve(ModelRef(model="./m"), tmp_path, {})
    command = shlex.split(error.value.remedy.partition(": ")[2])
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    converted = load_model(tmp_path / "converted").state_dict()
    assert all(torch.equal(converted[k], v) for k, v in weights.items())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.gguf"])
def test_the_hub_is_asked_for_its_files_before_anything_is_downloaded(tmp_path, file):
    model_folder(tmp_path / "served")
    (tmp_path / "served" / "model.safetensors").rename(tmp_path / "served" / file)
    with hub("org/tiny", tmp_path / "served") as (endpoint, seen):
        said = client(endpoint, tmp_path / "cache", {"model": "org/tiny"}, fetch=False)
    assert "org/tiny: holds no weights in safetensors, only" in said
    assert not any("/resolve/" in path for path in seen)


def test_what_is_in_the_cache_is_looked_at_too(tmp_path):
    model_folder(tmp_path / "served")
    with hub("org/tiny", tmp_path / "served") as (endpoint, _):
        client(endpoint, tmp_path / "cache", {"model": "org/tiny"})
    (config,) = (tmp_path / "cache").rglob("snapshots/*/config.json")
    text = json.dumps({"model_type": "qwen2", "quantization_config": {"quant_method": "fp8"}})
    config.resolve().write_text(text)
    whole = {"model": "org/tiny", "revision": COMMIT}
    said = client("http://127.0.0.1:9", tmp_path / "cache", whole, fetch=False)
    assert "org/tiny: is quantised (fp8)" in said


def command(folder, *arguments, **environment):
    environment = os.environ | {"HF_HOME": str(folder / "hf")} | environment
    return forked.Running(arguments, folder, environment, SHELL).end()


def offline_study(folder, **fields):
    write_folder(folder)
    plan_of(folder, students=["./small"], teachers=["./big"], ablations={})
    text = (folder / "study.yaml").read_text()
    (folder / "study.yaml").write_text(text.replace("./big", "org/big") + json.dumps(fields)[1:-1])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub cannot be reached"),
    ],
)
def test_a_study_whose_teacher_cannot_be_reached_is_planned_and_not_run(
    tmp_path, environment, words
):
    offline_study(tmp_path)
    planned = command(tmp_path, "plan", "study.yaml", "--json", **environment)
    assert planned.returncode == 0, planned.stderr
    found = json.loads(planned.stdout)
    assert words in found["unpinned"]["org/big"]
    status = {f"{row['kind']} {row['label']}": row["status"] for row in found["stages"]}
    assert status["train small/sft"] == "miss"
    assert status["train big/teacher"] == "unpinned"
    # A student of it hangs on it, and so does everything that compares with it.
    assert status["train small/word_kd/big"] == "unpinned"
    assert status["report t"] == "unpinned"
    ran = command(tmp_path, "run", "study.yaml", **environment)
    assert ran.returncode == 2
    assert "org/big" in ran.stderr and words in ran.stderr and "report it" not in ran.stderr
    assert "hf download org/big" in ran.stderr
    assert not list((tmp_path / "kdstudy-store").glob("stages/*"))


def test_plan_prints_what_differs_from_the_protocol_all_the_same(tmp_path):
    offline_study(tmp_path)
    text = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text + "protocol: reference\n")
    done = command(tmp_path, "plan", "study.yaml", HF_HUB_OFFLINE="1")
    assert done.returncode == 0
    assert "unpinned: org/big: " in done.stdout
    assert "differs from corrected: extraction = reference" in done.stdout
    shown = command(tmp_path, "doctor", "study.yaml", HF_HUB_OFFLINE="1")
    assert shown.returncode == 2
    assert "unpinned: org/big" in shown.stdout
    assert "differs from corrected: extraction = reference" in shown.stdout


def test_a_pinned_model_that_is_not_here_is_refused_before_anything_runs(tmp_path):
    offline_study(tmp_path)
    text = (tmp_path / "study.yaml").read_text()
    pinned = f"{{model: org/big, revision: '{COMMIT}'}}"
    (tmp_path / "study.yaml").write_text(text.replace("org/big", pinned))
    done = command(tmp_path, "run", "study.yaml", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE forbids" in done.stderr
    assert not list((tmp_path / "kdstudy-store").glob("stages/*"))
