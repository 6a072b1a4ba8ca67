"""A Hub model's commit: remembered, asked for, or found in the cache of this machine."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdstudy.data.prompts import has_template
from kdstudy.errors import InputError
from kdstudy.models import checkpoint, gguf_file, zoo
from kdstudy.models.fetch import remembered

_UNPINNED = "unpinned"
_PATIENCE = 10  # seconds that the Hub may take to answer
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Unreachable(InputError):
    """A Hub model that is not here while the Hub cannot be asked; a folder would do."""


def pin(ref: Any, pins: dict[str, str], unreached: dict[str, str] | None) -> str:
    """Return the commit of a Hub model, or what `is_pinned` knows as none.

    Arguments and errors are those of `resolve.resolve`.
    """
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
    known = cached_file(model, commit, "config.json")
    if known is not None and not ref.gguf:
        config = json.loads(known.read_text(encoding="utf-8"))
        checkpoint.check_config(config, model, trust_remote_code=ref.trust_remote_code)
    return commit


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
    file = cached_file(local["hub_id"], local["revision"], local["gguf"])
    return file and gguf_file.imported(file, remembered(file, {} if pins is None else pins))


def cached_file(model: str, revision: str | None, name: str) -> Path | None:
    """Return a file of the copy that an earlier download left on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cached_template(model: str, commit: str) -> bool | None:
    """Return whether a Hub model has a chat template, if its tokenizer is on this machine."""
    found = cached_file(model, commit, "tokenizer_config.json")
    if found is None:
        return None
    # Without the weights it may be a copy of some files, and the template another.
    whole = _here({"hub_id": model, "revision": commit})
    return True if has_template(found.parent) else False if whole else None


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
        if cached := cached_file(model, revision, name):
            return cached.parents[len(Path(name).parts) - 1].name
        raise _unreachable(model, e) from e
    if not info.sha:
        raise InputError(f"{model}: the Hub names no commit for revision '{revision or 'main'}'")
    _check_listed(info, ref)
    return info.sha


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
            why="nothing runs before all models can be had",
            remedy=f"unset HF_HUB_OFFLINE; or `hf download {model}` where there is a network, and "
            f"set HF_HOME to that cache; or give a folder; {shipped}",
        )
    return kind(
        f"{model}: is neither a shipped model nor a folder here, and the Hub cannot be reached "
        f"({type(e).__name__})",
        why="nothing runs before all models can be had",
        remedy=f"bring the network up; or `hf download {model}` where there is one, and set "
        f"HF_HOME to that cache; or give a folder; {shipped}",
    )


def _here(local: Mapping[str, Any]) -> bool:
    weights = ("model.safetensors", "model.safetensors.index.json")
    weights = (local["gguf"],) if local.get("gguf") else weights
    return any(cached_file(local["hub_id"], local["revision"], name) for name in weights)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
