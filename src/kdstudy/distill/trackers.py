"""Trackers that training reports to: whether they are here; one of their runs per training."""

import contextlib
import importlib.util
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdstudy.errors import InputError

# Name in `report_to` -> the modules of which one must be here, and what installs it.
_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "azure_ml": (("azureml",), "azureml-mlflow"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub",), "dagshub mlflow"),
    "dvclive": (("dvclive",), "dvclive"),
    "flyte": (("flytekit",), "flytekit flytekitplugins-deck-standard"),
    "kubeflow": (("kubeflow",), "kubeflow"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}
# Those whose callback leaves its run open, so that the next training would go on in it.
_LEFT_OPEN = ("wandb", "swanlab", "comet_ml", "mlflow", "trackio")


def require_installed(names: Sequence[str], field: str) -> None:
    """Refuse trackers that are unknown or not installed, before anything runs.

    Args:
        names: As in `report_to`.
        field: What names them, for the message.

    Raises:
        InputError: Names the tracker and what installs it.
    """
    for name in names:
        if name not in _NEEDS:
            raise InputError(
                f"{field}: there is no tracker {name!r}", remedy=f"one of {', '.join(_NEEDS)}"
            )
        modules, packages = _NEEDS[name]
        if not any(map(_is_here, modules)):
            raise InputError(
                f"{field}: {name} is not installed",
                why="training would have nothing to report to",
                remedy=f"pip install {packages}, or leave {name} out of report_to",
            )


@contextlib.contextmanager
def own_run(names: Sequence[str], folder: Path, project: str, memory: Path) -> Iterator[None]:
    """Give a training run of a study one run of each tracker, and end it afterwards.

    What the user has set in the environment is kept, but for TensorBoard's folder, in which every
    training run has its own.

    Args:
        names: As in `report_to`.
        folder: Of this training run, for what TensorBoard writes.
        project: Name of the study.
        memory: File that keeps the run's number until the training is finished, so that a resumed
            one goes on in the same run.
    """
    if not names:
        yield
        return
    before = dict(os.environ)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    os.environ.setdefault("WANDB_PROJECT", project)
    os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"] = _number(memory), "allow"
    try:
        yield
    finally:
        for name in _LEFT_OPEN:
            if name in names and name in sys.modules:
                _end(name, sys.modules[name])
        for variable in {*os.environ, *before}:
            os.environ.pop(variable, None)
        os.environ.update(before)


def _number(memory: Path) -> str:
    if not memory.is_file() and os.environ.get("RANK", "0") == "0":
        memory.write_text(secrets.token_hex(4))
    return memory.read_text() if memory.is_file() else ""


def _end(name: str, module: Any) -> None:
    """End the run that is open, if one is: their ways of saying that none is are many."""
    with contextlib.suppress(Exception):
        if name == "mlflow":
            module.end_run()
        elif name == "comet_ml":
            module.end()
        elif name != "wandb" or module.run is not None:
            module.finish()


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a module without a spec was put in by hand
        return module in sys.modules
