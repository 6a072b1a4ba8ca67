"""Every field of TrainingArguments does what it does in Trainer, or is answered in words."""

import dataclasses
import json
import logging
import os
import sys
from types import SimpleNamespace

import pytest
import tiny_models as tiny
import torch
from huggingface_hub import HfApi
from library_runs import LORA, ROWS, losses, weights
from train_stage import TRAIN, furnish, work
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import integration_utils
from typer.testing import CliRunner

from kdstudy import DistillConfig, methods
from kdstudy.cli import app
from kdstudy.distill import config, stages, trackers
from kdstudy.errors import InputError
from kdstudy.models import packing

# A value that is not the default, for each field that is refused or does nothing.
VALUES = {
    "fp16": True, "fp16_full_eval": True, "bf16_full_eval": True, "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0, "auto_find_batch_size": True, "torch_compile": True,
    "torch_compile_backend": "inductor", "torch_compile_mode": "default", "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True}, "label_names": ["labels"],
    "train_sampling_strategy": "group_by_length", "average_tokens_across_devices": False,
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "dataloader_num_workers": 2, "dataloader_pin_memory": False, "ignore_data_skip": True,
    "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 2,
    "dataloader_multiprocessing_context": "spawn", "dataloader_in_order": False,
    "dataloader_drop_last": True, "length_column_name": "len", "use_cache": True,
    "eval_do_concat_batches": False, "eval_use_gather_object": True,
    "eval_accumulation_steps": 2, "include_for_metrics": ["inputs"], "batch_eval_metrics": True,
}  # fmt: skip
# The others, looked at one by one: Trainer's own code reads them, or they are read here.
_TAKEN = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
optim_target_modules gradient_accumulation_steps max_grad_norm bf16 tf32 activation_checkpointing
activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
torch_empty_cache_steps logging_strategy logging_steps logging_first_step log_on_each_node
logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm
report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
load_best_model_at_end metric_for_best_model greater_is_better
restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config
parallelism_config remove_unused_columns ddp_find_unused_parameters ddp_bucket_cap_mb
ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config debug
skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank
"""
TAKEN = _TAKEN.split()
THERE = {f.name for f in dataclasses.fields(TrainingArguments)}


@pytest.fixture
def place(tmp_path):
    """A folder with a student, a teacher and a corpus."""
    return furnish(tmp_path)


def test_every_field_is_taken_refused_or_said_to_do_nothing():
    assert set(VALUES) == config._REFUSED.keys() | config._IDLE.keys()
    assert not set(TAKEN) & set(VALUES)
    assert {*TAKEN, *VALUES} >= THERE, "a field that transformers has new: look at it"


@pytest.mark.parametrize("name", sorted(config._REFUSED.keys() & THERE))
def test_a_field_that_cannot_be_kept_is_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match=f"DistillConfig: {name} is not supported") as raised:
        DistillConfig(output_dir=str(tmp_path), use_cpu=True, **{name: VALUES[name]})
    assert raised.value.why and raised.value.remedy


def test_fields_that_do_nothing_say_so_and_do_nothing(make, caplog):
    want = make()
    assert not [r for r in caplog.records if "does nothing" in r.message]
    want.train()
    idle = {name: VALUES[name] for name in config._IDLE.keys() & THERE}
    trainer = make(**idle, to="other")
    trainer.train()
    assert all(torch.equal(v, weights(trainer)[k]) for k, v in weights(want).items())
    said = " ".join(record.message for record in caplog.records)
    assert all(f"DistillConfig: {name} does nothing: " in said for name in idle)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_steps": 0}, r"max_steps 0[^§]*no training"),
        ({"num_train_epochs": 0}, r"num_train_epochs 0[^§]*evaluate\(\) measures"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches is not supported"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches is not supported"),
        ({"report_to": "hal9000"}, r"no tracker 'hal9000'[^§]*tensorboard"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path, fields, words):
    with pytest.raises(InputError, match=words):
        DistillConfig(output_dir=str(tmp_path), use_cpu=True, **fields)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is another device")
def test_bfloat16_needs_no_word_of_the_cpu(make):
    trainer = make(bf16=True, use_cpu=False, logging_steps=1)
    trainer.train()
    assert trainer.args.device.type == "cpu" and len(losses(trainer)) == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 3},
        {"debug": "underflow_overflow"},
        {"skip_memory_metrics": False},
        {"full_determinism": False, "torch_empty_cache_steps": 2},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1,
         "metric_for_best_model": "cross_entropy"},
        {"prediction_loss_only": True, "logging_first_step": True},
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1,
         "metric_for_best_model": "eval_cross_entropy", "load_best_model_at_end": True},
        {"optim": "adafactor"},
        {"enable_jit_checkpoint": True},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_fields_of_rare_use_are_taken(make, fields):
    trainer = make(eval_dataset=ROWS[:3], **fields)
    trainer.train()
    assert trainer.state.global_step == 4
    evaluated = [e["step"] for e in trainer.state.log_history if "eval_loss" in e]
    assert "eval_on_start" not in fields or evaluated == [0, 3, 4]


# The best checkpoint.


@pytest.mark.parametrize("metric", ["eval_cross_entropy", "cross_entropy", "eval_loss"])
def test_the_best_is_the_lowest_of_our_own_measures(make, metric):
    trainer = make(
        eval_dataset=ROWS[:5], eval_strategy="steps", eval_steps=1, save_steps=1, max_steps=7,
        load_best_model_at_end=True, metric_for_best_model=metric, learning_rate=0.1,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.train()
    key = f"eval_{metric.removeprefix('eval_')}"
    seen = {e["step"]: e[key] for e in trainer.state.log_history if key in e}
    best = min(seen, key=seen.get)
    assert len(set(seen.values())) > 1 and trainer.state.best_global_step == best
    assert trainer.evaluate()[key] == seen[best]


def test_early_stopping_waits_while_the_cross_entropy_falls(make):
    trainer = make(
        eval_dataset=ROWS[:5], eval_strategy="steps", eval_steps=1, save_steps=1, max_steps=7,
        load_best_model_at_end=True, metric_for_best_model="eval_cross_entropy",
        method="sft", learning_rate=1e-3, callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip
    trainer.train()
    found = [e["eval_cross_entropy"] for e in trainer.state.log_history if "eval_loss" in e]
    assert found == sorted(found, reverse=True) and trainer.state.global_step == 7


def test_what_the_user_says_of_a_measure_holds(tmp_path):
    fields = {"output_dir": str(tmp_path), "use_cpu": True, "metric_for_best_model": "eval_loss"}
    assert DistillConfig(**fields, greater_is_better=True).greater_is_better is True


def test_a_measure_that_there_is_not_is_refused_before_training(make):
    with pytest.raises(InputError, match=r"accuracy, which no[^§]*eval_loss, eval_cross_entropy"):
        make(eval_dataset=ROWS[:3], metric_for_best_model="accuracy")


# Evaluation.


def test_several_sets_of_rows_are_measured_by_name(make):
    sets = {"short": ROWS[:3], "long": [{"prompt": "Q: 9 + 9?\nA: ", "completion": "it is 18"}]}
    trainer = make(
        eval_dataset=sets, eval_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_long_cross_entropy",
    )  # fmt: skip
    found = trainer.evaluate()
    assert set(found) == {
        f"eval_{name}_{measure}" for name in sets for measure in ("loss", "cross_entropy")
    }
    for name, rows in sets.items():
        alone = make(eval_dataset=rows).evaluate()
        assert found[f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"], rel=1e-6)
    given = trainer.evaluate(sets, metric_key_prefix="test")
    assert given["test_short_loss"] == pytest.approx(found["eval_short_loss"], rel=1e-6)
    assert trainer.evaluate("long")["eval_long_loss"] == pytest.approx(
        found["eval_long_loss"], rel=1e-6
    )
    trainer.train()
    logged = [e for e in trainer.state.log_history if "eval_long_cross_entropy" in e]
    assert trainer.state.best_metric == min(e["eval_long_cross_entropy"] for e in logged)
    assert trainer.text["eval_dataset.long"].rows and len(trainer.text) == 4


def test_predictions_are_refused_in_words(make):
    with pytest.raises(InputError, match=r"evaluate\(dataset[^§]*generate"):
        make().predict(ROWS)


@pytest.mark.parametrize("kind", ["all", "non_padding"])
@pytest.mark.parametrize("attention", [packing.ATTENTION, "sdpa"])
def test_input_tokens_are_counted(make, kind, attention):
    trainer = make(include_num_input_tokens_seen=kind, logging_steps=1)
    trainer.student.set_attn_implementation(attention)
    trainer.train()
    rows = [trainer.rows[n] for step in trainer._order for n in step]
    real = sum(len(row.ids) for row in rows)
    padded = sum(4 * max(len(trainer.rows[n].ids) for n in step) for step in trainer._order)
    padding = kind == "all" and attention == "sdpa"
    assert trainer.state.num_input_tokens_seen == (padded if padding else real) and padded > real
    assert trainer.padding_share == (1 - real / padded if attention == "sdpa" else 0)


def test_the_cross_entropy_is_the_students_own_however_wide_its_teacher_is(make, place, tmp_path):
    """A student with entries that its teacher has not: by every method the same number."""
    student = tiny.widen(tiny.qwen(0, scale=1.0), 5)
    tiny.save(tmp_path / "wide", student, tiny.tokenizer())
    found = {
        method: make(str(tmp_path / "wide"), method=method, eval_dataset=ROWS[:4]).evaluate()
        for method in ("sft", "word_kd", "revkd", "gkd")
    }
    row = make(str(tmp_path / "wide"), method="sft", eval_dataset=ROWS[:4])
    total = tokens = 0.0
    for one in row._validation[""]:
        with torch.no_grad():
            logits = student(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        for at in range(one.prompt_length, len(one.ids)):
            total, tokens = total - logits[at - 1, one.ids[at]].item(), tokens + 1
    for method, metrics in found.items():
        assert metrics["eval_cross_entropy"] == pytest.approx(total / tokens, rel=1e-5), method


# What is lost without an error.


def test_a_routers_loss_that_is_left_out_is_said(make, place, caplog, tmp_path):
    def mixture(asks: bool):
        return MixtralForCausalLM(
            MixtralConfig(
                vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=16,
                num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                num_local_experts=2, num_experts_per_tok=1, bos_token_id=None, eos_token_id=1,
                output_router_logits=asks,
            )
        )  # fmt: skip

    for asks in (False, True):
        caplog.clear()
        make(mixture(asks), processing_class=tiny.tokenizer(), method="sft")
        assert ("auxiliary loss" in caplog.text) == asks


def test_weights_in_half_precision_are_said_to_swallow_updates(make, place, caplog):
    half = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.bfloat16)
    make(half, processing_class=tiny.tokenizer())
    assert "100% of the trained weights are in half precision" in caplog.text
    assert "dtype=torch.float32" in caplog.text
    caplog.clear()
    make(peft=LORA, bf16=True)
    assert "half precision" not in caplog.text


# Trackers and the Hub.


def test_a_tracker_that_is_not_here_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "_is_here", lambda module: False)
    with pytest.raises(InputError, match=r"wandb is not installed[^§]*pip install wandb"):
        DistillConfig(output_dir=str(tmp_path), use_cpu=True, report_to=["wandb"])
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps({
        "name": "tracked", "students": ["zoo-xs"], "teachers": ["zoo-s"], "methods": ["sft"],
        "corpus": {"name": "synthetic"}, "benchmarks": ["synth_addsub"],
        "train": {"report_to": ["tensorboard"]},
    }))  # fmt: skip
    for verb in ("plan", "run"):
        done = CliRunner().invoke(app, [verb, str(study), "--store", str(tmp_path / "store")])
        assert isinstance(done.exception, InputError)
        assert "train.report_to: tensorboard is not installed" in str(done.exception)
        assert "pip install tensorboard" in str(done.exception)
    assert not (tmp_path / "store" / "stages").exists() or not list(
        (tmp_path / "store" / "stages").iterdir()
    )


class Told(TrainerCallback):
    """Stands for a tracker: opens a run unless one is open, and leaves it open, as W&B's does."""

    begun: list = []  # noqa: RUF012

    def __init__(self):
        self.where = os.environ["TENSORBOARD_LOGGING_DIR"]  # as TensorBoard's, when it is made

    def on_train_begin(self, args, state, control, **kwargs):
        module = sys.modules["wandb"]
        if module.run is None:
            module.run = os.environ["WANDB_RUN_ID"]
        self.begun.append((module.run, args.run_name, args.project, self.where))


@pytest.fixture
def told(monkeypatch):
    """A stand-in for the package and its callback."""
    Told.begun = []
    wandb = SimpleNamespace(run=None)
    wandb.finish = lambda: setattr(wandb, "run", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Told)
    return Told.begun


def tracked(place, out, label, train):
    made = work(place, out, methods.Sft(), train)
    folder = str(place / "runs" / label)
    local = {**made.local, "tracking": {"study": "mine", "label": label, "folder": folder}}
    return dataclasses.replace(made, local=local)


def test_every_training_has_a_run_of_its_own_and_a_resumed_one_keeps_it(
    place, told, monkeypatch
):  # fmt: skip
    train = TRAIN.model_copy(update={"report_to": ["wandb"]})
    before = dict(os.environ)
    stages.train(tracked(place, "a", "xs/sft", train))
    with monkeypatch.context() as patch:

        def die(*_):
            raise KeyboardInterrupt

        patch.setattr(stages.DistillTrainer, "_load_best_model", die)
        with pytest.raises(KeyboardInterrupt):
            stages.train(tracked(place, "b", "xs/kd", train))
    stages.train(tracked(place, "b", "xs/kd", train))
    runs, names, projects, folders = zip(*told, strict=True)
    assert runs[0] != runs[1] == runs[2], "one that died goes on in its own"
    assert names == ("xs/sft", "xs/kd", "xs/kd") and set(projects) == {"mine"}
    assert folders[0] == str(place / "runs" / "xs" / "sft") != folders[1]
    assert sys.modules["wandb"].run is None and dict(os.environ) == before


def test_tensorboards_files_lie_in_the_studys_folder(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i} + 1?", "completion": str(i + 1)} for i in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    study = {
        "name": "tracked", "students": ["zoo-xs"], "teachers": ["zoo-s"], "methods": ["sft"],
        "corpus": {"path": "rows.json", "validation_rows": 3}, "benchmarks": ["synth_addsub"],
        "limit": 2, "train": {"report_to": ["tensorboard"], "epochs": 1, "evaluations": 1},
        "generation": {"max_new_tokens": 4},
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    for limit in (2, 3):  # a second report takes the first one's place
        (tmp_path / "study.yaml").write_text(json.dumps(study | {"limit": limit}))
        done = CliRunner().invoke(app, ["run", "study.yaml", "--store", "store"])
        assert done.exit_code == 0, done.output
        folder = tmp_path / "store" / "studies" / "tracked"
        files = list((folder / "runs").rglob("events*"))
        assert {str(p.parent.relative_to(folder / "runs")) for p in files} == {
            "zoo-s/teacher", "zoo-xs/sft"
        }  # fmt: skip
        assert (folder / "report.html").is_file()


def test_a_push_that_cannot_be_is_refused_before_a_model_is_opened(make, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set[^§]*trainer.push_to_hub\(\)"):
        make("no/such-model", push_to_hub=True, hub_model_id="me/small")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(self, *_, **facts):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"me/small cannot be pushed to[^§]*no route to host"):
        make("no/such-model", push_to_hub=True, hub_model_id="me/small")


def test_warnings_are_the_loggers_own(caplog):
    with caplog.at_level(logging.WARNING):
        DistillConfig(output_dir="x", use_cpu=True, dataloader_num_workers=3)
    (record,) = caplog.records
    assert record.name == "kdstudy.distill.arguments"
