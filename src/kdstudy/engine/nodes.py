"""A Ray cluster: reached, and its nodes asked what they have and whether they fit."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.config.resources import Resources
from kdstudy.engine.worker import Site, paths, unfit
from kdstudy.errors import InputError
from kdstudy.stage import Stage

_DIAL_SECONDS = 10.0
_PROBE_SECONDS = 60.0
# Of Ray's own store, which nothing of ours goes through, the least.
_ALONE = {"include_dashboard": False, "object_store_memory": 100 * 2**20}


class Nodes:
    """The nodes of a cluster, and what stages ask of them.

    Args:
        ray: The module, connected.
        resources: What stages ask.

    Attributes:
        any_gpu: Whether any node has, or had, a GPU: a stage that had one never moves to a CPU.
    """

    def __init__(self, ray: Any, resources: Resources):
        self._ray, self._resources, self.any_gpu = ray, resources, False
        self.look()

    def look(self) -> None:
        """See which nodes there are now."""
        self._nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self.any_gpu |= any(node["Resources"].get("GPU") for node in self._nodes)

    def asked(self, kind: str) -> dict[str, float]:
        """Return what a stage takes from a node, in Ray's names and units."""
        return getattr(self._resources, kind).of_node(kind, any_gpu=self.any_gpu)

    def room(self, kind: str) -> int:
        """Return how many stages of a kind the nodes could run at once, were they idle."""
        asked = self.asked(kind)
        return sum(
            min(
                int(node["Resources"].get(name, 0) / amount + 1e-6)
                for name, amount in asked.items()
            )
            for node in self._nodes
        )

    def require(self, kinds: Sequence[str]) -> None:
        """Refuse what no node has.

        Raises:
            InputError: Naming the kind of stage, what it asks for, and the nodes.
        """
        for kind in kinds:
            if self.room(kind) == 0:
                have = sorted({amounts(node["Resources"]) for node in self._nodes})
                raise InputError(
                    f"resources.{kind}: no node has {amounts(self.asked(kind))}",
                    why=f"the cluster's nodes have {'; '.join(have) or 'nothing'}",
                    remedy=f"ask for less under `resources: {{{kind}: ...}}`, or add such a node",
                )

    def visit(self, site: Site, todo: Sequence[Stage]) -> None:
        """Have every node say whether it can build for this driver.

        A node that gives no answer in a minute is left alone: each stage asks again.

        Raises:
            InputError: One cannot.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needed = sorted({path for stage in todo for path in paths(stage.local)})
        probe = self._ray.remote(num_cpus=0, max_retries=0)(unfit)
        asked = {}
        for node in self._nodes:
            if node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ref = probe.options(scheduling_strategy=there).remote(site, needed, {})
                asked[ref] = node["NodeManagerHostname"]
        done, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
        for ref in done:
            try:
                wrong = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as e:
                wrong = import_failed(asked[ref], e)
            except self._ray.exceptions.RayError:
                continue  # the node is gone
            if wrong:
                raise InputError(wrong[0], why=wrong[1], remedy=wrong[2])


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Be a driver of a cluster while open.

    Args:
        ray: The module.
        address: `auto`, `host:port`, or `local` for a cluster of this machine alone.

    Raises:
        InputError: It cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray tells on stdout, where a verb's result belongs, what its nodes log.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            with _own_signals(shield=address == "local"):
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    **(_ALONE if address == "local" else {}),
                )
        except (OSError, RuntimeError, ValueError) as e:
            raise InputError(
                f"--address {address}: no Ray cluster can be reached ({first_line(e)})",
                remedy="run on a node of the cluster (`ray start --address=HEAD:6379`), with the "
                "cluster's token if it has one (RAY_AUTH_MODE=token, ~/.ray/auth_token)",
            ) from e
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_signals(*, shield: bool) -> Iterator[None]:
    """Keep Ray from taking our signals over; what is started meanwhile hears none if shielded.

    Ctrl-C and a closed terminal reach every process of the terminal: it is the driver that must
    end the others, each with its checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.getsignal(signal.SIGTERM)
    deaf = {signal.SIGINT, signal.SIGHUP} if shield else set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, deaf)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_address(address: str) -> None:
    """Refuse an address that is none, or where nothing answers.

    Raises:
        InputError: Saying which.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _noted() or "local"
    if address == "local":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal() or int(port) >= 2**16:
        raise InputError(
            f"--address {address}: is neither `auto` nor `host:port`",
            why="the driver is a node of the cluster; Ray's client (ray://) is not used",
            remedy="run on a node of the cluster, with --address auto",
        )
    try:
        # Ray itself would try for ten minutes.
        socket.create_connection((host.strip("[]"), int(port)), _DIAL_SECONDS).close()
    except OSError as e:
        raise InputError(
            f"--address {address}: nothing answers there ({e.strerror or e})",
            remedy="give the head's address, as `ray start --head` printed it",
        ) from e


def _noted() -> str:
    """Return the address that `ray start` left here, maybe of a cluster that is gone."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def import_failed(node: str, e: Exception) -> tuple[str, str, str]:
    """Return what, why and remedy where a node's Python could not even begin."""
    return (
        f"node {node}: cannot run kdstudy ({first_line(getattr(e, 'cause', None) or e)})",
        "",
        "install the same version of everything on every node",
    )


def first_line(e: BaseException) -> str:
    """Return the first line of an error of Ray's, which may hold pages."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:300]


def amounts(resources: Mapping[str, float]) -> str:
    """Return `4 CPUs, 1 GPU, 24 GiB`."""
    told = []
    for name in ("CPU", "GPU"):
        amount = resources.get(name, 0)
        told += [f"{amount:g} {name}{'' if amount == 1 else 's'}"] if amount else []
    if memory := resources.get("memory"):
        told.append(f"{memory / 2**30:.1f} GiB")
    return ", ".join(told) or "nothing"
