"""What a model name stands for: a zoo folder, a local folder, or a pinned Hub commit."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdstudy.errors import InputError, KdstudyError
from kdstudy.models import checkpoint, zoo

_UNPINNED = "unpinned"
_PATIENCE = 10  # seconds that the Hub may take to answer
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors",)
_IDENTITY = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


class Unreachable(InputError):
    """A Hub model that is not here while the Hub cannot be asked; a folder would do."""


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


def resolve(
    ref: Any, base: Path, pins: dict[str, str], unreached: dict[str, str] | None = None
) -> Resolved:
    """Pin a `schema.ModelRef`.

    Args:
        ref: The reference as the study gives it.
        base: Folder that relative paths start from: the study file's.
        pins: Memory of earlier answers, read and added to: Hub commits by `id@revision`, folder
            hashes by path, size and time. The store keeps it, so a plan needs no network.
        unreached: Where given, a Hub model that cannot be reached is returned without a pin (see
            `is_pinned`), and this dictionary says why under its name.

    Raises:
        InputError: No such folder; a model that cannot be used: without weights in safetensors,
            quantised, unknown to transformers, no causal LM; or an unknown Hub model.
        Unreachable: A Hub model without a pin, and the Hub cannot be asked.
    """
    adapter = None
    fingerprint = ""
    if ref.adapter is not None:
        adapter = _folder(ref.adapter, base)
        checkpoint.check_adapter(adapter)
        fingerprint = "+" + _fingerprint(adapter, pins)
    common = {
        "adapter": str(adapter) if adapter else None,
        "trust_remote_code": ref.trust_remote_code,
    }
    folder = _find_folder(ref.model, base)
    if folder is not None:
        if ref.model not in zoo.names():
            checkpoint.check_folder(folder, trust_remote_code=ref.trust_remote_code)
        return Resolved(
            name=folder.name,
            fingerprint=_fingerprint(folder, pins) + fingerprint,
            vocabulary=_vocabulary(folder),
            folder=str(folder),
            **common,
        )
    commit = _pin_hub(ref, pins, unreached)
    return Resolved(
        name=ref.model.split("/")[-1],
        fingerprint=f"hub:{ref.model}@{commit}{fingerprint}",
        hub_id=ref.model,
        revision=commit,
        **common,
    )


def is_pinned(fingerprint: str) -> bool:
    """Return whether a fingerprint is of known bytes; keys made of another are of no stage."""
    return f"@{_UNPINNED}" not in fingerprint


def require_reachable(models: Iterable[Mapping[str, Any]]) -> None:
    """Refuse Hub models that are neither on this machine nor to be had, before anything runs.

    Args:
        models: From `Resolved.local`. Where all are here nothing is asked.

    Raises:
        Unreachable: One has to be downloaded, and the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    absent = {m["hub_id"]: m["revision"] for m in models if not m["folder"] and not _here(m)}
    for model, revision in absent.items():
        try:
            HfApi().model_info(model, revision=revision, timeout=_PATIENCE)
        except Exception as e:
            raise _unreachable(model, e) from e


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
        folder = snapshot_download(
            local["hub_id"], revision=local["revision"], allow_patterns=patterns
        )
    except Exception as e:
        raise KdstudyError(
            f"{local['hub_id']} at {local['revision'][:12]}: the download failed "
            f"({type(e).__name__}: {str(e).splitlines()[0]})",
            remedy="check the network and `hf auth whoami`, then run again: downloads resume",
        ) from e
    return Path(folder)


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


def _pin_hub(ref: Any, pins: dict[str, str], unreached: dict[str, str] | None) -> str:
    model, revision = ref.model, ref.revision
    key = f"{model}@{revision or 'main'}"
    if revision and _COMMIT.fullmatch(revision):
        commit = revision
    elif key in pins:
        commit = pins[key]
    elif model in (unreached or {}):
        return _UNPINNED
    else:
        try:
            commit = pins[key] = _ask_hub(ref)
        except Unreachable as e:
            if unreached is None:
                raise
            unreached[model] = e.what
            return _UNPINNED
    known = _cached(model, commit, "config.json")
    if known is not None:
        config = json.loads(known.read_text(encoding="utf-8"))
        checkpoint.check_config(config, model, trust_remote_code=ref.trust_remote_code)
    return commit


def _ask_hub(ref: Any) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    model, revision = ref.model, ref.revision
    try:
        info = HfApi().model_info(model, revision=revision, timeout=_PATIENCE)
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
        if cached := _cached(model, revision, "config.json"):
            return cached.parent.name
        raise _unreachable(model, e) from e
    if not info.sha:
        raise InputError(f"{model}: the Hub names no commit for revision '{revision or 'main'}'")
    _check_listed(info, ref)
    return info.sha


def _check_listed(info: Any, ref: Any) -> None:
    """Refuse what the Hub's own words on a model tell: nothing of it is downloaded."""
    if info.siblings:
        names = [file.rfilename for file in info.siblings]
        checkpoint.check_names(names, ref.model, ref.model)
    if (info.config or {}).get("model_type"):
        trusted = ref.trust_remote_code
        checkpoint.check_config(info.config, ref.model, trust_remote_code=trusted)


def _unreachable(model: str, e: Exception) -> InputError:
    """Return the refusal; a name without an owner is more likely a slip than a model of the Hub."""
    kind = Unreachable if "/" in model else InputError
    shipped = f"shipped models: {', '.join(zoo.names())}"
    if _offline():
        return kind(
            f"{model}: is neither a shipped model nor on this machine, and HF_HUB_OFFLINE forbids "
            "to ask the Hub",
            remedy=f"unset HF_HUB_OFFLINE; or `hf download {model}` where there is a network, and "
            f"set HF_HOME to that cache; or give a folder; {shipped}",
        )
    return kind(
        f"{model}: is neither a shipped model nor a folder here, and the Hub cannot be reached "
        f"({type(e).__name__})",
        remedy=f"bring the network up; or `hf download {model}` where there is one, and set "
        f"HF_HOME to that cache; or give a folder; {shipped}",
    )


def _here(local: Mapping[str, Any]) -> bool:
    weights = ("model.safetensors", "model.safetensors.index.json")
    return any(_cached(local["hub_id"], local["revision"], name) for name in weights)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _cached(model: str, revision: str | None, name: str) -> Path | None:
    """Return a file of the copy that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
