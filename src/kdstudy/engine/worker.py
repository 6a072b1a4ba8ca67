"""A stage on a node of a cluster: is this node as the driver's, and then the stage is built."""

import dataclasses
import importlib.metadata
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdstudy.engine.build import Unseen, build_stage
from kdstudy.engine.store import Store
from kdstudy.errors import StageError
from kdstudy.stage import Stage

# A network file system may keep a node from seeing for a minute what another has published.
_SIGHT_SECONDS = 90.0
_LOOK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """What a node must share with the driver.

    Attributes:
        store: The store's folder.
        token: A file in the store that is there as long as the driver wants stages built.
        version: kdstudy's.
    """

    store: str
    token: str
    version: str

    @classmethod
    def of(cls, store: Store, token: Path) -> "Site":
        """Return the driver's own."""
        return cls(store=str(store.root), token=str(token), version=_version())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage's task ended; plain values, whose trip back needs nothing of ours.

    Attributes:
        finished: The stage is in the store; if not and there is no `error`, another builds it.
        here: This task built it.
        error: What, why, remedy and exit code of a failure.
    """

    finished: bool = False
    here: bool = False
    error: tuple[str, str, str, int] | None = None


class _Witness(Unseen):
    here = False

    def finish(self, stage: Stage, manifest: Mapping[str, Any], *, here: bool) -> None:
        self.here = here


def build_on_node(stage: Stage, key: str, site: Site, gpus: float) -> Outcome:
    """Build a stage on this node.

    Args:
        stage: The stage.
        key: Its key as the driver has it.
        site: What this node must share with the driver.
        gpus: GPUs that the stage was given; where 0, it sees none.
    """
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    take_threads()
    if error := unfit(site, sorted(paths(stage.local)), {key: stage}):
        return Outcome(error=error)
    store, view = Store(Path(site.store)), _Witness()
    _await_inputs(stage, store)
    try:
        # A dead owner on another node is known by having been watched for a while.
        while not build_stage(stage, store, view, wait=False):
            if store.owner(key):
                return Outcome()
            time.sleep(_LOOK_SECONDS)
    except StageError as e:
        return Outcome(error=(e.what, e.why, e.remedy, e.exit_code))
    return Outcome(finished=True, here=view.here)


def unfit(
    site: Site, needed: list[str], stages: Mapping[str, Stage]
) -> tuple[str, str, str, int] | None:
    """Return why this node cannot build for the driver: what, why, remedy and exit code.

    Args:
        site: What the node must share with the driver.
        needed: Files and folders that it must have.
        stages: Stages by the driver's keys, which another version would not give them.
    """
    missing = [path for path in needed if not Path(path).exists()]
    if site.version != _version() or any(s.key != key for key, s in stages.items()):
        what = f"runs another kdstudy ({_version()}) than the driver ({site.version})"
        found = what, "", "install the same version on every node"
    elif not _sees(Path(site.token)):
        found = (
            f"does not see the store {site.store}",
            "stages meet through it",
            "give a --store in a folder that every node has at the same path",
        )
    elif not os.access(site.store, os.W_OK):
        found = f"cannot write to the store {site.store}", "", "mount it writable on every node"
    elif missing:
        found = f"does not have {missing[0]}", "", "put it in a folder that every node has"
    else:
        return None
    return f"node {socket.gethostname()}: {found[0]}", *found[1:], 2


def paths(local: Any) -> Iterator[str]:
    """Yield the files and folders that a stage's `local` names."""
    if isinstance(local, Mapping):
        for value in local.values():
            yield from paths(value)
    elif isinstance(local, str) and Path(local).is_absolute():
        yield local


def _sees(token: Path) -> bool:
    try:
        return token.is_file()
    except OSError:
        return False


def _await_inputs(stage: Stage, store: Store) -> None:
    """Wait, for a while, until this node sees what other nodes have published."""
    until = time.monotonic() + _SIGHT_SECONDS
    for key in (*stage.inputs.values(), *stage.aids.values()):
        while store.get(key) is None and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)


def take_threads() -> None:
    """Use as many threads as the environment says; torch looks only when it is imported."""
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch and threads.isdecimal():
        torch.set_num_threads(int(threads))


def _version() -> str:
    return importlib.metadata.version("kdstudy")
