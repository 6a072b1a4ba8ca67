"""Calls of the command line inside this process, and what every refusal must look like."""

import contextlib
import dataclasses
import io
import signal
import sys
import time
import unicodedata
from pathlib import Path

import library_runs  # noqa: F401  # a refusal's time is its own, not that of torch's first import

from kdstudy.cli import main

SECONDS = 1.0
"""Processor time that a refusal may take; a shared machine's clock says less about the program."""
CHARACTERS = 6000
"""No message repeats a whole file."""


@dataclasses.dataclass(frozen=True)
class Call:
    """What one call of the command line came to."""

    code: int
    out: str
    err: str
    seconds: float


def call(*arguments: object) -> Call:
    """Run `kdstudy ARGUMENTS...` in this process; what no user should see is raised."""
    out, err = io.StringIO(), io.StringIO()
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["kdstudy", *map(str, arguments)]
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as e:
        code = e.code
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return Call(code, out.getvalue(), err.getvalue(), time.process_time() - started)


def refused(folder: Path, *arguments: object, code: int = 2) -> str:
    """Return the message of a call that must be refused, having checked its form.

    Args:
        folder: Where the call could leave something.
        arguments: The command line.
        code: 2 for wrong input, 1 for damage met while running.
    """
    before = files(folder)
    done = call(*arguments)
    examined(done, code)
    assert files(folder) == before, "something was left behind"
    return done.err


def examined(done: Call, code: int = 2) -> None:
    """Check the form of a refusal: its code, one short message, nothing else, and soon."""
    assert done.code == code, (done.code, done.out[-500:], done.err[-2000:])
    assert done.err.startswith("kdstudy: "), done.err[:500]
    assert "Traceback" not in done.err
    assert len(done.err) < CHARACTERS, f"{len(done.err)} characters: {done.err[:300]}"
    assert not [c for c in done.err if c != "\n" and unicodedata.category(c) == "Cc"]
    assert done.out == ""
    assert done.seconds < SECONDS, f"{done.seconds:.2f} s"


def files(folder: Path) -> set[Path]:
    """Return the files below a folder; a lock is no output."""
    return {p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}
