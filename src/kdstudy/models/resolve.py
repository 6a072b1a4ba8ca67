"""What a model name stands for: a zoo folder, a local folder, or a pinned Hub commit."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.config.cuts import Cut
from kdstudy.data.prompts import has_template
from kdstudy.errors import InputError, first_line
from kdstudy.models import checkpoint, gguf_file, layers, zoo
from kdstudy.models.fetch import fingerprint_of, hashed_files, remembered
from kdstudy.models.hub import cached_file, cached_template, gguf_here, pin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model pinned to its bytes.

    Attributes:
        name: Short name for labels: the last part of the id or folder, and `+` with that of the
            adapter where there is one. `told_apart` lengthens names that several models share.
        fingerprint: Content hash of a folder or of a GGUF file, or `hub:<id>@<commit>`; part of
            every key.
        vocabulary: Token -> id by tokenizer.json; empty when it is not here yet.
        folder: Where it lies; None for a Hub model, which `fetch` brings.
        hub_id: Hub id, or None.
        revision: Hub commit, or None.
        adapter: Folder of a user's adapter, or None.
        gguf: Which file of the Hub model holds it, or None.
        trust_remote_code: As the study says.
        files: Hash of every file that was hashed, with the state it was hashed in, by
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
    vocabulary: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
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
    def layers(self) -> int | None:
        """How many layers it has when it is cut; None where that is not known."""
        kept = None if self.cut is None else self.cut.layers
        if kept is None:
            return self.depth
        return kept if isinstance(kept, int) else len(kept)

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
        files = hashed_files(adapter, trust, pins)
        suffix = "+" + fingerprint_of(files)
    named = f"+{adapter.name}" if adapter else ""
    common = {"adapter": str(adapter) if adapter else None, "trust_remote_code": trust}
    file = _find_gguf(ref, base)
    hashed = remembered(file, pins) if file else ""
    folder = gguf_file.imported(file, hashed) if file else _find_folder(ref.model, base)
    if folder is not None:
        if ref.model not in zoo.names():
            checkpoint.check_folder(folder, trust_remote_code=trust)
        own = hashed_files(folder, trust, pins)
        if file:
            found = {Path(path).name: sha256 for path, (_, sha256) in own.items()}
            gguf_file.require_as_imported(folder, found)
        return Resolved(
            name=folder.name + named,
            fingerprint=(gguf_file.fingerprint(hashed) if file else fingerprint_of(own)) + suffix,
            folder=str(folder),
            files=own | files,
            **_facts(folder, adapted=adapter is not None),
            **common,
        )
    commit = pin(ref, pins, unreached)
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
    config = cached_file(ref.model, commit, "config.json")
    return Resolved(
        name=ref.model.split("/")[-1] + named,
        fingerprint=f"hub:{ref.model}@{commit}{suffix}",
        chat=cached_template(ref.model, commit),
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


def public(name: str) -> str:
    """Return a Hub id as it is, and of a folder's path its last part."""
    path = Path(name).expanduser()
    place = path.is_dir() or path.is_absolute() or gguf_file.is_gguf(name)
    return path.resolve().name if name and place else name


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
        ids = vocab if isinstance(vocab, dict) else {t: i for i, (t, *_) in enumerate(vocab)}
        ids = ids | {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
        tokens = max(ids.values(), default=-1) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{folder}: tokenizer.json holds no vocabulary ({first_line(e)})",
            remedy="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        ) from e
    return {"vocabulary": ids, "tokens": tokens}


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
