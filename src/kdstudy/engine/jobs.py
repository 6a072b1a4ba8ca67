"""Stages in several processes of one machine, which share a store: small models, many cores."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kdstudy.engine.build import Unseen, View
from kdstudy.engine.execute import inline
from kdstudy.engine.store import Store
from kdstudy.engine.worker import take_threads
from kdstudy.errors import InputError, KdstudyError, StageError
from kdstudy.stage import Stage

# A training run ends its step and writes a checkpoint.
_GOODBYE_SECONDS = 28.0


class Jobs:
    """Builds stages in this process and in others beside it; an `execute.Executor`.

    Each process has its share of the cores. A stage that fails in one of them ends the run once
    the stages that run are finished or saved.

    Args:
        count: Processes, this one included.

    Raises:
        InputError: Fewer than one, or a launcher started several of us.
    """

    def __init__(self, count: int):
        if count < 1:
            raise InputError(f"--jobs {count}: there is no such number of processes")
        if count > 1 and os.environ.get("WORLD_SIZE", "1") != "1":
            raise InputError(
                f"--jobs {count}: a launcher has started this command in several processes",
                remedy="leave out one of them: accelerate launch (torchrun), or --jobs",
            )
        self._count = count
        self._threads = max(1, len(os.sched_getaffinity(0)) // count)

    def __call__(self, todo: Sequence[Stage], store: Store, view: View) -> None:
        """Build stages, each after those among them that it depends on.

        Raises:
            StageError: A stage failed, here or in a process beside this one.
        """
        if self._count == 1 or len(todo) < 2:
            inline(todo, store, view)
            return
        with _threads(self._threads), self._helpers(todo, store) as failure:

            def heed() -> None:
                if error := failure():
                    raise error

            inline(todo, store, _Together(view), heed)

    @contextlib.contextmanager
    def _helpers(
        self, todo: Sequence[Stage], store: Store
    ) -> Iterator[Callable[[], StageError | None]]:
        context = multiprocessing.get_context("spawn")
        processes, ends = [], []
        for _ in range(self._count - 1):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_help, args=(list(todo), store.root, theirs), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            ends.append(ours)
        try:
            yield lambda: next((e for end in ends if (e := _failure(end))), None)
        finally:
            for end in ends:
                end.close()  # which they take for the end
            for process in processes:
                process.join(_GOODBYE_SECONDS)
                process.kill()


class _Together:
    """A `View` in which what the other processes have built is as good as built here."""

    def __init__(self, view: View):
        self.begin, self.progress, self._finish = view.begin, view.progress, view.finish

    def finish(self, stage: Stage, manifest: Mapping[str, Any], *, here: bool) -> None:
        """A stage is published."""
        self._finish(stage, manifest, here=True)

    def wait(self, stage: Stage, owner: str) -> None:
        """Another process builds this stage."""


def _help(todo: list[Stage], root: Path, main: Connection) -> None:
    """Build what is ready and not taken, until nothing is left or the first process has ended."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()
    try:
        inline(todo, Store(root), Unseen())
    except KeyboardInterrupt:
        pass  # the first process has it too, and says so
    except KdstudyError as e:
        with contextlib.suppress(OSError):
            told = [e.what, e.why, e.remedy, e.exit_code]
            main.send_bytes(json.dumps(told).encode())


def _end_with(main: Connection) -> None:
    """Wait for the end of the first process, however it comes; what runs is saved then."""
    with contextlib.suppress(OSError, EOFError):
        main.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(*_: object) -> None:
    raise KeyboardInterrupt


def _failure(end: Connection) -> StageError | None:
    with contextlib.suppress(OSError, EOFError):
        if end.poll():
            what, why, remedy, code = json.loads(end.recv_bytes())
            error = StageError(what, why=why, remedy=remedy)
            error.exit_code = code
            return error
    return None


@contextlib.contextmanager
def _threads(most: int) -> Iterator[None]:
    """Have this process and those that it starts use no more threads each."""
    before = os.environ.get("OMP_NUM_THREADS", "")
    asked = int(before) if before.isdecimal() else most
    os.environ["OMP_NUM_THREADS"] = str(min(asked, most))
    take_threads()
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before:
            os.environ["OMP_NUM_THREADS"] = before
