"""One run over two processes (gloo, CPU), DDP and FSDP2, against one process."""

import json
import os
from pathlib import Path

import forked
import pytest
import tiny_models as tiny
import torch
import two_devices
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kdstudy import methods
from kdstudy.distill import sharded
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.model import DistillModel
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError, StageError
from kdstudy.methods.minillm import MiniLLM

MODES = ("ddp", "fsdp")
EXACT = [name for name, case in two_devices.CASES.items() if case.dtype != torch.bfloat16]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices")
    for name in two_devices.CASES:
        two_devices.train(name, out / "one")
    script = Path(two_devices.__file__)
    for end in forked.launch(script, out, out / "one", cwd=out):
        assert end.returncode == 0, end.stderr
    two_devices.resume("gkd", out / "one", out / "fsdp")
    return out


def facts(folder):
    return json.loads((folder / "facts.json").read_text())


def student(folder):
    (weights,) = (folder / "student").glob("*.safetensors")
    return load_file(weights)


def distance(a, b):
    """The largest difference, over the largest number."""
    assert a.keys() == b.keys()
    largest = max(value.abs().max().item() for value in a.values())
    return max((a[n] - b[n]).abs().max().item() for n in a) / largest


@pytest.mark.parametrize(
    ("mode", "name"),
    [(m, n) for m in MODES for n in EXACT if m == "ddp" or two_devices.CASES[n].sharded],
)
def test_two_processes_have_the_loss_and_gradients_of_one(runs, mode, name):
    one, two = runs / "one" / name, runs / mode / name
    assert facts(one)["world"] == 1 and facts(two)["world"] == 2
    share = pytest.approx(0.5 if mode == "fsdp" else 1.0, abs=0.02)
    assert facts(two)["held"] == share and facts(two)["teacher_held"] in (None, share)
    assert facts(one)["tokens"] == facts(two)["tokens"]
    gradients = [load_file(folder / "gradients.safetensors") for folder in (one, two)]
    double = two_devices.CASES[name].dtype == torch.float64
    assert distance(*gradients) < (1e-12 if double else 1e-6)
    # Logged losses are float32 whatever the model is.
    assert facts(one)["losses"][0] == pytest.approx(facts(two)["losses"][0], rel=1e-6)
    for what in ("losses", "validation", "norms"):
        assert facts(one)[what] == pytest.approx(facts(two)[what], rel=1e-5)
    for ours, theirs in zip(facts(one)["parts"], facts(two)["parts"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "train"),
    [
        (MiniLLM(whiten=True, teacher_share=0), {}),
        (methods.Sft(), {"replay_weight": 1.0, "replay_towards": "base"}),
    ],
)
def test_what_fsdp_does_not_do_is_refused(monkeypatch, tmp_path, method, train):
    args = DistillConfig(output_dir=str(tmp_path), method=method, use_cpu=True, **train)
    monkeypatch.setattr(sharded, "plugin_of", lambda args: object())
    again = {"replay_dataset": tiny.rows(3)} if train else {}
    with pytest.raises(InputError, match=r"whiten looks|asked twice") as error:
        DistillTrainer(
            tiny.qwen(0), tiny.qwen(1), args, train_dataset=tiny.rows(4),
            processing_class=tiny.tokenizer(), **again,
        )  # fmt: skip
    assert "DDP" in error.value.remedy


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_make_the_student_of_one(runs, mode):
    # float64: AdamW turns a rounding difference in a near-zero gradient into a whole step.
    assert distance(student(runs / "one" / "gkd"), student(runs / mode / "gkd")) < 1e-12


def test_mixed_precision_is_the_same_sharded_or_not(runs):
    ddp, fsdp = (runs / mode / "bfloat16" for mode in MODES)
    assert facts(ddp)["losses"] == pytest.approx(facts(fsdp)["losses"], rel=1e-5)
    gradients = [load_file(folder / "gradients.safetensors") for folder in (ddp, fsdp)]
    assert distance(*gradients) < 1e-5
    # Devices make other micro-batches than one device, and bfloat16 rounds those otherwise.
    assert facts(ddp)["losses"] == pytest.approx(facts(runs / "one/bfloat16")["losses"], rel=1e-2)


def test_what_a_sharded_run_saves_loads_without_one(runs):
    ids = torch.tensor([two_devices.ROWS[0].ids])
    for mode in ("one", "fsdp"):
        folder = runs / mode / "sft" / "student"
        adapted = PeftModel.from_pretrained(tiny.qwen(0), folder).eval()
        whole = AutoModelForCausalLM.from_pretrained(runs / mode / "sft_full" / "student").eval()
        with torch.no_grad():
            logits = adapted(ids).logits, whole(ids).logits
        if mode == "one":
            expected = logits
    for ours, theirs in zip(expected, logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (logits[0] - tiny.qwen(0)(ids).logits).abs().max() > 0.01


@pytest.mark.parametrize("step", [3, 5], ids=["after an epoch", "after the last step"])
@pytest.mark.parametrize(("mode", "name"), [("ddp", "gkd"), ("fsdp", "live_full")])
def test_a_run_of_two_processes_resumes_to_the_same_bits(runs, mode, name, step):
    resumed = student(runs / mode / "resumed" / mode / f"{name}-{step}")
    assert distance(student(runs / mode / name), resumed) == 0


@pytest.mark.parametrize(
    ("source", "mode"), [("one", "ddp"), ("one", "fsdp"), ("fsdp", "one")], ids=str
)
def test_a_run_goes_on_with_another_number_of_processes(runs, source, mode):
    resumed = student(runs / mode / "resumed" / source / "gkd-3")
    assert distance(student(runs / "one" / "gkd"), resumed) < 1e-12


def test_a_gradient_that_is_broken_in_one_shard_stops_every_process(runs):
    told = [(runs / "fsdp" / "poison" / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert told == ["step 1: the gradient is not a finite number"] * 2


def test_processes_that_would_ask_the_teacher_differently_are_told(monkeypatch):
    monkeypatch.setattr(sharded, "gather_object", lambda mine: [*mine, "another"])
    with pytest.raises(StageError, match="some processes only"):
        sharded.prepare(DistillModel(tiny.qwen(0), methods.Sft().recipe()), None)


@pytest.mark.parametrize(
    ("environment", "arguments", "named"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "version 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {}, "one process"),
        ({}, {"fsdp": True, "fsdp_config": {"version": 1}}, "version 1"),
        ({}, {"fsdp": True, "fsdp_config": {"cpu_offload": True}}, "cpu_offload"),
        ({}, {"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}, "activation_ch"),
        ({}, {"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}}, "cpu_ram"),
        ({}, {"fsdp": True, "torch_compile": True}, "torch_compile"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, "mixed precision fp16"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "mixed precision bf16"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}, "parallelism_config"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "deepspeed"),
        ({}, {"deepspeed": {"zero_optimization": {"stage": 2}}}, "deepspeed"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(monkeypatch, tmp_path, environment, arguments, named):
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    with pytest.raises(InputError, match=named) as error:
        sharded.plugin_of(DistillConfig(output_dir=str(tmp_path), use_cpu=True, **arguments))
    assert error.value.why and error.value.remedy
