"""One study over several processes: the first runs it, and the others join it for what trains.

`accelerate launch` and `torchrun` start the same command in every process. The first plans, looks
into the store, shows and publishes as if it were alone. The others wait, without limit, for a stage
that trains; then all call its function on the same folder, and go back to waiting.
"""

import contextlib
import datetime
import json
import os
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from kdstudy.errors import KdstudyError, StageError
from kdstudy.stage import Stage, Work, kinds

_PAUSE = 0.05  # seconds between looks; a signal is heard between them
_COLLECTIVE = datetime.timedelta(minutes=30)  # that one process may be behind another in training
# Seconds until a failure is told. What fails in one process breaks the others' connections: our own
# errors go first, and the first process before the others, whose errors are mostly the same.
_OURS, _OTHER = (0.0, 2.0), (3.0, 5.0)


def call(stage: Stage, work: Work) -> str:
    """Call a stage's function, in all processes if it trains, and return its summary.

    Raises:
        SystemExit: It failed in another process, which has said so.
    """
    if _launch is None or not kinds()[stage.kind].distributed:
        return kinds()[stage.kind].function()(work)
    return _launch.lead(stage, work)


@contextlib.contextmanager
def launch() -> Iterator[bool]:
    """Say whether this process runs the command: the first, or the only one.

    In all others the command is over once this yields.

    Raises:
        SystemExit: Another process has failed, and has said so.
    """
    global _launch
    # Job systems set WORLD_SIZE as well; only launchers count the processes of a machine.
    if os.environ.get("WORLD_SIZE", "1") == "1" or "LOCAL_RANK" not in os.environ:
        yield True
        return
    _launch = _Launch()
    try:
        if not _launch.first:
            _launch.serve()
        yield _launch.first
    except KeyboardInterrupt:
        _launch.broken = True  # the others have heard the signal, too
        raise
    finally:
        _launch.dismiss()
        _launch = None


class _Launch:
    """The processes of this launch, and the line on which the first one tells what to join."""

    def __init__(self):
        import torch
        import torch.distributed as dist
        from accelerate import PartialState

        # DDP's own name for what Trainer knows under another.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        PartialState(cpu=not torch.cuda.is_available(), timeout=_COLLECTIVE)
        # Orders may be days apart, and travel on a line of their own.
        self._line = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=365))
        self._dist, self._torch = dist, torch
        self.rank = dist.get_rank()
        self.first = self.rank == 0
        self.broken = False

    def lead(self, stage: Stage, work: Work) -> str:
        """Have all processes call the stage's function."""
        (work.scratch / _FAILED).unlink(missing_ok=True)
        self._send(
            {
                "kind": stage.kind,
                "label": stage.label,
                "config": work.config,
                "inputs": _names(work.inputs),
                "aids": _names(work.aids),
                "local": work.local,
                "out": str(work.out),
            }
        )
        return self._join(stage.kind, stage.label, work)

    def serve(self) -> None:
        """Join what the first process leads, until it needs nobody any more."""
        while order := self._receive():
            work = Work(
                config=order["config"],
                inputs=_paths(order["inputs"]),
                aids=_paths(order["aids"]),
                local=order["local"],
                out=Path(order["out"]),
            )
            self._join(order["kind"], order["label"], work)

    def dismiss(self) -> None:
        """Tell the others that there is no more to join."""
        if self.broken:
            return
        with contextlib.suppress(RuntimeError):  # another process is gone already
            if self.first:
                self._send(None)
            self._dist.barrier(self._line)
            self._dist.destroy_process_group()

    def _join(self, kind: str, label: str, work: Work) -> str:
        self.broken = True
        try:
            summary = kinds()[kind].function()(work)
            # Nobody writes any more once the first process goes on.
            self._dist.barrier(self._line)
        except (Exception, KeyboardInterrupt) as e:
            self._fail(e, f"{kind} {label}", work.scratch / _FAILED)
        self.broken = False
        return summary

    def _fail(self, e: BaseException, name: str, file: Path) -> NoReturn:
        """Raise the error in the process that is the first to have one, and leave the others."""
        interrupted = isinstance(e, KeyboardInterrupt)
        if interrupted and not self.first:
            raise SystemExit(1) from None
        seconds = (_OURS if interrupted or isinstance(e, KdstudyError) else _OTHER)[not self.first]
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(seconds)
        try:
            with file.open("x", encoding="utf-8") as f:
                traceback.print_exception(e, file=f)
        except FileExistsError:
            raise SystemExit(1) from None
        if self.first:
            raise e
        if isinstance(e, KdstudyError):
            raise type(e)(f"{name}: {e.what}", why=e.why, remedy=e.remedy) from e
        line = (str(e).splitlines() or [""])[0]
        raise StageError(
            f"{name}: process {self.rank}: {type(e).__name__}: {line}",
            why=f"traceback: {file}",
            remedy="finished stages are kept; please report this with the traceback",
        ) from e

    def _send(self, order: dict[str, Any] | None) -> None:
        data = bytearray(json.dumps(order).encode()) if order else bytearray()
        size = self._torch.tensor([len(data)])
        self._dist.broadcast(size, src=0, group=self._line)
        if data:
            content = self._torch.frombuffer(data, dtype=self._torch.uint8)
            self._dist.broadcast(content, src=0, group=self._line)

    def _receive(self) -> dict[str, Any] | None:
        size = self._torch.zeros(1, dtype=self._torch.int64)
        told = self._dist.broadcast(size, src=0, group=self._line, async_op=True)
        try:
            while not told.is_completed():
                time.sleep(_PAUSE)
            told.wait()
        except (KeyboardInterrupt, RuntimeError):
            self.broken = True
            raise SystemExit(1) from None  # a signal, which all hear; or the first process is gone
        if not size.item():
            return None
        content = self._torch.zeros(int(size), dtype=self._torch.uint8)
        self._dist.broadcast(content, src=0, group=self._line)
        return json.loads(bytes(content.tolist()))


_launch: _Launch | None = None
_FAILED = "failed.txt"


def _names(folders: Any) -> dict[str, str]:
    return {role: str(folder) for role, folder in folders.items()}


def _paths(folders: dict[str, str]) -> dict[str, Path]:
    return {role: Path(folder) for role, folder in folders.items()}
