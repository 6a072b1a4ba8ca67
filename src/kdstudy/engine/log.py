"""What happened to a stage, a line of JSON at a time, where every process can read it.

`logs/<key>.jsonl`: `start`, `progress` (every few seconds), `finish`, `fail`, `interrupt`; each
line has `time` (UTC), `host`, `pid` and `event`. A line is appended in one write, and outlives the
process, the terminal and the node that wrote it.
"""

import datetime
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

_QUIET_SECONDS = 5.0
# More than the longest line that is written: messages are cut.
_TAIL_BYTES = 2**13
_LONGEST = 1000  # characters of a message


class StageLog:
    """Writes a stage's log.

    Args:
        path: The file; lines are added to what it holds.
    """

    def __init__(self, path: Path):
        self._path = path
        self._spoke = 0.0

    def write(self, event: str, **facts: Any) -> None:
        """Add a line."""
        head = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "event": event,
        }
        short = {k: v[:_LONGEST] if isinstance(v, str) else v for k, v in facts.items()}
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(head | short).encode() + b"\n")

    def progress(self, done: int, total: int, unit: str, **numbers: float) -> None:
        """Add a line, unless the last one is only seconds old."""
        if time.monotonic() - self._spoke < _QUIET_SECONDS:
            return
        self._spoke = time.monotonic()
        self.write("progress", done=done, total=total, unit=unit, **numbers)


def last_line(path: Path) -> dict[str, Any]:
    """Return the last whole line of a log; an empty one where there is none."""
    return next(reversed(_read(path, _TAIL_BYTES)), {})


def lines(path: Path) -> list[dict[str, Any]]:
    """Return every whole line of a log."""
    return _read(path)


def _read(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            if most is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            found = file.read().splitlines()
    except OSError:
        return []
    return [line for text in found if (line := _parsed(text))]


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # torn by a death, or cut by where the tail begins
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else {}


def when(line: dict[str, Any]) -> float | None:
    """Return the time of a log's line in seconds since 1970."""
    try:
        return datetime.datetime.fromisoformat(line["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def spent(path: Path) -> float:
    """Return the seconds of the tries since the last finish, each up to the last thing it said."""
    seconds, before = 0.0, None
    for line in lines(path):
        now = when(line)
        if line["event"] == "finish":
            seconds = 0.0
        elif line["event"] != "start" and now is not None and before is not None:
            seconds += max(0.0, now - before)  # a clock may be set back
        before = now
    return round(seconds, 3)


def told(line: dict[str, Any]) -> str:
    """Return a log's line as people read it: `120/300 steps, loss 0.41`, or what went wrong."""
    if line.get("event") == "progress":
        known = ("time", "host", "pid", "event", "done", "total", "unit")
        numbers = "".join(f", {k} {v:.4g}" for k, v in line.items() if k not in known)
        return f"{line.get('done')}/{line.get('total')} {line.get('unit')}s{numbers}"
    return str(line.get("error") or line.get("summary") or "")
