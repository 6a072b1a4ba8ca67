"""Build the stages that are missing, say why each is, turn every failure into a clear line."""

import errno
import importlib.metadata
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdstudy.errors import KdstudyError, StageError
from kdstudy.study.plan import Stage
from kdstudy.study.stages import KINDS, Progress, Work, silent
from kdstudy.study.store import Store

_PACKAGES = (
    "kdstudy", "torch", "transformers", "peft", "accelerate", "datasets",
    "sacrebleu", "scipy", "statsmodels", "numpy", "pandas",
)  # fmt: skip


class View(Protocol):
    """What a person sees while stages run."""

    def begin(self, stage: Stage) -> None: ...
    def progress(self, done: int, total: int, unit: str, **numbers: float) -> None: ...
    def finish(self, stage: Stage, manifest: Mapping[str, Any]) -> None: ...


class Executor(Protocol):
    """Calls `build` on every stage, each after those it depends on; may do so elsewhere."""

    def __call__(self, todo: Sequence[Stage], build: Callable[[Stage], None]) -> None: ...


def inline(todo: Sequence[Stage], build: Callable[[Stage], None]) -> None:
    """Build stages one after another in this process."""
    for stage in todo:
        build(stage)


def missing(
    stages: Mapping[str, Stage], targets: Iterable[str], store: Store
) -> tuple[list[Stage], set[str]]:
    """Return the stages to build for `targets`, in order, and the keys among them that are damaged.

    A finished target needs nothing upstream. A finished stage that a missing one reads is checked
    byte by byte, once, and built again if it is not what was published. Aids are built for missing
    stages alone: what is finished never asks for them.
    """
    wanted: dict[str, bool] = {}
    damaged: set[str] = set()

    def want(key: str, by_missing: bool) -> None:
        if key in wanted and (wanted[key] or not by_missing):
            return
        present = store.get(key) is not None
        if present and by_missing and store.damage(key):
            damaged.add(key)
            present = False
        wanted[key] = wanted.get(key, False) or by_missing or not present
        if not present:
            for upstream in (*stages[key].inputs.values(), *stages[key].aids.values()):
                want(upstream, True)

    for target in targets:
        want(target, False)
    todo = [
        s for key, s in stages.items()
        if key in wanted and (key in damaged or store.get(key) is None)
    ]  # fmt: skip
    return todo, damaged


def reason(stage: Stage, store: Store, rebuilt: Mapping[str, Stage]) -> str:
    """Say in words why a stage is missing.

    Args:
        stage: The stage.
        store: Where it was looked for.
        rebuilt: Stages by key, to name the upstream that changed.
    """
    if store.begun(stage.key):
        return "interrupted; will resume"
    last = store.last_built(stage.kind, stage.label)
    if last is None:
        return "never built"
    if last["key"] == stage.key:
        return "damaged or removed"
    if last["version"] != KINDS[stage.kind].version:
        return f"stage version {last['version']} -> {KINDS[stage.kind].version}"
    changed = list(_changes(last["config"], stage.config))
    for role, key in stage.inputs.items():
        if last["inputs"].get(role) != key:
            name = f"{rebuilt[key].kind} {rebuilt[key].label}" if key in rebuilt else role
            changed.append(f"{name} changed")
    changed += [f"{role} is gone" for role in last["inputs"] if role not in stage.inputs]
    rest = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return "; ".join(changed[:3]) + rest


def execute(
    todo: Sequence[Stage],
    store: Store,
    view: View,
    *,
    damaged: set[str] | frozenset[str] = frozenset(),
    executor: Executor = inline,
) -> None:
    """Build stages.

    Raises:
        StageError: A stage failed; everything finished before is kept.
    """

    def build(stage: Stage) -> None:
        view.begin(stage)
        build_stage(stage, store, view.progress, again=stage.key in damaged)
        view.finish(stage, store.manifest(stage.key) or {})

    executor(todo, build)


def build_stage(
    stage: Stage, store: Store, progress: Progress = silent, *, again: bool = False
) -> None:
    """Build one stage in the store; all that a worker elsewhere needs to call.

    Raises:
        StageError: It failed; the message says which, why, and what was kept.
    """
    inputs = {role: store.get(key) for role, key in stage.inputs.items()}
    lost = [role for role, path in inputs.items() if path is None]
    if lost:
        raise StageError(
            f"{stage.kind} {stage.label}: its input '{lost[0]}' is not in the store",
            remedy="run again: what is missing or damaged is built first",
        )

    aids = {role: path for role, key in stage.aids.items() if (path := store.get(key))}

    def fill(out: Path) -> str:
        function = KINDS[stage.kind].function()
        return function(
            Work(
                config=stage.config,
                inputs={role: path for role, path in inputs.items() if path is not None},
                local=stage.local,
                out=out,
                progress=progress,
                aids=aids,
            )
        )

    facts = {
        "kind": stage.kind,
        "version": KINDS[stage.kind].version,
        "label": stage.label,
        "config": dict(stage.config),
        "inputs": dict(stage.inputs),
        "aids": {role: _record(store.manifest(stage.aids[role])) for role in aids},
        "environment": environment(),
    }
    try:
        store.build(stage.key, facts, fill, again=again)
    except KdstudyError as e:
        raise _failed(stage, e.what, e.why, e.remedy, e.exit_code) from e
    except OSError as e:
        raise _failed(stage, *_disk(e, store)) from e
    except Exception as e:
        raise _failed(stage, *_unexpected(e, store, stage)) from e


def _record(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is worth keeping of an aid, whose folder may be removed to free its space."""
    keys = ("key", "kind", "label", "started", "seconds", "summary")
    return {k: manifest[k] for k in keys} if manifest else {}


def environment() -> dict[str, Any]:
    """Return versions of what computes, and the hardware, as a manifest records them."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": _gpu_name(),
    }
    return {"versions": versions, "hardware": hardware}


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [
        line.split(":", 1)[1].strip() for line in text.split("\n") if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _gpu_name() -> str:
    import sys

    # Asking torch costs its import; a stage that used a GPU has imported it already.
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else ""


def _changes(old: Any, new: Any, path: str = "") -> Iterable[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) | set(new)):
            dotted = f"{path}.{key}" if path else key
            yield from _changes(old.get(key), new.get(key), dotted)
    elif old != new:
        brief = [str(v) if len(str(v)) <= 24 else f"{str(v)[:21]}..." for v in (old, new)]
        yield f"{path} {brief[0]} -> {brief[1]}"


def _failed(stage: Stage, what: str, why: str, remedy: str, code: int = 1) -> StageError:
    error = StageError(f"{stage.kind} {stage.label}: {what}", why=why, remedy=remedy)
    error.exit_code = code
    return error


def _disk(e: OSError, store: Store) -> tuple[str, str, str]:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = f"{shutil.disk_usage(store.root).free / 2**20:.0f} MiB free"
        except OSError:
            free = "no space"
        return (
            "the disk is full",
            f"{store.root}: {free}",
            "free some space or give another --store; run again: finished stages are kept",
        )
    return (f"{e.strerror or e}", str(e.filename or ""), "run again: finished stages are kept")


def _unexpected(e: Exception, store: Store, stage: Stage) -> tuple[str, str, str]:
    log = store.root / f"error-{stage.key[:8]}-{int(time.time())}.txt"
    try:
        log.write_text("".join(traceback.format_exception(e)))
    except OSError:
        log = Path("(it could not be written)")
    line = (str(e).splitlines() or [""])[0]
    if "out of memory" in str(e).lower() or isinstance(e, MemoryError):
        remedy = "lower train.micro_batch_size: the results stay the same"
    else:
        remedy = "this is not your input's fault: please report it with the traceback"
    return (f"{type(e).__name__}: {line}", f"traceback: {log}", remedy)
