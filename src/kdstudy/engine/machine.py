"""What computes: versions, hardware, and the most memory it took."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    "kdstudy", "torch", "transformers", "peft", "accelerate", "datasets",
    "sacrebleu", "scipy", "statsmodels", "numpy", "pandas",
)  # fmt: skip
_PROCESS = Path("/proc/self")


def environment() -> dict[str, Any]:
    """Return versions of what computes, and the hardware, as a manifest records them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpu": _gpu_name(),
    }
    return {"versions": dict(_versions()), "hardware": hardware}


# A stage is recorded with the versions that its process has loaded, whatever is installed since.
@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [
        line.split(":", 1)[1].strip() for line in text.split("\n") if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _gpu_name() -> str:
    torch = _with_gpu()
    return torch.cuda.get_device_name() if torch else ""


def _with_gpu() -> Any:
    # Asking torch costs its import; a stage that used a GPU has imported it already.
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() else None


def forget_peak() -> None:
    """Begin to watch memory anew."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")
    if torch := _with_gpu():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Return the most GiB since `forget_peak`: of the GPU if one is used, else of this process.

    None where the system does not say.
    """
    if torch := _with_gpu():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    try:
        text = (_PROCESS / "status").read_text()
    except OSError:
        return None
    kib = [line.split()[1] for line in text.split("\n") if line.startswith("VmHWM:")]
    return round(int(kib[0]) / 2**20, 3) if kib else None
