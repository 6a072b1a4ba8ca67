"""How the stages in a store stand: the rows behind `kdstudy ls runs`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdstudy.engine import log
from kdstudy.engine.store import Store, read_manifest
from kdstudy.engine.view import duration
from kdstudy.errors import InputError

_STATES = ("running", "failed", "interrupted", "finished")


def runs(root: Path) -> list[dict[str, str]]:
    """Return a row for every finished training run and for every stage that is not finished.

    Args:
        root: The store.

    Returns:
        Rows with `state` (`running`, `failed`, `interrupted`, `finished`), `kind`, `run` (the
        label), `key`, `owner` (host:pid of who builds it, or last did), `age` (of that state),
        `seconds` and `last` (the last thing it said); running ones first.

    Raises:
        InputError: The store cannot be read.
    """
    try:
        folders = sorted((root / "stages").iterdir()) if (root / "stages").is_dir() else []
    except OSError as e:
        raise InputError(f"store {root}: cannot be read ({e.strerror})") from e
    rows = [*_begun(root, folders), *_finished(root, folders)]
    return sorted(rows, key=lambda r: (_STATES.index(r["state"]), r["run"], r["key"]))


def _finished(root: Path, folders: list[Path]) -> Iterator[dict[str, str]]:
    for folder in folders:
        manifest = None if folder.suffix else read_manifest(folder)
        if manifest is None or manifest["kind"] != "train":
            continue
        last = log.last_line(root / "logs" / f"{folder.name}.jsonl")
        yield {
            "state": "finished",
            "kind": manifest["kind"],
            "run": manifest["label"],
            "key": manifest["key"][:12],
            "owner": _who(last),
            "age": _age(manifest["started"] + manifest["seconds"]),
            "seconds": f"{manifest['seconds']:.1f}",
            "last": manifest["summary"],
        }


def _begun(root: Path, folders: list[Path]) -> Iterator[dict[str, str]]:
    partial = [folder for folder in folders if folder.suffix == ".partial"]
    store = Store(root) if partial else None
    for folder in partial:
        key = folder.stem
        history = log.lines(store.log(key))
        last = history[-1] if history else {}
        owner = store.owner(key)
        state = "running" if owner else "failed" if last.get("event") == "fail" else "interrupted"
        start = next((line for line in reversed(history) if line["event"] == "start"), {})
        said = next((text for line in reversed(history) if (text := log.told(line))), "")
        since = log.when(start if owner else last)
        yield {
            "state": state,
            "kind": start.get("kind", "?"),
            "run": start.get("label", "?"),
            "key": key[:12],
            "owner": owner or _who(last),
            "age": _age(folder.stat().st_mtime if since is None else since),
            "seconds": "",
            "last": said.split("\n")[0],
        }


def _who(line: dict[str, Any]) -> str:
    return f"{line['host']}:{line['pid']}" if "host" in line and "pid" in line else ""


def _age(since: float) -> str:
    # A clock may have been set back since.
    seconds = max(0.0, time.time() - since)
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"
