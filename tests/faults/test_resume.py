"""Whatever a run looks like and wherever it stops, it goes on as if it had never stopped."""

import copy
import dataclasses
import functools
import gc
import itertools
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models as tiny
import torch
from accelerate import skip_first_batches
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.distill import batches, epochs
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError

SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
MOMENTS = ("on_step_end", "on_save", "on_evaluate", "on_log", "on_epoch_end", "on_train_end")


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration, and where its tries stop: (moment, step) of each."""

    rows: int
    fields: dict
    dropout: float
    stops: list[tuple[str, int]]


class Stop(TrainerCallback):
    """Dies at a moment, as a machine would; or asks the run to stop, as a signal does."""

    def __init__(self, moment: str, step: int):
        self.step, self.trainer = step, None
        setattr(self, "on_step_begin" if moment == "signal" else moment, self.happen)
        self.moment = moment

    def happen(self, args, state, control, **kwargs):
        if self.moment == "signal":
            self.trainer._interrupt.asked |= state.global_step + 1 >= self.step
        elif state.global_step >= self.step:
            raise KeyboardInterrupt


def model(seed: int, dropout: float | None = None):
    """Return a copy of a model that is made once."""
    return copy.deepcopy(_made(seed, dropout))


@functools.cache
def _made(seed: int, dropout: float | None):
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY, num_hidden_layers=1, num_key_value_heads=1, **SHAPE,
        max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    made = tiny._seeded(LlamaForCausalLM, config, seed, 4.0)
    if not dropout:
        return made
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(
            made, LoraConfig(r=2, lora_dropout=dropout, target_modules="all-linear")
        )


TOKENIZER = tiny.tokenizer()
VALIDATION = tiny.rows(3, seed=9, longest=10)


def make(folder: Path, run: Run) -> DistillTrainer:
    fields = {
        "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        "learning_rate": 0.03, "max_length": 12, "seed": 5,
    }  # fmt: skip
    trainer = DistillTrainer(
        model(0, run.dropout),
        LiveTeacher(model(1), tiny.VOCABULARY),
        DistillConfig(**(fields | run.fields)),
        train_dataset=tiny.rows(run.rows, longest=10),
        eval_dataset=VALIDATION,
        processing_class=TOKENIZER,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def outcome(trainer: DistillTrainer) -> dict:
    """All that a user could look at, bit for bit; no times."""
    state = trainer.state
    return {
        "weights": {k: v.tolist() for k, v in trainer.student.state_dict().items()},
        "log": [entry for entry in state.log_history if "train_runtime" not in entry],
        "epoch": state.epoch,
        "steps": (state.global_step, state.max_steps),
        "best": (state.best_metric, state.best_global_step),
        "counts": (trainer.tokens, trainer.padding_share),
    }


def tried(folder: Path, run: Run) -> DistillTrainer:
    """Stop a run wherever it says, going on each time, and let the last try finish."""
    for moment, step in run.stops:
        trainer = make(folder, run)
        stop = Stop(moment, step)
        stop.trainer = trainer
        trainer.add_callback(stop)
        try:
            trainer.run()
        except KeyboardInterrupt:
            torch.rand(7)  # another process has another random state
    trainer = make(folder, run)
    trainer.run()
    return trainer


def drawn(seed: int) -> Run:
    draw = random.Random(seed)
    fields = {
        "per_device_train_batch_size": draw.randint(1, 5),
        "gradient_accumulation_steps": draw.choice([1, 1, 2, 3]),
        "method": draw.choice(["sft", "word_kd", "gkd"]),
        "logging_strategy": draw.choice(["steps", "epoch", "no"]),
        "logging_steps": draw.randint(1, 4),
        "save_strategy": draw.choice(["steps", "steps", "epoch", "epoch", "no"]),
        "eval_strategy": draw.choice(["no", "steps", "epoch", "epoch"]),
        "ignore_data_skip": draw.random() < 0.2,
        "save_total_limit": draw.choice([None, None, 1, 2]),
    }
    rows = draw.choice([1, 2, *range(3, 30)])
    per_step = fields["per_device_train_batch_size"] * fields["gradient_accumulation_steps"]
    if draw.random() < 0.3:
        fields["max_steps"] = steps = draw.randint(1, 9)
    else:
        longest = min(4.0, 14 * per_step / rows)
        passes = draw.choice([0.3, 0.5, 1, 1.7, 2, 3, draw.uniform(0.1, 4)])
        fields["num_train_epochs"] = min(passes, longest)
        steps = max(1, round(fields["num_train_epochs"] * rows / per_step))
    fields["save_steps"] = fields["eval_steps"] = draw.randint(1, steps + 1)
    if fields["method"] == "gkd":
        fields |= {"lmbda": draw.choice([0.0, 0.5, 1.0])}
    if fields["method"] == "word_kd":
        fields |= {"noise": draw.choice([0.0, 0.5])}
    if fields["eval_strategy"] == fields["save_strategy"] != "no":
        fields["load_best_model_at_end"] = draw.random() < 0.7
        fields["greater_is_better"] = False
    stops = [
        (
            draw.choice(["signal", "signal", *MOMENTS]),
            draw.choice([*(draw.randint(1, steps) for _ in range(3)), steps, 99]),
        )
        for _ in range(draw.choice([1, 2]))
    ]
    return Run(rows, fields, draw.choice([0.0, 0.3]), stops)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Trainer collects garbage at every start: have it not look through what was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("tens", range(20))
def test_a_stopped_run_ends_as_one_that_was_not(tens, tmp_path):
    for seed in range(10 * tens, 10 * tens + 10):
        run = drawn(seed)
        want = outcome((whole := make(tmp_path / f"{seed}-whole", run), whole.run())[0])
        got = outcome(tried(tmp_path / f"{seed}-cut", run))
        for what, value in want.items():
            assert got[what] == value, f"{what} of {run}"
        shutil.rmtree(tmp_path / f"{seed}-cut")
        shutil.rmtree(tmp_path / f"{seed}-whole")


# Several processes, without starting any: Trainer's own counts on our loader.


class Counting:
    """What `Trainer.set_initial_training_values` asks of a trainer."""

    def get_sp_size(self):
        return 1

    def get_total_train_batch_size(self, args):
        return epochs.rows_per_step(args)

    def num_examples(self, loader):
        return len(loader.dataset)


def taken(order, rows, args, done) -> list[list[int]]:
    """Return a device's rows of each step, as Trainer asks for them after `done` steps."""
    at = [done]
    loader = epochs.loader(order, rows, args, lambda: at[0])
    last, per_epoch, *_ = Trainer.set_initial_training_values(Counting(), args, loader)
    steps = []
    for epoch in range(done // per_epoch, last):
        skipped = done % per_epoch if epoch == done // per_epoch else 0
        parts = iter(skip_first_batches(loader, skipped * args.gradient_accumulation_steps))
        for _ in range(skipped, per_epoch):
            step = [n for micro in itertools.islice(parts, args.gradient_accumulation_steps)
                    for n in micro]  # fmt: skip
            if step:  # where Trainer has not stopped itself: after the last step
                steps.append(step)
                at[0] += 1
    return steps


@pytest.mark.parametrize("world", [1, 2, 3])
def test_whatever_is_counted_every_step_has_its_rows_once(world):
    for rows, size, parts, steps in itertools.product(
        (1, 2, 5, 7, 12), (1, 2, 3), (1, 3), (1, 4, 7)
    ):
        order = batches.order(rows, batch_size=size * parts * world, seed=1, steps=steps)
        for done in range(steps + 1):
            every = [
                taken(order, rows, SimpleNamespace(
                    per_device_train_batch_size=size, gradient_accumulation_steps=parts,
                    world_size=world, process_index=rank, max_steps=steps), done)
                for rank in range(world)
            ]  # fmt: skip
            together = [[n for part in step for n in part] for step in zip(*every, strict=True)]
            assert together == order[done:], (rows, size, parts, steps, done)


# What a user of the library meets.

PLAIN = Run(7, {"num_train_epochs": 2, "per_device_train_batch_size": 3, "method": "sft",
                "logging_strategy": "no", "save_steps": 2}, 0.0, [])  # fmt: skip


def test_a_finished_run_is_resumed_to_itself(tmp_path):
    first = make(tmp_path, PLAIN)
    first.train()
    assert first.state.max_steps == 5, "14 rows are no whole number of steps"
    again = make(tmp_path, PLAIN)
    result = again.train(resume_from_checkpoint=True)
    assert result.global_step == 5 and outcome(again) == outcome(first)


def test_the_mean_loss_is_of_the_steps_of_this_call(tmp_path):
    logged = PLAIN.fields | {"logging_strategy": "steps", "logging_steps": 1}
    one_by_one = make(tmp_path / "each", dataclasses.replace(PLAIN, fields=logged))
    one_by_one.train()
    each = [entry["loss"] for entry in one_by_one.state.log_history if "loss" in entry]
    assert make(tmp_path / "a", PLAIN).train().training_loss == pytest.approx(sum(each) / 5)
    shutil.rmtree(tmp_path / "a" / "checkpoint-5")
    resumed = make(tmp_path / "a", PLAIN).train(resume_from_checkpoint=True)
    assert resumed.training_loss == pytest.approx(each[4], rel=1e-5)


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    longer = dataclasses.replace(PLAIN, fields=PLAIN.fields | {
        "num_train_epochs": 3, "lr_scheduler_type": "constant"})  # fmt: skip
    shorter = dataclasses.replace(longer, fields=longer.fields | {"num_train_epochs": 1.3})
    whole = make(tmp_path / "whole", longer)
    whole.train()
    make(tmp_path / "cut", shorter).train()
    resumed = make(tmp_path / "cut", longer)
    resumed.train(resume_from_checkpoint=True)
    assert outcome(resumed)["weights"] == outcome(whole)["weights"]


@pytest.mark.parametrize("torn", ["nothing", "half a state"])
def test_a_torn_checkpoint_is_passed_over(tmp_path, torn):
    want = make(tmp_path / "a", PLAIN)
    want.train()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    state = tmp_path / "b" / "checkpoint-5" / "trainer_state.json"
    state.write_text(state.read_text()[:99]) if torn == "half a state" else state.unlink()
    resumed = make(tmp_path / "b", PLAIN)
    with pytest.raises(InputError, match=r"no whole checkpoint[^§]*resume_from_checkpoint=True"):
        resumed.train(resume_from_checkpoint=tmp_path / "b" / "checkpoint-5")
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == 4 and outcome(resumed) == outcome(want)


def test_checkpoints_that_a_run_cannot_go_on_from_are_refused(tmp_path):
    with pytest.raises(InputError, match="no whole checkpoint in"):
        make(tmp_path, PLAIN).train(resume_from_checkpoint=True)
    make(tmp_path / "a", PLAIN).train()
    wider = dataclasses.replace(PLAIN, fields=PLAIN.fields | {"gradient_accumulation_steps": 2})
    with pytest.raises(InputError, match=r"of 3 rows a step, and this one has 6[^§]*make 3 again"):
        make(tmp_path / "a", wider).train(resume_from_checkpoint=True)
    bare = dataclasses.replace(PLAIN, fields=PLAIN.fields | {"save_only_model": True})
    make(tmp_path / "b", bare).train()
    with pytest.raises(InputError, match=r"no optimizer\.pt[^§]*save_only_model"):
        make(tmp_path / "b", PLAIN).train(resume_from_checkpoint=True)


def test_the_best_weights_are_found_where_the_run_was_moved_to(tmp_path):
    rising = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1,
              "save_steps": 1, "learning_rate": 3.0, "lr_scheduler_type": "constant",
              "metric_for_best_model": "loss"}  # fmt: skip
    run = dataclasses.replace(PLAIN, fields=PLAIN.fields | rising)
    whole = make(tmp_path / "a", run)
    whole.train()
    assert whole.state.best_global_step < 4, "the last weights are not the best"
    (tmp_path / "a").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-5")
    resumed = make(tmp_path / "moved", run)
    resumed.train(resume_from_checkpoint=True)
    assert outcome(resumed)["weights"] == outcome(whole)["weights"]


def test_a_signal_in_the_last_step_loses_nothing_where_one_checkpoint_is_kept(tmp_path):
    run = dataclasses.replace(PLAIN, fields=PLAIN.fields | {
        "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
        "save_total_limit": 1, "learning_rate": 0.5})  # fmt: skip
    trainer = make(tmp_path, run)
    stop = Stop("signal", 3)
    stop.trainer = trainer
    trainer.add_callback(stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    kept = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert kept["global_step"] == 3, "it is not the best, and is kept nevertheless"
    assert kept["epoch"] == pytest.approx(9 / 7, abs=1e-3), "epochs are passes over the rows"
