"""Who builds what: one lease per name, taken over when its owner is dead or was never written."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from kdstudy.errors import StageError

# A lease is a file, so it holds on file systems whose locks end at the node. Who died on this
# machine is noticed at once; on another, when its file has not been touched for so long.
_SECONDS = 60.0
# An owner takes microseconds from making its file to writing its name.
_UNNAMED_SECONDS = 5.0
_POLL_SECONDS = 1.0
_NAMESPACE = "?pidns-"


class Leases:
    """The leases of a store.

    Args:
        folder: Where their files are; must exist.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        # Kept from try to try: what is stale is known by having been watched.
        self._tried: dict[str, SoftFileLease] = {}
        self._unnamed: dict[str, tuple[int, float]] = {}

    @contextlib.contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[SoftFileLease]:
        """Hold a lease.

        Raises:
            filelock.Timeout: Another process holds it, and `wait` is False.
        """
        lease = self._tried.setdefault(name, self._lease(name))
        while True:
            self._spoil_unnamed(name)
            try:
                held = lease.acquire(timeout=_POLL_SECONDS if wait else 0)
                break
            except Timeout:
                if not wait:
                    raise
        with held:
            self._tried.pop(name, None)
            yield lease

    def owner(self, name: str) -> str:
        """Return `host:pid` of the living process that holds a lease, or '' if none does."""
        owner = self._lease(name).owner
        if owner is None or not _is_alive(self._path(name), owner.hostname, owner.pid):
            return ""
        return f"{owner.hostname.partition(_NAMESPACE)[0]}:{owner.pid}"

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _lease(self, name: str) -> SoftFileLease:
        return SoftFileLease(self._path(name), lease_duration=_SECONDS)

    def _spoil_unnamed(self, name: str) -> None:
        """Spoil a file whose owner died before it wrote its name.

        An empty one might be about to be written, so filelock waits for it for ever; one that
        holds no name it takes over. Appended to: a name that comes late after all is written over
        this.
        """
        try:
            found = self._path(name).stat()
            if found.st_size:
                raise FileNotFoundError
        except OSError:
            self._unnamed.pop(name, None)
            return
        inode, since = self._unnamed.setdefault(name, (found.st_ino, time.monotonic()))
        if inode != found.st_ino:
            self._unnamed[name] = found.st_ino, time.monotonic()
        elif time.monotonic() - since > _UNNAMED_SECONDS:
            with contextlib.suppress(OSError):
                number = os.open(self._path(name), os.O_WRONLY | os.O_APPEND)
                os.write(number, b"unnamed\n")
                os.close(number)


def require_held(lease: SoftFileLease) -> None:
    """Refuse to go on under a lease that was lost.

    Raises:
        StageError: It was.
    """
    lost: LeaseCompromise | None = lease.compromise
    if lost is not None:
        raise StageError(
            f"another process took this stage over ({lost.reason})",
            why="this one was silent for too long: suspended, or cut off from the store",
            remedy="run again: it waits for the other, or finds its result",
        )


def _is_alive(lock: Path, host: str, pid: int) -> bool:
    if host not in _here():
        try:
            return time.time() - lock.stat().st_mtime < 2 * _SECONDS
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _here() -> tuple[str, ...]:
    """Return what filelock calls this host: in a container with the number of its namespace."""
    name = socket.gethostname()
    try:
        return name, f"{name}{_NAMESPACE}{Path('/proc/self/ns/pid').stat().st_ino:x}"
    except OSError:
        return (name,)
