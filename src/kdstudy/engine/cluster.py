"""Stages on a Ray cluster: sent out when they are ready, watched by their logs, sent again if lost.

What is finished is in the store and not in Ray: a worker, a node or the driver may die at any time.
"""

import contextlib
import dataclasses
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.config.resources import Resources
from kdstudy.engine.build import View
from kdstudy.engine.execute import ready
from kdstudy.engine.log import last_line
from kdstudy.engine.nodes import Nodes, amounts, check_address, connected, first_line, import_failed
from kdstudy.engine.store import Store
from kdstudy.engine.worker import Outcome, Site, build_on_node
from kdstudy.errors import InputError, StageError
from kdstudy.stage import Stage, kinds

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # between looks at which nodes there are, and at what others build
# A training run ends its step, for 20 s at most, and writes a checkpoint.
_GOODBYE_SECONDS = 28.0
_NODELESS_SECONDS = 600.0
_TRIES = 3
_NOT_NUMBERS = ("time", "host", "pid", "event", "done", "total", "unit")
_QUEUE = 2  # stages sent out for each that can run at once, so that no node waits for the driver


class RayExecutor:
    """Builds stages on a Ray cluster; an `execute.Executor`.

    A stage whose node dies is sent again; one whose worker dies, three times. A stage that fails
    ends the run once those that run are finished.

    Args:
        resources: What stages ask of nodes.
        address: `auto`, or the `host:port` of a cluster that this machine is a node of; None starts
            Ray on this machine alone.
        say: Told, in a line, what a person should know at once.

    Raises:
        InputError: Ray is not installed, the address is none, or a launcher started several of us.
    """

    def __init__(self, resources: Resources, address: str | None, say: Callable[[str], None]):
        try:
            import ray
        except ImportError as e:
            raise InputError(
                f"--executor ray: Ray cannot be imported ({e})",
                remedy="pip install 'kdstudy[ray]', on every node",
            ) from e
        if os.environ.get("WORLD_SIZE", "1") != "1" and "LOCAL_RANK" in os.environ:
            raise InputError(
                "--executor ray: a launcher has started this command in several processes",
                why="Ray runs each stage in a process of its own",
                remedy="leave out one of them: accelerate launch (torchrun), or --executor ray",
            )
        self._ray, self._address = ray, address or "local"
        self._resources, self._say = resources, say
        check_address(self._address)

    def __call__(self, todo: Sequence[Stage], store: Store, view: View) -> None:
        """Build stages, each after those among them that it depends on.

        Raises:
            InputError: The cluster cannot be reached, no node has what a stage asks for, or a node
                does not see the store or what stages need.
            StageError: A stage failed; everything finished before is kept.
        """
        with connected(self._ray, self._address), _token(store) as token:
            nodes = Nodes(self._ray, self._resources)
            nodes.require(sorted({stage.kind for stage in todo}))
            site = Site.of(store, token)
            nodes.visit(site, todo)
            _Run(self._ray, nodes, site, store, view, self._say).all(todo)


@dataclasses.dataclass
class _Flight:
    """A stage that was sent out, and the last line of its log that was looked at."""

    key: str
    stage: Stage
    line: dict[str, Any]


class _Run:
    """One run of the driver's loop."""

    def __init__(
        self, ray: Any, nodes: Nodes, site: Site, store: Store, view: View,
        say: Callable[[str], None],
    ):  # fmt: skip
        self.ray, self.nodes, self.site = ray, nodes, site
        self.store, self.view, self.say = store, view, say
        # Losses are counted and told here, not in Ray. What a process has seen of GPUs it never
        # unlearns, nor does it give their memory back: with GPUs, a model has its own process.
        self.task = ray.remote(max_retries=0)(build_on_node)
        self.once = ray.remote(max_retries=0, max_calls=1)(build_on_node)
        self.left: dict[str, Stage] = {}
        self.flights: dict[Any, _Flight] = {}  # by Ray's reference
        self.begun: set[str] = set()
        self.elsewhere: set[str] = set()  # built by another process
        self.lost: Counter[str] = Counter()
        self.failure: StageError | None = None
        self.looked = self.fed = time.monotonic()
        self.starved = False

    def all(self, todo: Sequence[Stage]) -> None:
        self.left = {stage.key: stage for stage in todo}
        try:
            while self.flights or (self.left and self.failure is None):
                self._look()
                self._send()
                self._land()
                self._show()
        except BaseException:
            self._recall()
            raise
        if self.failure:
            raise self.failure

    def _look(self) -> None:
        if time.monotonic() - self.looked < _LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        self.nodes.look()
        self.elsewhere = {key for key in self.elsewhere if self.store.owner(key)}

    def _send(self) -> None:
        """Send out stages that are ready, as many as keep the nodes busy."""
        if self.failure:
            return
        sent = Counter(flight.stage.kind for flight in self.flights.values())
        busy = {flight.key for flight in self.flights.values()} | self.elsewhere
        keys = {id(stage): key for key, stage in self.left.items()}
        room = {
            kind: _QUEUE * self.nodes.room(kind) for kind in {s.kind for s in self.left.values()}
        }
        waiting = [s for s in ready(self.left) if keys[id(s)] not in busy]
        for stage in waiting:
            if sent[stage.kind] < room[stage.kind]:
                sent[stage.kind] += 1
                self._submit(keys[id(stage)], stage)
        self._heed_room(room)

    def _heed_room(self, room: Mapping[str, int]) -> None:
        """Tell when nothing can run, and give up when no node comes."""
        if self.elsewhere or any(room[flight.stage.kind] for flight in self.flights.values()):
            self.fed, self.starved = time.monotonic(), False
            return
        kind = min(kind for kind, stages in room.items() if not stages)
        lack = f"no node is left that has {amounts(self.nodes.asked(kind))}, as {kind} stages need"
        if time.monotonic() - self.fed > _NODELESS_SECONDS:
            raise StageError(
                lack,
                why=f"none came in {_NODELESS_SECONDS / 60:.0f} minutes",
                remedy="start nodes and run again: finished stages are kept",
            )
        if not self.starved:
            self.starved = True
            self.say(f"waiting: {lack}")

    def _submit(self, key: str, stage: Stage) -> None:
        asked = self.nodes.asked(stage.kind)
        task = self.once if self.nodes.any_gpu and kinds()[stage.kind].needs_model else self.task
        ref = task.options(
            num_cpus=asked["CPU"], num_gpus=asked.get("GPU", 0), memory=asked.get("memory")
        ).remote(stage, key, self.site, asked.get("GPU", 0))
        self.flights[ref] = _Flight(key, stage, last_line(self.store.log(key)))

    def _land(self) -> None:
        if not self.flights:
            time.sleep(_TICK_SECONDS)
            return
        done, _ = self.ray.wait(list(self.flights), timeout=_TICK_SECONDS)
        if done:
            done, _ = self.ray.wait(list(self.flights), num_returns=len(self.flights), timeout=0)
        for ref in done:
            self._settle(self.flights.pop(ref), ref)

    def _settle(self, flight: _Flight, ref: Any) -> None:
        raised, name = self.ray.exceptions, f"{flight.stage.kind} {flight.stage.label}"
        try:
            outcome: Outcome = self.ray.get(ref)
        except raised.NodeDiedError:
            self.say(f"  {name}: its node died; it is built again on another")
        except raised.RayError as e:
            if isinstance(e, raised.RayTaskError) and not isinstance(e, raised.TaskCancelledError):
                self._fail(StageError(name + ": " + import_failed("of the cluster", e)[0]))
                return
            self.lost[flight.key] += 1
            if self.lost[flight.key] == _TRIES:
                self._fail(_worn_out(name, e))
            else:
                self.say(f"  {name}: its worker died; it is built again")
        else:
            self._take(flight, outcome)

    def _take(self, flight: _Flight, outcome: Outcome) -> None:
        if outcome.error:
            what, why, remedy, code = outcome.error
            error = StageError(what, why=why, remedy=remedy)
            error.exit_code = code
            self._fail(error)
        elif outcome.finished:
            del self.left[flight.key]
            manifest = self.store.manifest(flight.key) or {}
            self.view.finish(flight.stage, manifest, here=outcome.here)
        else:
            self.elsewhere.add(flight.key)
            self.view.wait(flight.stage, self.store.owner(flight.key))

    def _fail(self, error: StageError) -> None:
        if self.failure:
            return  # what was still to start is refused, because the token is gone
        self.failure = error
        Path(self.site.token).unlink(missing_ok=True)
        if self.flights:
            self.say(f"failed: {error.what}; what runs is let finish, nothing new is begun")

    def _show(self) -> None:
        for flight in self.flights.values():
            line = last_line(self.store.log(flight.key))
            if line == flight.line or line.get("event") not in ("start", "progress"):
                continue
            flight.line = line
            if flight.key not in self.begun:
                self.begun.add(flight.key)
                self.view.begin(flight.stage)
            if line["event"] == "progress":
                numbers = {k: v for k, v in line.items() if k not in _NOT_NUMBERS}
                self.view.progress(
                    flight.stage, line["done"], line["total"], line["unit"], **numbers
                )

    def _recall(self) -> None:
        """End what runs, which saves what it can; by force what takes longer, or at Ctrl-C."""
        Path(self.site.token).unlink(missing_ok=True)
        flights = list(self.flights)
        if not flights:
            return
        self.say("stopping: what runs on the cluster saves what it can")
        try:
            for ref in flights:
                self.ray.cancel(ref, force=False)
            self.ray.wait(flights, num_returns=len(flights), timeout=_GOODBYE_SECONDS)
        finally:
            for ref in flights:
                self.ray.cancel(ref, force=True)


@contextlib.contextmanager
def _token(store: Store) -> Iterator[Path]:
    """Make the file by which a node knows this store, and that its driver goes on."""
    token = store.root / "locks" / f"cluster-{uuid.uuid4().hex}"
    try:
        token.touch()
    except OSError as e:
        raise StageError(f"store {store.root}: cannot be written ({e.strerror or e})") from e
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _worn_out(name: str, e: Exception) -> StageError:
    return StageError(
        f"{name}: its worker died {_TRIES} times",
        why=first_line(e),
        remedy="if memory ran out, ask for more (resources.KIND.memory_gib), or lower "
        "train.micro_batch_size; the worker's own words are in Ray's logs on its node",
    )
