"""Ends a run after the step it is in, with a checkpoint, when the machine is wanted back."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from transformers import TrainerCallback

# Slurm and Kubernetes send SIGTERM and kill 30 s later; what is left is for the checkpoint.
_PATIENCE_SECONDS = 20.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupt(TrainerCallback):
    """Takes the first SIGTERM, Ctrl-C or closed terminal as a request, the second as an order.

    A step that takes longer than 20 s is broken off: the run then resumes from the checkpoint
    before it.

    Attributes:
        asked: This process has been asked to stop.
        agreed: One of the run's processes had been when the step began; all know of it, and so
            save and stop after the same step.
    """

    def __init__(self):
        self.asked = self.agreed = self._stopping = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals while open.

        Raises:
            KeyboardInterrupt: On leaving, if the run was asked to stop.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears signals
            return
        self.asked = self.agreed = self._stopping = False
        # What is ignored stays ignored: nohup means it.
        heard = [s for s in _SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
        before = {s: signal.signal(s, self._ask) for s in heard}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _break_off)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.asked or self.agreed:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop if that has been asked for."""
        if self.agreed or (self.asked and args.world_size == 1):
            signal.setitimer(signal.ITIMER_REAL, 0)
            control.should_save = control.should_training_stop = True
            self._stopping = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave at once: an evaluation in the middle of an epoch is none of the run's own."""
        if self._stopping:
            raise KeyboardInterrupt

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_SECONDS)


def _break_off(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
