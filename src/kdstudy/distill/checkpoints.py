"""Which checkpoint a run goes on from, whether it can, and what it holds beside Trainer's files."""

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kdstudy.errors import InputError

_COUNTS = "counts.json"
_EXTRA = "method.safetensors"


@dataclasses.dataclass(kw_only=True)
class Counts:
    """What a run has trained on so far.

    Attributes:
        tokens: Scored tokens.
        real: Positions that held a token.
        cells: Positions, padding included.
        written: Tokens that the student wrote for a teacher of other tokens.
        compared: How many of them were compared.
        pace: State of what moves while it goes on (`methods.objective.Pace`).
    """

    tokens: int = 0
    real: int = 0
    cells: int = 0
    written: int = 0
    compared: int = 0
    pace: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What steps are counted in: a checkpoint of another shape is not of the same run.

    Attributes:
        rows: Of the dataset.
        rows_per_step: Over all devices.
    """

    rows: int
    rows_per_step: int


class Best(TrainerCallback):
    """Finds the best checkpoint again where a run's folder was moved between two tries of it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Correct the path; one that names nothing makes Trainer keep the last weights."""
        best = state.best_model_checkpoint
        if state.best_global_step and not (best and Path(best).is_dir()):
            here = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
            state.best_model_checkpoint = str(here) if here.is_dir() else None


def last(folder: str | Path) -> Path | None:
    """Return the whole checkpoint of the most steps; one that was torn while written is none."""
    return max(filter(_is_whole, _all(folder)), key=_step, default=None)


def remove_torn(folder: str | Path) -> None:
    """Remove the checkpoints that are not whole."""
    for checkpoint in _all(folder):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)


def require_resumable(folder: Path, shape: Shape) -> None:
    """Refuse a checkpoint that a run cannot go on from as if it had never stopped.

    Args:
        folder: The checkpoint.
        shape: The run's.

    Raises:
        InputError: It is not whole, holds no optimizer, or counts steps of another size.
    """
    if not _is_whole(folder):
        raise InputError(
            f"{folder} is no whole checkpoint",
            why=f"it has no {TRAINER_STATE_NAME} that can be read, which is written last",
            remedy="resume_from_checkpoint=True takes the last whole one",
        )
    if not (folder / OPTIMIZER_NAME).is_file():
        raise InputError(
            f"{folder} has no {OPTIMIZER_NAME}",
            why="with save_only_model a checkpoint holds the student alone; the optimizer would "
            "start anew, and the result would be another than without the interruption",
            remedy="leave save_only_model out for runs that are to be resumed; to train on from "
            "these weights in a new run, give this folder as the model",
        )
    found = _read(folder)
    theirs, rows = found.get("rows_per_step"), found.get("rows")
    if theirs not in (None, shape.rows_per_step):
        raise InputError(
            f"{folder} was written by a run of {theirs} rows a step, and this one has "
            f"{shape.rows_per_step}",
            why="what was trained on is counted in steps: rows would be left out or seen twice",
            remedy="set per_device_train_batch_size and gradient_accumulation_steps so that, times "
            f"the number of devices, they make {theirs} again",
        )
    if rows not in (None, shape.rows):
        logging.getLogger(__name__).warning(
            "%s was written by a run on %d rows, and this dataset has %d: the order of the rows is "
            "another, so that some are seen twice and others not", folder, rows, shape.rows,
        )  # fmt: skip


def write_extra(folder: Path, module: nn.Module | None) -> None:
    """Write the parameters of a method's own module (`Recipe.extra`), if it has any."""
    if module is not None and (state := module.state_dict()):
        save_file({name: value.contiguous() for name, value in state.items()}, folder / _EXTRA)


def read_extra(folder: Path, module: nn.Module | None) -> None:
    """Read them again.

    Raises:
        InputError: The checkpoint has none.
    """
    if module is None or not module.state_dict():
        return
    if not (folder / _EXTRA).is_file():
        raise InputError(
            f"{folder}: has no {_EXTRA}",
            why="the method trains parameters of its own beside the student's",
            remedy="start the run again",
        )
    module.load_state_dict(load_file(folder / _EXTRA))


def write_counts(folder: Path, counts: Counts, shape: Shape) -> None:
    """Keep what the run has trained on."""
    text = json.dumps(dataclasses.asdict(counts) | dataclasses.asdict(shape))
    (folder / _COUNTS).write_text(text)


def read_counts(folder: Path) -> Counts:
    """Return what `write_counts` kept."""
    found = _read(folder)
    known = [f.name for f in dataclasses.fields(Counts) if f.name in found]
    return Counts(**{name: found[name] for name in known})


def write_unlogged(
    folder: Path, rank: int, loss: float, since: int, means: Mapping[str, Sequence[float]]
) -> None:
    """Keep a device's losses since the last log.

    Args:
        folder: The checkpoint.
        rank: The device's number.
        loss: Their sum.
        since: Step of that log.
        means: What is logged beside them (`means.Means.state`).
    """
    kept = {"loss": loss, "since": since} | ({"means": dict(means)} if means else {})
    (folder / f"unlogged_{rank}.json").write_text(json.dumps(kept))


def read_unlogged(folder: Path, rank: int, world: int) -> tuple[float, int, dict[str, list[float]]]:
    """Return what `write_unlogged` kept for this device; the devices' mean if those were others."""
    every = sorted(folder.glob("unlogged_*.json"))
    files = [folder / f"unlogged_{rank}.json"] if len(every) == world else every
    found = [json.loads(file.read_text()) for file in files]
    every = [one.get("means", {}) for one in found]
    means = {
        name: [sum(both) / len(every) for both in zip(*(one[name] for one in every), strict=True)]
        for name in every[0]
    }
    return sum(one["loss"] for one in found) / len(found), found[0]["since"], means


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _COUNTS
    return json.loads(path.read_text()) if path.is_file() else {}


def _all(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _step(path) >= 0]


def _step(checkpoint: Path) -> int:
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", checkpoint.name)
    return int(found[1]) if found and checkpoint.is_dir() else -1


def _is_whole(checkpoint: Path) -> bool:
    # Trainer writes this file last.
    try:
        return "global_step" in json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
