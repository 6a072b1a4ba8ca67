"""How the stages in a store stand: the rows behind `kdstudy ls runs`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdstudy.engine import log
from kdstudy.engine.store import Store, read_manifest
from kdstudy.engine.view import duration
from kdstudy.errors import InputError

_MOST = 3
"""So many differences are named."""
_LONGEST = 24  # characters of a value
_STATES = ("running", "failed", "interrupted", "finished")


def runs(root: Path) -> list[dict[str, str]]:
    """Return a row for every finished training run and for every stage that is not finished.

    Args:
        root: The store.

    Returns:
        Rows with `state` (`running`, `failed`, `interrupted`, `finished`), `kind`, `run` (the
        label), `differs` (settings and inputs in which runs of one label differ), `key`, `owner`
        (host:pid of who builds it, or last did), `age` (of that state), `seconds` and `last` (the
        last thing it said); running ones first.

    Raises:
        InputError: The store cannot be read.
    """
    try:
        folders = sorted((root / "stages").iterdir()) if (root / "stages").is_dir() else []
    except OSError as e:
        raise InputError(f"store {root}: cannot be read ({e.strerror})") from e
    found = [*_begun(root, folders), *_finished(root, folders)]
    differs = _differences(found)
    rows = [_row(facts, differs.get(facts["key"], "")) for facts in found]
    return sorted(rows, key=lambda r: (_STATES.index(r["state"]), r["run"], r["key"]))


def _row(facts: dict[str, Any], differs: str) -> dict[str, str]:
    columns = ("key", "owner", "age", "seconds", "last")
    row = {k: facts[k] for k in ("state", "kind", "run")} | {"differs": differs}
    row |= {k: facts[k] for k in columns}
    return row | {"key": facts["key"][:12]}


def _differences(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return, by key, in what a stage differs from the others of its kind and label."""
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for facts in found:
        if facts["made_of"]:
            own = groups.setdefault((facts["kind"], facts["run"]), {})
            own[facts["key"]] = dict(_flat(facts["made_of"]))
    said = {}
    for own in (own for own in groups.values() if len(own) > 1):
        paths = list(dict.fromkeys(path for made_of in own.values() for path in made_of))
        apart = [p for p in paths if len({_written(m.get(p)) for m in own.values()}) > 1]
        for key, made_of in own.items():
            parts = [f"{path}={_written(made_of.get(path))}" for path in apart]
            more = f" and {len(parts) - _MOST} more" if len(parts) > _MOST else ""
            said[key] = ", ".join(parts[:_MOST]) + more
    return said


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _written(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _finished(root: Path, folders: list[Path]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        manifest = None if folder.suffix else read_manifest(folder)
        if manifest is None or manifest["kind"] != "train":
            continue
        last = log.last_line(root / "logs" / f"{folder.name}.jsonl")
        yield {
            "state": "finished",
            "kind": manifest["kind"],
            "run": manifest["label"],
            "made_of": _made_of(manifest),
            "key": manifest["key"],
            "owner": _who(last),
            "age": _age(manifest["started"] + manifest["seconds"]),
            "seconds": f"{manifest['seconds']:.1f}",
            "last": manifest["summary"],
        }


def _begun(root: Path, folders: list[Path]) -> Iterator[dict[str, Any]]:
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
            "made_of": _made_of(start),
            "key": key,
            "owner": owner or _who(last),
            "age": _age(folder.stat().st_mtime if since is None else since),
            "seconds": "",
            "last": said.split("\n")[0],
        }


def _made_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a stage's key is made of, from its manifest or its log; {} where unknown."""
    if "config" not in facts:
        return {}
    return facts["config"] | {"inputs": facts["inputs"], "version": facts["version"]}


def _who(line: dict[str, Any]) -> str:
    return f"{line['host']}:{line['pid']}" if "host" in line and "pid" in line else ""


def _age(since: float) -> str:
    # A clock may have been set back since.
    seconds = max(0.0, time.time() - since)
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"
