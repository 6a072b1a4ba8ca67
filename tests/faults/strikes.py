"""What goes wrong in a process: at an operation on the store it dies, or is told of an error."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

_NEVER = 10**9


@dataclasses.dataclass
class Strike:
    """A fault at the `at`-th operation on the store's files.

    Opening for writing, renaming, removing, making a folder and so on each count once before they
    happen; what is written outside of Python (Parquet, safetensors, torch) and fsync count too.

    Attributes:
        at: Which operation, from 1.
        error: The error's number; 0 kills the process instead.
        lasting: The error comes at every later operation as well.
        torn: Halve the last file that was written outside of Python before dying.
        reading: Operations that read count as well.
    """

    at: int
    error: int = 0
    lasting: bool = False
    torn: bool = False
    reading: bool = False

    def arm(self, root: Path) -> None:
        """Wait for the operation, from now on and in this process."""
        self._root, self._count, self._written = f"{root}{os.sep}", 0, ""
        self._native()
        sync = os.fsync

        def fsync(number: int) -> None:
            self._happens(os.readlink(f"/proc/self/fd/{number}"))
            sync(number)

        os.fsync = fsync
        # For good: a hook cannot be taken away again.
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes or self.reading:
                self._happens(path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            self._happens(arguments[0], relative=-1 not in arguments[1:])

    def _happens(self, path: object, *, relative: bool = False) -> None:
        try:
            path = os.fsdecode(path)
        except TypeError:  # a file by its number
            return
        # What rmtree removes it names relative to the folder.
        if not (path.startswith(self._root) or (relative and not os.path.isabs(path))):
            return
        self._count += 1
        if self._count == self.at or (self.lasting and self._count > self.at):
            if self.error:
                raise OSError(self.error, os.strerror(self.error), path)
            if self.torn and self._written:
                os.truncate(self._written, os.stat(self._written).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def _native(self) -> None:
        import pyarrow.parquet
        import safetensors.torch
        import torch

        for module, name, place in (
            (pyarrow.parquet, "write_table", 1),
            (safetensors.torch, "serialize_file", 1),
            (torch, "save", 1),
        ):
            setattr(module, name, self._told(getattr(module, name), place))

    def _told(self, write, place: int):
        def told(*arguments, **named):
            path = str(arguments[place])
            self._happens(path)
            result = write(*arguments, **named)
            if path.startswith(self._root):
                self._written = path
                self._happens(path)
                self._written = ""
            return result

        return told
