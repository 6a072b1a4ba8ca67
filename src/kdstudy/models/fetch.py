"""A model's files: which are read, their hashes, and that they are what was planned with."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdstudy.errors import KdstudyError, StageError
from kdstudy.models import gguf_file

_WEIGHTS = ("*.safetensors",)
# What may be read from a model's folder: fetched from the Hub, and hashed where it lies here. One
# list, so that nothing can be read that no key names.
_READ = (
    *_WEIGHTS,
    *("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja"),
)
_CODE = ("*.py",)  # read only where the study trusts it


def fetch(local: Mapping[str, Any]) -> Path:
    """Return the folder of a resolved model, downloading its pinned commit if need be.

    Raises:
        KdstudyError: The download failed.
        StageError: A file of the model or of its adapter is not what was planned with.
    """
    _require_unchanged(local)
    if local["folder"]:
        return Path(local["folder"])
    from huggingface_hub import snapshot_download

    patterns = [*_patterns(local["trust_remote_code"]), "LICENSE*"]
    try:
        folder = snapshot_download(
            local["hub_id"],
            revision=local["revision"],
            allow_patterns=local.get("gguf") or patterns,
        )
    except Exception as e:
        raise KdstudyError(
            f"{local['hub_id']} at {local['revision'][:12]}: the download failed "
            f"({type(e).__name__}: {str(e).splitlines()[0]})",
            remedy="check the network and `hf auth whoami`, then run again: downloads resume",
        ) from e
    if local.get("gguf"):
        file = Path(folder) / local["gguf"]
        return gguf_file.imported(file, gguf_file.sha256(file))
    return Path(folder)


def read_files(folder: Path, trust_remote_code: bool) -> list[Path]:
    """Return the files that may be read from a folder, in the order of their names."""
    patterns = _patterns(trust_remote_code)
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def hashed_files(
    folder: Path, trust_remote_code: bool, pins: dict[str, str]
) -> dict[str, tuple[str, str]]:
    """Return state and hash of a folder's files by path; what is unchanged is not read again."""
    files = read_files(folder, trust_remote_code)
    return {str(path): (_state(path), remembered(path, pins)) for path in files}


def remembered(path: Path, pins: dict[str, str]) -> str:
    """Return a file's hash; what is unchanged is not read again."""
    key = f"{path}|{_state(path)}"
    if key not in pins:
        pins[key] = gguf_file.sha256(path)
    return pins[key]


def fingerprint_of(files: Mapping[str, tuple[str, str]]) -> str:
    """Return one hash of hashed files by their names: the same wherever they lie."""
    lines = [f"{Path(path).name}={sha256}\n" for path, (_, sha256) in files.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def _require_unchanged(local: Mapping[str, Any]) -> None:
    """Hold a model's files against what was hashed when the study was planned."""
    planned = local.get("files") or {}
    folders = [Path(local[k]) for k in ("folder", "adapter") if planned and local[k]]
    there = {str(p) for f in folders for p in read_files(f, local["trust_remote_code"])}
    # A copy of the folder on another machine has other states; its bytes decide.
    changed = sorted(
        path
        for path in there | planned.keys()
        if path not in planned
        or path not in there
        or (
            _state(Path(path)) != planned[path][0]
            and gguf_file.sha256(Path(path)) != planned[path][1]
        )
    )
    if changed:
        raise StageError(
            f"{changed[0]}: has changed since the study was planned",
            remedy="run the study again: it will be planned with the file as it is now",
        )


def _patterns(trust_remote_code: bool) -> tuple[str, ...]:
    return (*_READ, *_CODE) if trust_remote_code else _READ


def _state(path: Path) -> str:
    """Return what changes when a file does, short of reading it.

    Size and time alone can be put back by whoever writes a file; its change time cannot.
    """
    stat = path.stat()
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
