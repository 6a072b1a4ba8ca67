"""A call that fails or hangs becomes a finding, never a traceback."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kdstudy.doctor.facts import Failure
from kdstudy.errors import KdstudyError, first_line

Result = TypeVar("Result")


class TimeLimit:
    """Runs calls one after another under one clock and keeps what went wrong.

    Attributes:
        failures: What went wrong so far.
    """

    def __init__(self, seconds: float):
        """Allow all calls together `seconds`."""
        self._end = time.monotonic() + seconds
        self.failures: list[Failure] = []

    @property
    def left(self) -> float:
        """Seconds left on the clock."""
        return self._end - time.monotonic()

    def call(
        self, part: str, most: float, function: Callable[[], Result], check: str = "study"
    ) -> Result | None:
        """Return what `function` returns, or None with the reason in `failures`.

        Args:
            part: What is called.
            most: Most seconds it may take.
            function: What to call.
            check: Whose finding an InputError is.
        """
        limit = min(most, self.left)
        try:
            if limit <= 0:
                raise _OutOfTime
            with _limit(limit):
                return function()
        except _OutOfTime:
            took = f"not finished after {limit:.0f} s" if limit > 0 else "not begun: time is up"
            failure = Failure(part=part, error=KdstudyError(took), slow=True)
        except KdstudyError as e:
            failure = Failure(part=part, error=e, check=check)
        # A probe runs other people's models and files: whatever they raise is a finding.
        except Exception as e:
            said = f"{type(e).__name__}: {first_line(e)}"[:300]
            failure = Failure(part=part, error=KdstudyError(said))
        self.failures.append(failure)
        return None


class _OutOfTime(BaseException):
    """Not an Exception: libraries that catch those and try again must not catch this."""


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the block after so long; without a signal to do it, never."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Whoever set an alarm before gets it back, with the time that is left on it.
        rest = max(1e-3, left - (time.monotonic() - started)) if left else 0
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, rest, interval)
