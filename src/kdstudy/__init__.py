"""Distil language models, and learn what the student kept."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdstudy.distill.config import DistillConfig
    from kdstudy.distill.trainer import DistillTrainer

__version__ = "0.1.0"
__all__ = ["DistillConfig", "DistillTrainer", "__version__"]
_WHERE = {
    "DistillConfig": "kdstudy.distill.config",
    "DistillTrainer": "kdstudy.distill.trainer",
}


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: `kdstudy plan` answers at once.
    if name not in _WHERE:
        raise AttributeError(f"module 'kdstudy' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
