"""A run that is asked to stop saves at the end of its step, and goes on later as if nothing was."""

import json
import os
import signal
import time

import pytest
import torch
from small_trainers import make, weights
from transformers import TrainerCallback

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.distill import interrupt
from kdstudy.distill.schedule import curve

# 210 steps are logged in pairs: a stop after an odd one is in the middle of a pair.
SETTINGS = schema.Train(
    epochs=10.5, batch_size=2, max_length=24, evaluations=3, learning_rate=1e-2,
    micro_batch_size=1, lora=schema.Lora(dropout=0.3), precision="float32",
)  # fmt: skip


class Signal(TrainerCallback):
    """Sends this process a signal while a step runs."""

    def __init__(self, step: int, number: int = signal.SIGTERM, times: int = 1):
        self.step, self.number, self.times = step, number, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def run(folder, *callbacks, settings=SETTINGS):
    trainer = make(folder, methods.WordKD(), settings)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_after_its_step_and_no_bit_is_different_for_it(
    tmp_path, whole, number
):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "asked", Signal(101, number))
    assert signal.getsignal(number) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    saved = json.loads((tmp_path / "asked" / "checkpoint-101" / "trainer_state.json").read_text())
    assert saved["global_step"] == 101
    torch.rand(17)
    resumed = run(tmp_path / "asked")
    assert resumed._initial_global_step == 101
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert whole.state.max_steps == 210
    assert curve(whole.state.log_history) == curve(resumed.state.log_history)
    assert whole.tokens == resumed.tokens and whole.padding_share == resumed.padding_share


def test_a_second_signal_is_an_order(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Signal(73, times=2))
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-70"}


def test_a_step_that_takes_too_long_is_broken_off(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "_PATIENCE_SECONDS", 0.2)

    class Slow(Signal):
        def on_step_begin(self, args, state, control, **kwargs):
            super().on_step_begin(args, state, control, **kwargs)
            if state.global_step == self.step - 1:
                time.sleep(30)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Slow(73))
    assert time.monotonic() - started < 25
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-70"}


def test_what_nohup_ignores_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        short = SETTINGS.model_copy(update={"epochs": 0.7})
        trainer = run(tmp_path, Signal(3, signal.SIGHUP), settings=short)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.state.global_step == trainer.state.max_steps == 14
