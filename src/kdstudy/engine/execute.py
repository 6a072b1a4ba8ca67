"""Which stages are missing and why, and in what order they are built."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from kdstudy.engine.build import View, build_stage
from kdstudy.engine.store import Store
from kdstudy.stage import Stage, kinds

_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 2.0  # seconds


class Executor(Protocol):
    """Builds stages, each after those among them that it depends on; may do so elsewhere."""

    def __call__(self, todo: Sequence[Stage], store: Store, view: View) -> None: ...


def inline(
    todo: Sequence[Stage], store: Store, view: View, heed: Callable[[], None] = lambda: None
) -> None:
    """Build stages one after another in this process.

    What another process builds is left to it, and the next stage that can be built is taken: any
    number of processes with one store share a study's work.

    Args:
        todo: What to build.
        store: Where.
        view: Told how it goes.
        heed: Called between stages; may raise.

    Raises:
        StageError: A stage failed; everything finished before is kept.
    """
    left = {stage.key: stage for stage in todo}
    pause = _SHORTEST_WAIT
    while left:
        heed()
        for stage in ready(left):
            if build_stage(stage, store, view, wait=False):
                del left[stage.key]
                pause = _SHORTEST_WAIT
                break
        else:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)


def ready(left: Mapping[str, Stage]) -> Iterator[Stage]:
    """Yield the stages that wait for no other stage of those left, in order."""
    for stage in left.values():
        if left.keys().isdisjoint((*stage.inputs.values(), *stage.aids.values())):
            yield stage


def missing(
    stages: Mapping[str, Stage], targets: Iterable[str], store: Store, *, verify: bool = False
) -> tuple[list[Stage], dict[str, str]]:
    """Return the stages to build for `targets`, in order, and the file of each that is damaged.

    A finished target needs nothing upstream. A finished stage that a missing one reads is checked
    byte by byte, and built again if it is not what was published. Aids are built for missing
    stages alone: what is finished never asks for them.

    Args:
        stages: All stages by key, each after those it depends on.
        targets: Keys of what is wanted in the end.
        store: Where to look.
        verify: Check every finished stage byte by byte.
    """
    wanted: dict[str, bool] = {}
    damaged: dict[str, str] = {}

    @functools.cache
    def there(key: str, thoroughly: bool) -> bool:
        present = store.get(key) is not None
        if (thoroughly or not present) and (file := store.damage(key)):
            damaged[key] = file
        return present and key not in damaged

    def want(key: str, by_missing: bool) -> None:
        if key in wanted and (wanted[key] or not by_missing):
            return
        wanted[key] = by_missing
        if not there(key, by_missing):
            for upstream in (*stages[key].inputs.values(), *stages[key].aids.values()):
                want(upstream, True)

    whole = {key: there(key, True) for key in stages} if verify else {}
    for key in (*(key for key in damaged if not whole[key]), *targets):
        want(key, verify)
    return [
        s for key, s in stages.items() if key in wanted and not there(key, wanted[key])
    ], damaged


def reason(stage: Stage, store: Store, rebuilt: Mapping[str, Stage]) -> str:
    """Say in words why a stage is missing.

    Args:
        stage: The stage.
        store: Where it was looked for.
        rebuilt: Stages by key, to name the upstream that changed.
    """
    if file := store.damage(stage.key):
        return f"damaged: {file}"
    if store.begun(stage.key):
        return "interrupted; will resume"
    last = store.last_built(stage.kind, stage.label)
    if last is None:
        return "never built"
    if last["key"] == stage.key:
        return "removed"
    if last["version"] != kinds()[stage.kind].version:
        return f"stage version {last['version']} -> {kinds()[stage.kind].version}"
    changed = list(_changes(last["config"], stage.config))
    for role, key in stage.inputs.items():
        if last["inputs"].get(role) != key:
            name = f"{rebuilt[key].kind} {rebuilt[key].label}" if key in rebuilt else role
            changed.append(f"{name} changed")
    changed += [f"{role} is gone" for role in last["inputs"] if role not in stage.inputs]
    rest = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return "; ".join(changed[:3]) + rest


def _changes(old: Any, new: Any, path: str = "") -> Iterable[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) | set(new)):
            dotted = f"{path}.{key}" if path else key
            yield from _changes(old.get(key), new.get(key), dotted)
    elif old != new:
        brief = [str(v) if len(str(v)) <= 24 else f"{str(v)[:21]}..." for v in (old, new)]
        yield f"{path} {brief[0]} -> {brief[1]}"
