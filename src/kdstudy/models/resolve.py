"""What a model name stands for: a zoo folder, a local folder, or a pinned Hub commit."""

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.config.cuts import Cut
from kdstudy.data.prompts import has_template
from kdstudy.errors import InputError, KdstudyError, StageError, first_line
from kdstudy.models import checkpoint, gguf_file, layers, zoo

_UNPINNED = "unpinned"
_PATIENCE = 10  # seconds that the Hub may take to answer
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors",)
# What may be read from a model's folder: fetched from the Hub, and hashed where it lies here. One
# list, so that nothing can be read that no key names.
_READ = (
    *_WEIGHTS,
    *("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja"),
)
_CODE = ("*.py",)  # read only where the study trusts it


class Unreachable(InputError):
    """A Hub model that is not here while the Hub cannot be asked; a folder would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model pinned to its bytes.

    Attributes:
        name: Short name for labels: the last part of the id or folder, and `+` with that of the
            adapter where there is one. `told_apart` lengthens names that several models share.
        fingerprint: Content hash of a folder or of a GGUF file, or `hub:<id>@<commit>`; part of
            every key.
        vocabulary: Hash of the tokenizer's token -> id map; empty when it is not here yet.
        folder: Where it lies; None for a Hub model, which `fetch` brings.
        hub_id: Hub id, or None.
        revision: Hub commit, or None.
        adapter: Folder of a user's adapter, or None.
        gguf: Which file of the Hub model holds it, or None.
        trust_remote_code: As the study says.
        files: Hash of every file that was hashed, with the state (`_state`) it was hashed in, by
            path; `fetch` holds the files against it.
        chat: Its tokenizer has a chat template; None where it is not here yet.
        tokens: Its tokenizer's highest id and one; 0 where that is not known.
        entries: Tokens that it has embeddings for; None where that is not known.
        room: How long a text it can read.
        depth: How many layers it has before it is cut; None where that is not known.
        width: How many neurons each of its MLPs has before it is cut; None likewise.
        cut: What of it is kept, as the study says; None for all.
        given: What the study calls it, or "".
        origin: In words, that its weights were read from a GGUF file; "" for others.
    """

    name: str
    fingerprint: str
    vocabulary: str = ""
    folder: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter: str | None = None
    gguf: str | None = None
    trust_remote_code: bool = False
    files: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    chat: bool | None = None
    tokens: int = 0
    entries: int | None = None
    room: checkpoint.Room = checkpoint.NO_ROOM_NAMED
    depth: int | None = None
    width: int | None = None
    cut: Cut | None = None
    given: str = ""
    origin: str = ""

    def local(self) -> dict[str, Any]:
        """Return what a stage needs to find the model; no part of any key."""
        keys = ("folder", "hub_id", "revision", "adapter", "gguf", "trust_remote_code", "files")
        cut = {"layers": self.cut and self.cut.layers}
        cut |= {"intermediate": self.cut and self.cut.intermediate}
        return {k: getattr(self, k) for k in keys} | cut

    @property
    def whole(self) -> str:
        """Fingerprint of the model before it is cut."""
        return self.fingerprint.removesuffix(self.cut.mark if self.cut else "")

    @property
    def kept(self) -> list[int] | None:
        """Numbers of the layers that are kept; None for all, or where they are not known."""
        cut = self.cut
        if cut is None or cut.layers is None or cut.by == "influence" or self.depth is None:
            return None
        return layers.chosen(cut.layers, self.depth, self.name)


def resolve(
    ref: Any, base: Path, pins: dict[str, str], unreached: dict[str, str] | None = None
) -> Resolved:
    """Pin a `schema.ModelRef`.

    Args:
        ref: The reference as the study gives it.
        base: Folder that relative paths start from: the study file's.
        pins: Memory of earlier answers, read and added to: Hub commits by `id@revision`, folder
            hashes by path and state. The store keeps it, so a plan needs no network.
        unreached: Where given, a Hub model that cannot be reached is returned without a pin (see
            `is_pinned`), and this dictionary says why under its name.

    Raises:
        InputError: No such folder; a model that cannot be used: without weights in safetensors,
            quantised, unknown to transformers, no causal LM; or an unknown Hub model.
        Unreachable: A Hub model without a pin, and the Hub cannot be asked.
    """
    found = _whole(ref, base, pins, unreached)
    if ref.cut is None:
        return found
    if ref.layers is not None and found.depth is not None:
        layers.chosen(ref.layers, found.depth, found.name)
    if ref.intermediate is not None and found.width is not None:
        layers.require_narrower(ref.intermediate, found.width, found.name)
    return dataclasses.replace(
        found,
        name=ref.name or found.name + ref.cut.called,
        fingerprint=found.fingerprint + ref.cut.mark,
        cut=ref.cut,
        given=ref.name or "",
    )


def _whole(
    ref: Any, base: Path, pins: dict[str, str], unreached: dict[str, str] | None
) -> Resolved:
    """Pin a reference as `resolve` does, before it is cut."""
    trust = ref.trust_remote_code
    adapter, suffix, files = None, "", {}
    if ref.adapter is not None:
        adapter = _folder(ref.adapter, base)
        checkpoint.check_adapter(adapter)
        files = _hashed(adapter, trust, pins)
        suffix = "+" + _fingerprint(files)
    named = f"+{adapter.name}" if adapter else ""
    common = {"adapter": str(adapter) if adapter else None, "trust_remote_code": trust}
    file = _find_gguf(ref, base)
    hashed = _remembered(file, pins) if file else ""
    folder = gguf_file.imported(file, hashed) if file else _find_folder(ref.model, base)
    if folder is not None:
        if ref.model not in zoo.names():
            checkpoint.check_folder(folder, trust_remote_code=trust)
        own = _hashed(folder, trust, pins)
        if file:
            found = {Path(path).name: sha256 for path, (_, sha256) in own.items()}
            gguf_file.require_as_imported(folder, found)
        return Resolved(
            name=folder.name + named,
            fingerprint=(gguf_file.fingerprint(hashed) if file else _fingerprint(own)) + suffix,
            folder=str(folder),
            files=own | files,
            **_facts(folder, adapted=adapter is not None),
            **common,
        )
    commit = _pin_hub(ref, pins, unreached)
    common |= {"hub_id": ref.model, "revision": commit, "files": files}
    if ref.gguf:
        # It is not read, nor made a folder of, before it is here.
        there = gguf_here({"hub_id": ref.model, "revision": commit, "gguf": ref.gguf}, pins)
        return Resolved(
            name=gguf_file.name_of(ref.gguf) + named,
            fingerprint=f"hub:{ref.model}@{commit}/{ref.gguf}.{gguf_file.VERSION}{suffix}",
            gguf=ref.gguf,
            **(_facts(there, adapted=adapter is not None) if there else {}),
            **common,
        )
    config = _cached(ref.model, commit, "config.json")
    return Resolved(
        name=ref.model.split("/")[-1] + named,
        fingerprint=f"hub:{ref.model}@{commit}{suffix}",
        chat=_cached_template(ref.model, commit),
        **(_sizes(config, adapted=adapter is not None) if config else {}),
        **common,
    )


def told_apart(models: Sequence[Resolved]) -> list[Resolved]:
    """Return the models with names that no two different ones of them share.

    A name that several models have becomes longer for these: more of the path, or the whole Hub id
    and its commit; more of the adapter's path; and last the fingerprint.
    """
    names = {_identity(m): m.name for m in models}
    some = {_identity(m): m for m in models}
    # Never the whole path, which names the machine.
    for longer in (_with_layers, *(_placed(parts) for parts in (2, 3, 4)), _with_fingerprint):
        count = Counter(names.values())
        names |= {i: longer(some[i]) for i, name in names.items() if count[name] > 1}
    return [dataclasses.replace(m, name=names[_identity(m)]) for m in models]


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

    # A model without a place of its own is one that the study cuts out of another.
    hub = [m for m in models if m["hub_id"] and not m["folder"]]
    absent = {m["hub_id"]: m["revision"] for m in hub if not _here(m)}
    for model, revision in absent.items():
        try:
            HfApi().model_info(model, revision=revision, timeout=_PATIENCE)
        except Exception as e:
            raise _unreachable(model, e) from e


def gguf_here(local: Mapping[str, Any], pins: dict[str, str] | None = None) -> Path | None:
    """Return the folder of a Hub model's GGUF file where that file is on this machine, else None.

    Raises:
        InputError: It is, and cannot be used.
    """
    file = _cached(local["hub_id"], local["revision"], local["gguf"])
    return file and gguf_file.imported(file, _remembered(file, {} if pins is None else pins))


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


def public(name: str) -> str:
    """Return a Hub id as it is, and of a folder's path its last part."""
    path = Path(name).expanduser()
    place = path.is_dir() or path.is_absolute() or gguf_file.is_gguf(name)
    return path.resolve().name if name and place else name


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


def _find_gguf(ref: Any, base: Path) -> Path | None:
    """Return the GGUF file that a reference names on this machine, or None."""
    if ref.gguf:
        folder = None if ref.model in zoo.names() else _find_folder(ref.model, base)
        path = folder and folder / ref.gguf
    else:
        path = _absolute(base / Path(ref.model).expanduser())
        path = path if gguf_file.is_gguf(ref.model) and not path.is_dir() else None
    if path is not None:
        gguf_file.require_gguf(path)
    return path


def _absolute(path: Path) -> Path:
    """Return a whole path without `..`; a link keeps the name that its owner gave it."""
    return Path(os.path.abspath(path))


def _folder(text: str, base: Path) -> Path:
    folder = _absolute(base / Path(text).expanduser())
    if not folder.is_dir():
        raise InputError(f"{text}: no such folder ({folder})")
    return folder


def _patterns(trust_remote_code: bool) -> tuple[str, ...]:
    return (*_READ, *_CODE) if trust_remote_code else _READ


def read_files(folder: Path, trust_remote_code: bool) -> list[Path]:
    """Return the files that may be read from a folder, in the order of their names."""
    patterns = _patterns(trust_remote_code)
    return sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()})


def _state(path: Path) -> str:
    """Return what changes when a file does, short of reading it.

    Size and time alone can be put back by whoever writes a file; its change time cannot.
    """
    stat = path.stat()
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"


def _hashed(
    folder: Path, trust_remote_code: bool, pins: dict[str, str]
) -> dict[str, tuple[str, str]]:
    """Return state and hash of a folder's files by path; what is unchanged is not read again."""
    files = read_files(folder, trust_remote_code)
    return {str(path): (_state(path), _remembered(path, pins)) for path in files}


def _remembered(path: Path, pins: dict[str, str]) -> str:
    """Return a file's hash; what is unchanged is not read again."""
    key = f"{path}|{_state(path)}"
    if key not in pins:
        pins[key] = gguf_file.sha256(path)
    return pins[key]


def _fingerprint(files: Mapping[str, tuple[str, str]]) -> str:
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


def _identity(model: Resolved) -> tuple[str, str, bool]:
    return model.name, model.fingerprint, model.trust_remote_code


def _placed(parts: int) -> Callable[[Resolved], str]:
    """Return what calls a model by so many parts of its folder's path, and of its adapter's."""

    def last(folder: str, most: int) -> str:
        return "/".join([p for p in Path(folder).parts if p != "/"][-most:])

    def name(model: Resolved) -> str:
        base = model.hub_id or last(model.folder or "", parts)
        commit = f"@{model.revision[:12]}" if model.revision and parts > 2 else ""
        adapter = f"+{last(model.adapter, parts - 1)}" if model.adapter else ""
        return model.given or base + commit + adapter + _cut(model)

    return name


def _with_layers(model: Resolved) -> str:
    """Return a cut model's name with its layers in the place of their number."""
    if model.cut is None or model.given:
        return model.name
    return model.name.removesuffix(model.cut.called) + _cut(model)


def _cut(model: Resolved) -> str:
    """Return what a name says of a cut: the layers of a list, else how many they are."""
    if model.cut is None:
        return ""
    return model.cut.mark if isinstance(model.cut.layers, tuple) else model.cut.called


def _with_fingerprint(model: Resolved) -> str:
    return f"{model.name}#{hashlib.sha256(model.fingerprint.encode()).hexdigest()[:8]}"


def _vocabulary(folder: Path) -> dict[str, Any]:
    """Return the fields of `Resolved` that a tokenizer.json tells."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    tokenizer = checkpoint.read_json(path)
    try:
        vocab = tokenizer.get("model", {}).get("vocab", {})
        pairs = (
            sorted(vocab.items())
            if isinstance(vocab, dict)
            else [(t, i) for i, (t, *_) in enumerate(vocab)]
        )
        added = sorted((t["content"], t["id"]) for t in tokenizer.get("added_tokens", []))
        tokens = max((i for _, i in (*pairs, *added)), default=-1) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{folder}: tokenizer.json holds no vocabulary ({first_line(e)})",
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        ) from e
    return {
        "vocabulary": hashlib.sha256(json.dumps([pairs, added]).encode()).hexdigest()[:32],
        "tokens": tokens,
    }


def _facts(folder: Path, *, adapted: bool) -> dict[str, Any]:
    """Return the fields of `Resolved` that a model's folder tells."""
    sizes = _sizes(folder / "config.json", adapted=adapted)
    return {"chat": has_template(folder)} | sizes | _vocabulary(folder)


def _sizes(config: Path, *, adapted: bool) -> dict[str, Any]:
    """Return the fields of `Resolved` that a config.json tells; an adapter may bring embeddings."""
    said = checkpoint.read_json(config)
    return {
        "entries": None if adapted else checkpoint.entries(said),
        "room": checkpoint.room(said),
        "depth": layers.depth(said),
        "width": layers.width(said),
        "origin": gguf_file.origin(said),
    }


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
    if known is not None and not ref.gguf:
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
        name = ref.gguf or "config.json"
        if cached := _cached(model, revision, name):
            return cached.parents[len(Path(name).parts) - 1].name
        raise _unreachable(model, e) from e
    if not info.sha:
        raise InputError(f"{model}: the Hub names no commit for revision '{revision or 'main'}'")
    _check_listed(info, ref)
    return info.sha


def _cached_template(model: str, commit: str) -> bool | None:
    """Return whether a Hub model has a chat template, if its tokenizer is on this machine."""
    found = _cached(model, commit, "tokenizer_config.json")
    if found is None:
        return None
    # Without the weights it may be a copy of some files, and the template another.
    whole = _here({"hub_id": model, "revision": commit})
    return True if has_template(found.parent) else False if whole else None


def _check_listed(info: Any, ref: Any) -> None:
    """Refuse what the Hub's own words on a model tell: nothing of it is downloaded."""
    names = [file.rfilename for file in info.siblings or ()]
    if ref.gguf:
        if names and ref.gguf not in names:
            there = [name for name in names if gguf_file.is_gguf(name)]
            raise InputError(
                f"{ref.model}: holds no file {ref.gguf}",
                remedy=f"one of {', '.join(there)}" if there else "it holds no GGUF file at all",
            )
        return
    if names:
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
    weights = (local["gguf"],) if local.get("gguf") else weights
    return any(_cached(local["hub_id"], local["revision"], name) for name in weights)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _cached(model: str, revision: str | None, name: str) -> Path | None:
    """Return a file of the copy that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
