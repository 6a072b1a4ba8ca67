"""Distil language models, and learn what the student kept."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdstudy.api.comparing import analyze, compare
    from kdstudy.api.evaluating import EvaluationResult, evaluate
    from kdstudy.api.studies import StudyResult, run_study
    from kdstudy.distill.config import DistillConfig
    from kdstudy.distill.trainer import DistillTrainer

__version__ = "0.1.0"
__all__ = [
    "DistillConfig",
    "DistillTrainer",
    "EvaluationResult",
    "StudyResult",
    "__version__",
    "analyze",
    "compare",
    "evaluate",
    "run_study",
]
_WHERE = {
    "DistillConfig": "kdstudy.distill.config",
    "DistillTrainer": "kdstudy.distill.trainer",
    "EvaluationResult": "kdstudy.api.evaluating",
    "StudyResult": "kdstudy.api.studies",
    "analyze": "kdstudy.api.comparing",
    "compare": "kdstudy.api.comparing",
    "evaluate": "kdstudy.api.evaluating",
    "run_study": "kdstudy.api.studies",
}


def __getattr__(name: str) -> Any:
    # Importing the package must not import torch: `kdstudy plan` answers at once.
    if name not in _WHERE:
        raise AttributeError(f"module 'kdstudy' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
