"""GGUF files as models: found, told from others, and kept as an imported folder; never torch."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdstudy.data.download import cache_dir
from kdstudy.errors import InputError

MARK = "dequantised_from"
"""Field of an imported model's configuration: `file`, `sha256`, and tensors by GGUF `types`."""

VERSION = 1
"""Of the import: raised when the same file becomes another folder; part of every key."""

# How GGUF names numbers that are stored as they are.
PLAIN = ("F32", "F16", "BF16", "F64")
_MAGIC = b"GGUF"
_UNREAD = ("README.md",)
_POINTER = b"version https://git-lfs"


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def require_gguf(file: Path) -> None:
    """Refuse a path that is no GGUF file, with an InputError."""
    if not file.is_file():
        raise InputError(f"{file}: there is no such file", remedy="check the path")
    try:
        with file.open("rb") as f:
            start = f.read(len(_POINTER))
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror})") from e
    if start == _POINTER:
        raise InputError(
            f"{file}: is a Git LFS pointer, not the model",
            why="the repository was cloned without its large files",
            remedy="git lfs pull, in that repository",
        )
    if start[: len(_MAGIC)] != _MAGIC:
        raise InputError(
            f"{file}: is not a GGUF file",
            why="one begins with the letters GGUF",
            remedy="download it again, or give a folder that save_pretrained wrote",
        )


def sha256(file: Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def name_of(file: str) -> str:
    """Return what a model is called that a file of this name holds."""
    return re.sub(r"\.gguf$", "", Path(file).name, flags=re.IGNORECASE)


def fingerprint(hashed: str) -> str:
    """Return what keys know a file's model by: the file's bytes and how they are imported."""
    return f"gguf:{hashed[:32]}.{VERSION}"


def imported(file: Path, hashed: str) -> Path:
    """Return the folder that a file was imported into, in the user's cache; imported if need be.

    Args:
        file: A GGUF file.
        hashed: What `sha256` gives for it.

    Raises:
        InputError: It is none, or its model cannot be used.
    """
    require_gguf(file)
    home = cache_dir() / "gguf" / f"{hashed[:32]}.{VERSION}"
    folder = home / name_of(file.name)
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        if not folder.is_dir():
            from kdstudy.models import from_gguf

            fresh = home / ".new"
            shutil.rmtree(fresh, ignore_errors=True)  # an import that was interrupted
            fresh.mkdir()
            from_gguf.write(file, fresh, hashed)
            made = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
            _record(folder).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            fresh.rename(folder)
    return folder


def require_as_imported(folder: Path, found: Mapping[str, str]) -> None:
    """Refuse an imported folder whose files are others than were written.

    Args:
        folder: From `imported`.
        found: What `sha256` gives for its files now, by their names.

    Raises:
        InputError: One is damaged, edited or gone.
    """
    made = json.loads(_record(folder).read_text(encoding="utf-8"))
    other = sorted(n for n in found.keys() | made.keys() if found.get(n, "") != made.get(n, ""))
    # What nothing reads of a model's folder is not hashed.
    other = [name for name in other if name in found or name not in _UNREAD]
    if other:
        raise InputError(
            f"{folder}: {other[0]} is not what was imported",
            why="it was damaged or edited since",
            remedy="delete that folder, and the file is imported again",
        )


def _record(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.json"


def quantisation(types: Mapping[str, int]) -> str:
    """Return GGUF types as text, the most frequent first, plain numbers left out."""
    packed = {t: n for t, n in types.items() if t not in PLAIN}
    return ", ".join(sorted(packed, key=lambda t: (-packed[t], t)))


def origin(config: Mapping[str, Any]) -> str:
    """Return in words that a configuration's model was read from a GGUF file, or ""."""
    mark = config.get(MARK)
    if not isinstance(mark, Mapping) or not isinstance(mark.get("types"), Mapping):
        return ""
    packed = quantisation(mark["types"])
    how = f"weights dequantised from {packed}" if packed else "weights read from GGUF, unquantised"
    return f"{how} ({mark.get('file')}, sha256 {str(mark.get('sha256'))[:12]})"
