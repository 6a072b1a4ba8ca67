"""DistillTrainer as a library: training, saving, resuming, pushing as in transformers."""

import math
import re
import shutil
from concurrent.futures import Future
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from datasets import Dataset
from huggingface_hub import HfApi, RepoUrl
from library_runs import LORA, ROWS, logits, losses, weights
from peft import PeftModel
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback
from transformers import integrations as trackers
from transformers.integrations import integration_utils

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.errors import InputError, StageError


class Seen(TrainerCallback):
    """Keeps what callbacks are told."""

    def __init__(self):
        self.logs, self.epochs, self.begun = [], [], 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.begun += 1

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epochs.append(state.global_step)


def test_epochs_logs_and_callbacks(make):
    seen = Seen()
    trainer = make(
        num_train_epochs=3,
        eval_dataset=ROWS[:5],
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=2,
        callbacks=[seen],
    )
    result = trainer.train()
    assert result.global_step == trainer.state.max_steps == 18
    assert seen.epochs == [6, 12, 18] and seen.begun == trainer.state.num_train_epochs == 3
    told = [log for log in seen.logs if "loss" in log]
    assert [round(log["epoch"], 3) for log in told] == [round(i / 3, 3) for i in range(1, 10)]
    assert all(
        {"loss", "grad_norm", "learning_rate", "padding_share"} <= log.keys() for log in told
    )
    evaluated = [log for log in seen.logs if "eval_loss" in log]
    assert [log["epoch"] for log in evaluated] == [1, 2, 3]
    assert "eval_cross_entropy" in evaluated[0]
    folders = sorted(p.name for p in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert folders == ["checkpoint-12", "checkpoint-18", "checkpoint-6"]
    assert result.training_loss == pytest.approx(sum(losses(trainer)) / 9)


def test_epochs_that_do_not_end_with_a_step(make):
    seen = Seen()
    trainer = make(data=ROWS[:21], num_train_epochs=3, callbacks=[seen])
    trainer.train()
    assert seen.epochs == [6, 12, 16] and trainer.state.epoch == pytest.approx(3, abs=0.1)
    order = [n for step in trainer._order for n in step]
    assert sorted(order[:21]) == sorted(order[21:42]) == list(range(21))


def test_the_same_arguments_serve_two_trainers(place, tmp_path):
    args = DistillConfig(output_dir=str(tmp_path), method="sft", num_train_epochs=2, use_cpu=True)
    for rows in (24, 16):
        trainer = DistillTrainer(str(place / "student"), args=args, train_dataset=tiny.rows(rows))
        assert trainer.args.max_steps == rows * 2 // 8
    assert args.max_steps == -1


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_resuming_is_as_if_nothing_had_happened(make, peft):
    fields = {
        "peft": peft, "num_train_epochs": 2, "save_steps": 4, "save_strategy": "steps",
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1,
        "method": "gkd", "lmbda": 0.5,
    }  # fmt: skip
    whole = make(to="whole", **fields)
    whole.train()
    first = make(to="cut", **fields)
    first.train()
    folder = Path(first.args.output_dir)
    for step in (8, 12):
        shutil.rmtree(folder / f"checkpoint-{step}")
    torch.rand(5)
    resumed = make(to="cut", **fields)
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == 4 and resumed.state.global_step == 12
    assert all(torch.equal(v, weights(resumed)[k]) for k, v in weights(whole).items())
    assert losses(resumed) == losses(whole)
    assert (resumed.tokens, resumed.padding_share) == (whole.tokens, whole.padding_share)


def test_the_best_model_is_loaded_and_early_stopping_stops(make):
    fields = {
        "eval_dataset": ROWS[:5], "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
        "load_best_model_at_end": True, "learning_rate": 0.5, "lr_scheduler_type": "constant",
        "save_total_limit": 1, "max_steps": 20,
    }  # fmt: skip
    trainer = make(callbacks=[EarlyStoppingCallback(2)], **fields)
    trainer.train()
    history = [e for e in trainer.state.log_history if "eval_loss" in e]
    best = min(history, key=lambda e: e["eval_loss"])
    assert trainer.state.global_step < 20 and trainer.state.best_global_step == best["step"]
    assert trainer.evaluate()["eval_loss"] == best["eval_loss"]


def test_the_seed_of_the_data_is_its_own(make):
    orders = [make(seed=s, data_seed=d)._order for s, d in ((1, None), (2, None), (2, 1))]
    assert orders[0] != orders[1] and orders[0] == orders[2]


def test_a_tracker_is_told(make, monkeypatch):
    made = []

    class Tracker(Seen):
        def __init__(self):
            super().__init__()
            made.append(self)

        def setup(self, args, state, model, **kwargs):
            pass

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    assert trackers.get_reporting_integration_callbacks(["tensorboard"]) == [Tracker]
    make(report_to="tensorboard", logging_steps=1).train()
    assert [log["epoch"] for log in made[0].logs if "loss" in log][-1] > 0.5


def test_tensorboard_writes_its_files(make, monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    make(report_to="tensorboard", logging_steps=1).train()
    assert list((tmp_path / "runs").rglob("events*"))


def test_a_progress_bar(make, capfd):
    make(disable_tqdm=False, logging_steps=1, eval_dataset=ROWS[:3], eval_strategy="steps").train()
    assert "4/4" in capfd.readouterr().err


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_may_be_recomputed(make, peft, reentrant):
    ends, calls = [], []
    for settings in ({}, {"use_reentrant": reentrant}):
        trainer = make(
            peft=peft,
            gradient_checkpointing=bool(settings),
            gradient_checkpointing_kwargs=settings or None,
            method="gkd",
            lmbda=0.5,
            logging_steps=1,
        )
        layer = trainer.student.get_decoder().layers[0].mlp if peft is None else None
        count = [0]
        if layer is not None:
            layer.register_forward_pre_hook(
                lambda *_, count=count: count.__setitem__(0, count[0] + 1)
            )
        trainer.train()
        ends.append(weights(trainer))
        calls.append(count[0])
        assert len(losses(trainer)) == 4
    assert peft is not None or calls[1] > calls[0]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-6)


def test_bfloat16(make):
    trainer = make(bf16=True, peft=LORA, logging_steps=1, eval_dataset=ROWS[:4])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert {v.dtype for v in weights(trainer).values()} == {torch.float32}
    assert trainer.student.get_input_embeddings().weight.dtype == torch.bfloat16
    assert trainer.evaluate()["eval_loss"] < before
    full = make(bf16=True, learning_rate=0.0, eval_dataset=ROWS[:4])
    assert {p.dtype for p in full.student.parameters()} == {torch.float32}
    before = full.evaluate()
    full.train()
    assert full.evaluate() == before, "mixed precision before training as after"


@pytest.mark.parametrize(
    "field", [{"fp16": True}, {"label_smoothing_factor": 0.1}, {"auto_find_batch_size": True}]
)
def test_arguments_that_cannot_be_kept_are_refused(tmp_path, field):
    with pytest.raises(InputError, match=next(iter(field))):
        DistillConfig(output_dir=str(tmp_path), use_cpu=True, **field)


def test_evaluating(make):
    trainer = make(eval_dataset=ROWS[:4])
    own = trainer.evaluate()
    assert set(own) == {"eval_loss", "eval_cross_entropy"}
    # Rows that the cache does not hold: the teacher comes back.
    other = trainer.evaluate([*ROWS[8:12], {"prompt": "Q: 9 + 9?\nA: ", "completion": "18"}])
    assert other["eval_loss"] != own["eval_loss"]
    live = make(eval_dataset=ROWS[:4], teacher_cache="off")
    rows = Dataset.from_list([{"prompt": "Q: 9 + 9?\nA: ", "completion": "18"}])
    assert live.evaluate(rows, metric_key_prefix="test") == pytest.approx(
        trainer.evaluate(rows, metric_key_prefix="test")
    )
    with pytest.raises(InputError, match="give the trainer eval_dataset"):
        make().evaluate()


def test_the_wrapper_says_where_the_student_is(make):
    trainer = make()
    with pytest.raises(AttributeError, match=r"\.student"):
        trainer.model.save_pretrained("somewhere")


# The Hub.


@pytest.fixture
def uploads(monkeypatch, tmp_path) -> list[tuple[Path, dict]]:
    """Uploads as copies of the folders, without what is to be ignored."""
    done = []

    def upload(self, *, repo_id, folder_path, run_as_future=False, ignore_patterns=(), **facts):
        copied = tmp_path / f"upload-{len(done)}"
        shutil.copytree(folder_path, copied, ignore=shutil.ignore_patterns(*ignore_patterns))
        done.append((copied, {"repo": repo_id, **facts}))
        if not run_as_future:
            return None
        future = Future()
        future.set_result(None)
        return future

    created = RepoUrl("https://huggingface.co/me/small", endpoint="https://huggingface.co")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **facts: created)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return done


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_a_student_is_pushed_without_pickles_and_paths(make, place, uploads, peft):
    trainer = make(
        peft=peft, push_to_hub=True, hub_model_id="me/small", hub_token="secret-token",
        temperature=2.0, save_steps=2,
    )  # fmt: skip
    trainer.train()
    assert len(uploads) == 2, "as transformers does: with every checkpoint"
    trainer.push_to_hub(dataset_name=None, tags="sums", language="en")
    for folder, facts in uploads:
        names = {p.name for p in folder.rglob("*") if p.is_file()}
        assert facts["repo"] == "me/small"
        assert {"README.md", "tokenizer.json"} <= names and "counts.json" not in names
        assert not [n for n in names if n.endswith((".bin", ".pt", ".pth"))]
        for path in folder.rglob("*"):
            if path.is_file():
                raw = path.read_bytes()
                assert str(place).encode() not in raw and b"secret-token" not in raw, path
    card = (folder / "README.md").read_text()
    assert "`student`" in card and "`word_kd` (temperature 2.0)" in card and "`teacher`" in card
    assert "- sums" in card and "language: en" in card
    assert f"library_name: {'transformers' if peft is None else 'peft'}" in card
    loaded = AutoModelForCausalLM.from_pretrained(
        folder if peft is None else place / "student", dtype="float32"
    )
    if peft is not None:
        loaded = PeftModel.from_pretrained(loaded, folder)
    assert torch.equal(logits(loaded), logits(trainer.student))


def test_a_card_that_is_there_stays(make, tmp_path):
    trainer = make(peft=LORA)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "README.md").write_text("mine")
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text() == "mine"


# Numbers that are none.


def poisoned(make, student: Path, **fields) -> tuple[DistillTrainer, list[int]]:
    """A trainer with a row, met in step 4, that alone holds a token whose embedding is no number.

    Returns also the numbers, in the dataset, of the rows that share its micro-batch.
    """
    # The first row does not fit: numbers in the dataset are one more than numbers of rows.
    rows = [{"prompt": "3" * 70, "completion": "7"}, *ROWS]
    fields |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    step = make(data=rows, method="sft", max_steps=6, **fields)._order[3]
    rows[step[1] + 1] = {"prompt": "z", "completion": "7"}
    trainer = make(str(student), data=rows, method="sft", max_steps=6, **fields)
    assert trainer._order[3] == step
    with torch.no_grad():
        z = tiny.tokenizer().convert_tokens_to_ids("z")
        trainer.student.get_input_embeddings().weight[z] = math.nan
    # The shortest of its step, it is in the first micro-batch with the next shortest.
    lengths = {n: len(trainer.rows[n].ids) for n in step}
    other = min((n for n in step if n != step[1]), key=lambda n: lengths[n])
    return trainer, [step[1] + 1, other + 1]


class Before(TrainerCallback):
    """Keeps the weights as they are before each step."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights = {k: v.detach().clone() for k, v in model.named_parameters()}


def test_a_loss_that_is_no_number_stops_before_the_weights_take_it_in(make, tmp_path):
    # An untied head: the poison is in the input alone.
    student = tiny.save(tmp_path / "llama", tiny.llama(0, scale=1.0))
    before = Before()
    trainer, rows = poisoned(make, student, callbacks=[before], save_steps=1)
    with pytest.raises(StageError, match="step 4: the loss of micro-batch 0 is nan") as raised:
        trainer.train()
    numbers = re.search(r"training rows ([\d, ]+), counted from 0", str(raised.value)).group(1)
    assert list(map(int, numbers.split(", "))) == rows
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value.nan_to_num(9), before.weights[name].nan_to_num(9)), name
        assert "embed" in name or value.isfinite().all()
    folders = sorted(p.name for p in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert folders == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_an_infinite_gradient_stops_before_the_weights_take_it_in(make, clip):
    before = Before()
    trainer = make(callbacks=[before], logging_steps=1, max_grad_norm=clip, save_steps=1)
    layer = trainer.student.get_decoder().layers[0].mlp.down_proj.weight
    layer.register_hook(lambda g: g * (math.inf if trainer.state.global_step == 2 else 1))
    with pytest.raises(StageError, match="step 3: the gradient is not a finite number") as raised:
        trainer.train()
    numbers = re.search(r"training rows ([\d, ]+), counted from 0", str(raised.value)).group(1)
    assert sorted(map(int, numbers.split(", "))) == sorted(trainer._order[2])
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before.weights[name]), name
