"""The machine: what computes, where results go, and what must be downloaded first."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdstudy.doctor.facts import MachineFacts
from kdstudy.models.resolve import Resolved

_TIMEOUT = 5.0


def machine(store: Path, absent: Sequence[Resolved]) -> MachineFacts:
    """Return the facts; the network is asked only about models in `absent`.

    Args:
        store: The store's folder, there or not.
        absent: Models that are not on this machine.
    """
    import torch

    from kdstudy.models import load, memory

    cuda = torch.cuda.is_available()
    there = _existing(store)
    downloads, unreachable = _downloads(absent)
    return MachineFacts(
        device=torch.cuda.get_device_name() if cuda else "cpu",
        cuda=cuda,
        bfloat16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        free=memory.free(load.device()),
        vllm=importlib.util.find_spec("vllm") is not None,
        store=str(store),
        unwritable=_unwritable(there),
        disk=shutil.disk_usage(there).free,
        downloads=downloads,
        unreachable=unreachable,
        download_disk=_download_disk() if downloads else 0,
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def _unwritable(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is a file"
    # A store's own folders may belong to somebody else than the one around them.
    for place in (folder, folder / "stages", folder / "locks"):
        try:
            if place.is_dir():
                with tempfile.TemporaryFile(dir=place) as f:
                    f.write(b"doctor")
        except OSError as e:
            return f"{place}: {e.strerror or e}"
    return ""


def _downloads(absent: Sequence[Resolved]) -> tuple[dict[str, int | None], str]:
    """Return what must be downloaded with its bytes, and why the Hub cannot be reached or ''."""
    if not absent:
        return {}, ""
    from huggingface_hub import HfApi, constants

    sizes: dict[str, int | None] = {str(model.hub_id): None for model in absent}
    if constants.HF_HUB_OFFLINE:
        return sizes, "HF_HUB_OFFLINE is set"
    api = HfApi()
    for model in absent:
        try:
            found = api.model_info(
                model.hub_id, revision=model.revision, files_metadata=True, timeout=_TIMEOUT
            )
        # Whatever the network and the libraries around it raise: it cannot be reached.
        except Exception as e:
            return sizes, f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"[:200]
        weights = [s.size for s in found.siblings or () if s.rfilename.endswith(".safetensors")]
        sizes[str(model.hub_id)] = sum(weights) if weights and all(weights) else None
    return sizes, ""


def _download_disk() -> int:
    from huggingface_hub import constants

    return shutil.disk_usage(_existing(Path(os.path.abspath(constants.HF_HUB_CACHE)))).free
