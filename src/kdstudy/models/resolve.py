"""What a model name stands for: a zoo folder, a local folder, or a pinned Hub commit."""

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.data.prompts import has_template
from kdstudy.errors import InputError, KdstudyError, StageError
from kdstudy.models import zoo

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors",)
# What may be read from a model's folder: fetched from the Hub, and hashed where it lies here. One
# list, so that nothing can be read that no key names.
_READ = (
    *_WEIGHTS,
    *("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja"),
)
_CODE = ("*.py",)  # read only where the study trusts it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model pinned to its bytes.

    Attributes:
        name: Short name for labels: the last part of the id or folder, and `+` with that of the
            adapter where there is one. `told_apart` lengthens names that several models share.
        fingerprint: Content hash of a folder, or `hub:<id>@<commit>`; part of every key.
        vocabulary: Hash of the tokenizer's token -> id map; empty when it is not here yet.
        folder: Where it lies; None for a Hub model, which `fetch` brings.
        hub_id: Hub id, or None.
        revision: Hub commit, or None.
        adapter: Folder of a user's adapter, or None.
        trust_remote_code: As the study says.
        files: Hash of every file that was hashed, with the state (`_state`) it was hashed in, by
            path; `fetch` holds the files against it.
        chat: Its tokenizer has a chat template; None where it is not here yet.
    """

    name: str
    fingerprint: str
    vocabulary: str = ""
    folder: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    files: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    chat: bool | None = None

    def local(self) -> dict[str, Any]:
        """Return what a stage needs to find the model; no part of any key."""
        keys = ("folder", "hub_id", "revision", "adapter", "trust_remote_code", "files")
        return {k: getattr(self, k) for k in keys}


def resolve(ref: Any, base: Path, pins: dict[str, str]) -> Resolved:
    """Pin a `schema.ModelRef`.

    Args:
        ref: The reference as the study gives it.
        base: Folder that relative paths start from: the study file's.
        pins: Memory of earlier answers, read and added to: Hub commits by `id@revision`, folder
            hashes by path and state. The store keeps it, so a plan needs no network.

    Raises:
        InputError: No such folder, a folder without a config or weights, or an unknown Hub model.
    """
    trust = ref.trust_remote_code
    adapter, suffix, files = None, "", {}
    if ref.adapter is not None:
        adapter = _folder(ref.adapter, base)
        if not (adapter / "adapter_config.json").is_file():
            raise InputError(
                f"adapter: {adapter} holds no adapter_config.json",
                remedy="give a PEFT adapter's folder",
            )
        files = _hashed(adapter, trust, pins)
        suffix = "+" + _fingerprint(files)
    named = f"+{adapter.name}" if adapter else ""
    common = {"adapter": str(adapter) if adapter else None, "trust_remote_code": trust}
    folder = _find_folder(ref.model, base)
    if folder is not None:
        _check_folder(folder)
        own = _hashed(folder, trust, pins)
        return Resolved(
            name=folder.name + named,
            fingerprint=_fingerprint(own) + suffix,
            vocabulary=_vocabulary(folder),
            folder=str(folder),
            files=own | files,
            chat=has_template(folder),
            **common,
        )
    commit = _pin_hub(ref.model, ref.revision, pins)
    return Resolved(
        name=ref.model.split("/")[-1] + named,
        fingerprint=f"hub:{ref.model}@{commit}{suffix}",
        hub_id=ref.model,
        revision=commit,
        files=files,
        chat=_cached_template(ref.model, commit),
        **common,
    )


def told_apart(models: Sequence[Resolved]) -> list[Resolved]:
    """Return the models with names that no two different ones of them share.

    A name that several models have becomes longer for these: more of the path or the whole Hub id,
    then the commit, then the whole place of the adapter, and last the fingerprint.
    """
    names = {_identity(m): m.name for m in models}
    some = {_identity(m): m for m in models}
    for longer in (_in_its_place, _at_its_commit, _wholly, _with_fingerprint):
        count = Counter(names.values())
        names |= {i: longer(some[i]) for i, name in names.items() if count[name] > 1}
    return [dataclasses.replace(m, name=names[_identity(m)]) for m in models]


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
        return Path(
            snapshot_download(local["hub_id"], revision=local["revision"], allow_patterns=patterns)
        )
    except Exception as e:
        raise KdstudyError(
            f"{local['hub_id']} at {local['revision'][:12]}: the download failed "
            f"({type(e).__name__}: {str(e).splitlines()[0]})",
            remedy="check the network and `hf auth whoami`, then run again: downloads resume",
        ) from e


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
    return _absolute(local) if local.is_dir() else None


def _absolute(path: Path) -> Path:
    """Return a whole path without `..`; a link keeps the name that its owner gave it."""
    return Path(os.path.abspath(path))


def _folder(text: str, base: Path) -> Path:
    folder = _absolute(base / Path(text).expanduser())
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


def _patterns(trust_remote_code: bool) -> tuple[str, ...]:
    return (*_READ, *_CODE) if trust_remote_code else _READ


def _files(folder: Path, trust_remote_code: bool) -> list[Path]:
    """Return the files that may be read from a folder, in the order of their names."""
    patterns = _patterns(trust_remote_code)
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _state(path: Path) -> str:
    """Return what changes when a file does, short of reading it.

    Size and time alone can be put back by whoever writes a file; its change time cannot.
    """
    stat = path.stat()
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _hashed(
    folder: Path, trust_remote_code: bool, pins: dict[str, str]
) -> dict[str, tuple[str, str]]:
    """Return state and hash of a folder's files by path; what is unchanged is not read again."""
    found = {}
    for path in _files(folder, trust_remote_code):
        state = _state(path)
        key = f"{path}|{state}"
        if key not in pins:
            pins[key] = _sha256(path)
        found[str(path)] = (state, pins[key])
    return found


def _fingerprint(files: Mapping[str, tuple[str, str]]) -> str:
    lines = [f"{Path(path).name}={sha256}\n" for path, (_, sha256) in files.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def _require_unchanged(local: Mapping[str, Any]) -> None:
    """Hold a model's files against what was hashed when the study was planned."""
    planned = local.get("files") or {}
    folders = [Path(local[k]) for k in ("folder", "adapter") if planned and local[k]]
    there = {str(p) for f in folders for p in _files(f, local["trust_remote_code"])}
    # A copy of the folder on another machine has other states; its bytes decide.
    changed = sorted(
        path
        for path in there | planned.keys()
        if path not in planned
        or path not in there
        or (_state(Path(path)) != planned[path][0] and _sha256(Path(path)) != planned[path][1])
    )
    if changed:
        raise StageError(
            f"{changed[0]}: has changed since the study was planned",
            remedy="run the study again: it will be planned with the file as it is now",
        )


def _identity(model: Resolved) -> tuple[str, str, bool]:
    return model.name, model.fingerprint, model.trust_remote_code


def _in_its_place(model: Resolved) -> str:
    base = model.hub_id or "/".join(Path(model.folder or "").parts[-2:])
    return base + (f"+{Path(model.adapter).name}" if model.adapter else "")


def _at_its_commit(model: Resolved) -> str:
    return _in_its_place(model) + (f"@{model.revision[:12]}" if model.revision else "")


def _wholly(model: Resolved) -> str:
    commit = f"@{model.revision[:12]}" if model.revision else ""
    return (
        (model.hub_id or model.folder or "")
        + (f"+{model.adapter}" if model.adapter else "")
        + commit
    )


def _with_fingerprint(model: Resolved) -> str:
    return f"{model.name}#{hashlib.sha256(model.fingerprint.encode()).hexdigest()[:8]}"


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


def _cached_template(model: str, commit: str) -> bool | None:
    """Return whether a Hub model has a chat template, if its tokenizer is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "tokenizer_config.json", revision=commit)
    return has_template(Path(found).parent) if isinstance(found, str) else None


def _cached_commit(model: str, revision: str | None) -> str | None:
    """Return the commit of the copy that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
