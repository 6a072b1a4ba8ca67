"""The machine: what computes, where results go, and what must be downloaded first."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kdstudy.doctor.facts import MachineFacts
from kdstudy.models.resolve import Resolved

_TIMEOUT = 5.0


def machine(store: Path, absent: Sequence[Resolved]) -> MachineFacts:
    """Return the facts; the network is asked only about models in `absent`.

    Args:
        store: The store's folder, there or not.
        absent: Models that are to be downloaded.
    """
    import torch

    from kdstudy.models import load, memory

    cuda = torch.cuda.is_available()
    downloads = _downloads(absent)
    return MachineFacts(
        device=torch.cuda.get_device_name() if cuda else "cpu",
        cuda=cuda,
        bfloat16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        free=memory.free(load.device()),
        store=str(store),
        disk=shutil.disk_usage(_existing(store)).free,
        downloads=downloads,
        download_disk=_download_disk() if downloads else 0,
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def _downloads(absent: Sequence[Resolved]) -> dict[str, int | None]:
    """Return what must be downloaded with its bytes, None where these are not known."""
    from huggingface_hub import HfApi

    sizes: dict[str, int | None] = {str(model.hub_id): None for model in absent}
    for model in absent:
        with contextlib.suppress(Exception):  # then its size is not known
            found = HfApi().model_info(
                model.hub_id, revision=model.revision, files_metadata=True, timeout=_TIMEOUT
            )
            weights = [s.size for s in found.siblings or () if s.rfilename.endswith(".safetensors")]
            sizes[str(model.hub_id)] = sum(weights) if weights and all(weights) else None
    return sizes


def _download_disk() -> int:
    from huggingface_hub import constants

    return shutil.disk_usage(_existing(Path(os.path.abspath(constants.HF_HUB_CACHE)))).free
