"""Build one stage: all that a worker needs, here or on another machine."""

import contextlib
import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kdstudy.engine import machine
from kdstudy.engine.log import StageLog, spent
from kdstudy.engine.ranks import call
from kdstudy.engine.store import RUNS, Store
from kdstudy.errors import InputError, KdstudyError, StageError
from kdstudy.stage import Stage, Work, kinds

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
_PROBE_BYTES = 2**20


class View(Protocol):
    """What a person sees while stages run."""

    def begin(self, stage: Stage) -> None: ...
    def progress(
        self, stage: Stage, done: int, total: int, unit: str, **numbers: float
    ) -> None: ...
    def finish(self, stage: Stage, manifest: Mapping[str, Any], *, here: bool) -> None: ...
    def wait(self, stage: Stage, owner: str) -> None: ...


class Pace:
    """How fast a stage worked once it had begun: its start-up and its end are left out.

    The clock runs from the first report of progress to the last, so importing packages and opening
    models do not count, nor does what an earlier try had finished.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last, self._unit = (0.0, 0), ""

    def told(self, done: int, unit: str) -> None:
        """Progress was reported: `done` units are finished."""
        self._last, self._unit = (time.monotonic(), done), unit
        self._first = self._first or self._last

    def facts(self) -> dict[str, Any]:
        """Return how many units were finished in how many seconds; empty where none were."""
        if self._first is None or self._last[1] <= self._first[1]:
            return {}
        seconds, done = (b - a for a, b in zip(self._first, self._last, strict=True))
        return {"done": done, "unit": self._unit, "seconds": round(seconds, 4)}


class Unseen:
    """A `View` that shows nothing: the log has it all."""

    def begin(self, stage: Stage) -> None:
        """A stage starts."""

    def progress(self, stage: Stage, done: int, total: int, unit: str, **numbers: float) -> None:
        """A stage goes on."""

    def finish(self, stage: Stage, manifest: Mapping[str, Any], *, here: bool) -> None:
        """A stage is published."""

    def wait(self, stage: Stage, owner: str) -> None:
        """Another process builds this stage."""


def build_stage(stage: Stage, store: Store, view: View, *, wait: bool = True) -> bool:
    """Build one stage in the store, unless it is there, and keep its log.

    Args:
        stage: Its inputs are in the store.
        store: Where.
        view: Told how it goes.
        wait: Whether to wait for another process that builds it; else False is returned.

    Returns:
        Whether the stage is finished.

    Raises:
        StageError: It failed; the message says which, why, and what was kept.
    """
    log = StageLog(store.log(stage.key))
    before: list[float] = []
    pace = Pace()

    def fill(out: Path) -> str:
        before.append(spent(store.log(stage.key)))
        log.write("start", kind=stage.kind, label=stage.label, **_settings(stage))
        view.begin(stage)

        def progress(done: int, total: int, unit: str, **numbers: float) -> None:
            pace.told(done, unit)
            log.progress(done, total, unit, **numbers)
            view.progress(stage, done, total, unit, **numbers)

        work = Work(
            config=stage.config,
            inputs=_inputs(stage, store),
            local=_local(stage, store),
            out=out,
            progress=progress,
            aids={role: path for role, key in stage.aids.items() if (path := store.get(key))},
        )
        machine.forget_peak()
        return call(stage, work)

    def facts() -> dict[str, Any]:
        return _facts(stage, store) | {"earlier_seconds": before[0], "pace": pace.facts()}

    try:
        if store.build(stage.key, facts, fill, wait=wait) is None:
            view.wait(stage, store.owner(stage.key))
            return False
        manifest = store.manifest(stage.key) or {}
        if before:
            log.write("finish", seconds=manifest["seconds"], summary=manifest["summary"])
    except Exception as e:
        told = _told(e, stage, store)
        _last_words(log, "fail", error=str(told))
        raise told from e
    except BaseException:
        _last_words(log, "interrupt")
        raise
    view.finish(stage, manifest, here=bool(before))
    return True


def _local(stage: Stage, store: Store) -> Mapping[str, Any]:
    """Return what the plan says of this machine, and where a training's trackers may write."""
    tracking = stage.local.get("tracking")
    if tracking is None:
        return stage.local
    folder = store.output(tracking["study"]) / RUNS / tracking["label"]
    return {**stage.local, "tracking": {**tracking, "folder": str(folder)}}


def _inputs(stage: Stage, store: Store) -> dict[str, Path]:
    inputs = {}
    for role, key in stage.inputs.items():
        path = store.get(key)
        if path is None:
            raise StageError(
                f"its input '{role}' is not in the store",
                remedy="run again: what is missing or damaged is built first",
            )
        inputs[role] = path
    return inputs


def _facts(stage: Stage, store: Store) -> dict[str, Any]:
    aids = {role: store.manifest(key) for role, key in stage.aids.items() if store.get(key)}
    return {
        "kind": stage.kind,
        "version": kinds()[stage.kind].version,
        "label": stage.label,
        "config": dict(stage.config),
        "inputs": dict(stage.inputs),
        "aids": {role: _record(manifest) for role, manifest in aids.items()},
        "environment": machine.environment(),
        "peak_memory_gib": machine.peak_gib(),
    }


def _settings(stage: Stage) -> dict[str, Any]:
    """Return what tells a run from others of its label, for whoever reads the log."""
    if stage.kind != "train":
        return {}
    version = kinds()[stage.kind].version
    return {"config": dict(stage.config), "inputs": dict(stage.inputs), "version": version}


def _record(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is worth keeping of an aid, whose folder may be removed to free its space."""
    keys = ("key", "kind", "label", "started", "seconds", "summary")
    return {k: manifest[k] for k in keys} if manifest else {}


def _told(e: Exception, stage: Stage, store: Store) -> StageError:
    # A file that cannot be read for the disk's sake is no wrong input.
    cause = e.__cause__ if isinstance(e, InputError) else e
    if isinstance(e, KdstudyError) and getattr(cause, "errno", None) not in _DISK:
        return _failed(stage, e.what, e.why, e.remedy, e.exit_code)
    if isinstance(cause, OSError) or (cause := _refusal(e, store)):
        told = store.refusal(cause)
        return _failed(stage, told.what, told.why, told.remedy)
    return _failed(stage, *_unexpected(e, store, stage))


def _refusal(e: Exception, store: Store) -> OSError | None:
    """Return the disk's error where a library that writes by itself hides it in its own."""
    if os.strerror(errno.ENOSPC) in str(e):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    probe = store.root / f".probe.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return refused
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def _last_words(log: StageLog, event: str, **facts: Any) -> None:
    # Where the disk is full, what the person is told is all there is.
    with contextlib.suppress(OSError):
        log.write(event, **facts)


def _failed(stage: Stage, what: str, why: str, remedy: str, code: int = 1) -> StageError:
    error = StageError(f"{stage.kind} {stage.label}: {what}", why=why, remedy=remedy)
    error.exit_code = code
    return error


def _unexpected(e: Exception, store: Store, stage: Stage) -> tuple[str, str, str]:
    log = store.root / "logs" / f"{stage.key}-{int(time.time())}.txt"
    try:
        log.write_text("".join(traceback.format_exception(e)), encoding="utf-8")
    except OSError:
        log = Path("(it could not be written)")
    line = (str(e).splitlines() or [""])[0]
    if "out of memory" in str(e).lower() or isinstance(e, MemoryError):
        remedy = "lower train.micro_batch_size: the results stay the same"
    elif (culprit := _culprit(e)) == __package__.partition(".")[0]:
        remedy = "this is not your input's fault: please report it with the traceback"
    else:
        remedy = (
            f"{culprit} failed on what it was given: look at the traceback, and at the model and "
            "data of this stage (`kdstudy doctor`); please report it if these are right"
        )
    return (f"{type(e).__name__}: {line}", f"traceback: {log}", remedy)


def _culprit(e: Exception) -> str:
    """Return the package whose code raised."""
    frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
    names = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    # The standard library fails on behalf of whoever called it.
    foreign = [name for name in names if name and name not in sys.stdlib_module_names]
    return foreign[-1] if foreign else "a library"
