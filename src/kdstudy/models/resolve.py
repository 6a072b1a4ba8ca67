"""What a model name stands for: a zoo folder, a local folder, or a pinned Hub commit."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdstudy.errors import InputError, KdstudyError
from kdstudy.models import zoo

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors",)
_IDENTITY = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model pinned to its bytes.

    Attributes:
        name: Short name for labels: the last part of the id or folder.
        fingerprint: Content hash of a folder, or `hub:<id>@<commit>`; part of every key.
        vocabulary: Hash of the tokenizer's token -> id map; empty when it is not here yet.
        folder: Where it lies; None for a Hub model, which `fetch` brings.
        hub_id: Hub id, or None.
        revision: Hub commit, or None.
        adapter: Folder of a user's adapter, or None.
        trust_remote_code: As the study says.
    """

    name: str
    fingerprint: str
    vocabulary: str = ""
    folder: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False

    def local(self) -> dict[str, Any]:
        """Return what a stage needs to find the model; no part of any key."""
        keys = ("folder", "hub_id", "revision", "adapter", "trust_remote_code")
        return {k: getattr(self, k) for k in keys}


def resolve(ref: Any, base: Path, pins: dict[str, str]) -> Resolved:
    """Pin a `schema.ModelRef`.

    Args:
        ref: The reference as the study gives it.
        base: Folder that relative paths start from: the study file's.
        pins: Memory of earlier answers, read and added to: Hub commits by `id@revision`, folder
            hashes by path, size and time. The store keeps it, so a plan needs no network.

    Raises:
        InputError: No such folder, a folder without a config or weights, or an unknown Hub model.
    """
    adapter = None
    fingerprint = ""
    if ref.adapter is not None:
        adapter = _folder(ref.adapter, base)
        if not (adapter / "adapter_config.json").is_file():
            raise InputError(
                f"adapter: {adapter} holds no adapter_config.json",
                remedy="give a PEFT adapter's folder",
            )
        fingerprint = "+" + _fingerprint(adapter, pins)
    common = {
        "adapter": str(adapter) if adapter else None,
        "trust_remote_code": ref.trust_remote_code,
    }
    folder = _find_folder(ref.model, base)
    if folder is not None:
        _check_folder(folder)
        return Resolved(
            name=folder.name,
            fingerprint=_fingerprint(folder, pins) + fingerprint,
            vocabulary=_vocabulary(folder),
            folder=str(folder),
            **common,
        )
    commit = _pin_hub(ref.model, ref.revision, pins)
    return Resolved(
        name=ref.model.split("/")[-1],
        fingerprint=f"hub:{ref.model}@{commit}{fingerprint}",
        hub_id=ref.model,
        revision=commit,
        **common,
    )


def fetch(local: Mapping[str, Any]) -> Path:
    """Return the folder of a resolved model, downloading its pinned commit if need be.

    Raises:
        KdstudyError: The download failed.
    """
    if local["folder"]:
        return Path(local["folder"])
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*"]
    if local["trust_remote_code"]:
        patterns.append("*.py")
    try:
        return Path(
            snapshot_download(local["hub_id"], revision=local["revision"], allow_patterns=patterns)
        )
    except Exception as e:
        raise KdstudyError(
            f"{local['hub_id']} at {local['revision'][:12]}: the download failed "
            f"({type(e).__name__}: {str(e).splitlines()[0]})",
            remedy="check the network and `hf auth whoami`, then run again: downloads resume",
        ) from e


def public(name: str) -> str:
    """Return a Hub id as it is, and of a folder's path its last part."""
    path = Path(name).expanduser()
    return path.resolve().name if name and (path.is_dir() or path.is_absolute()) else name


def check_same_vocabulary(student: Resolved, teacher: Resolved, method: str) -> None:
    """Refuse a pair whose distributions cannot be compared.

    Raises:
        InputError: Both tokenizers are on this machine and map tokens to ids differently.
    """
    if not may_share_vocabulary(student, teacher):
        raise InputError(
            f"{method}: {student.name} and {teacher.name} have different vocabularies",
            why="it compares their distributions token by token, so ids must mean the same tokens",
            remedy="choose a teacher of the student's family, or use seqkd, which needs only text",
        )


def may_share_vocabulary(a: Resolved, b: Resolved) -> bool:
    """Return False when both tokenizers are on this machine and map tokens to ids differently."""
    return not (a.vocabulary and b.vocabulary) or a.vocabulary == b.vocabulary


def _find_folder(model: str, base: Path) -> Path | None:
    if model in zoo.names():
        return zoo.path(model)
    if model.startswith(("/", "./", "../", "~")):
        return _folder(model, base)
    local = base / model
    return local.resolve() if local.is_dir() else None


def _folder(text: str, base: Path) -> Path:
    folder = (base / Path(text).expanduser()).resolve()
    if not folder.is_dir():
        raise InputError(f"{text}: no such folder ({folder})")
    return folder


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: holds no config.json", remedy="give a Hugging Face model's folder"
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise InputError(
            f"{folder}: holds no weights",
            why="there is no *.safetensors file beside its config.json",
            remedy="copy the weights there, or give the model's Hub id",
        )


def _fingerprint(folder: Path, pins: dict[str, str]) -> str:
    """Hash a folder's model files; unchanged files (path, size, time) are not read again."""
    digest = hashlib.sha256()
    patterns = (*_IDENTITY, *_WEIGHTS, "adapter_config.json", "chat_template.jinja")
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern)}):
        stat = path.stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in pins:
            with path.open("rb") as f:
                pins[key] = hashlib.file_digest(f, "sha256").hexdigest()
        digest.update(f"{path.name}={pins[key]}\n".encode())
    return digest.hexdigest()[:32]


def _vocabulary(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer.get("model", {}).get("vocab", {})
    pairs = (
        sorted(vocab.items())
        if isinstance(vocab, dict)
        else [(t, i) for i, (t, *_) in enumerate(vocab)]
    )
    added = sorted((t["content"], t["id"]) for t in tokenizer.get("added_tokens", []))
    return hashlib.sha256(json.dumps([pairs, added]).encode()).hexdigest()[:32]


def _pin_hub(model: str, revision: str | None, pins: dict[str, str]) -> str:
    if revision and _COMMIT.fullmatch(revision):
        return revision
    key = f"{model}@{revision or 'main'}"
    if key not in pins:
        pins[key] = _ask_hub(model, revision)
    return pins[key]


def _ask_hub(model: str, revision: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        commit = HfApi().model_info(model, revision=revision, timeout=10).sha
    except (RepositoryNotFoundError, HFValidationError) as e:
        names = ", ".join(zoo.names())
        raise InputError(
            f"{model}: no such model",
            why="no shipped model or folder has this name, and the Hub does not show it to you",
            remedy=f"shipped: {names}; else a folder or a Hub id; for a gated one `hf auth login`",
        ) from e
    except RevisionNotFoundError as e:
        raise InputError(f"{model}: has no revision '{revision}'") from e
    except Exception as e:
        if cached := _cached_commit(model, revision):
            return cached
        raise InputError(
            f"{model}: is neither a shipped model nor a folder here, and the Hub cannot be reached "
            f"({type(e).__name__})",
            remedy=f"shipped models: {', '.join(zoo.names())}; or give a folder; or a full commit "
            "as revision, which needs no look-up",
        ) from e
    if not commit:
        raise InputError(f"{model}: the Hub names no commit for revision '{revision or 'main'}'")
    return commit


def _cached_commit(model: str, revision: str | None) -> str | None:
    """Return the commit of the copy that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
