"""Fields of TrainingArguments that are not taken: refused, or known to do nothing."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import integration_utils

from kdstudy.distill import trackers
from kdstudy.errors import InputError

_TO_LOADERS = ("split_batches", "dispatch_batches")


def require_supported(
    args: TrainingArguments, refused: Mapping[str, tuple[str, str]], idle: Mapping[str, str]
) -> None:
    """Refuse fields that cannot be kept, and warn of those that change nothing.

    Args:
        args: As the user gave them: `TrainingArguments.__post_init__` has not run.
        refused: Why, and what to do instead, by field.
        idle: Why a field changes nothing here, and nothing that anybody would miss.

    Raises:
        InputError: Names the field, why, and what to do instead.
    """
    set_by_user = {
        f.name for f in dataclasses.fields(TrainingArguments) if getattr(args, f.name) != _usual(f)
    }
    asked = {name for name, value in _by_launcher().items() if value}
    for name, (why, remedy) in refused.items():
        if name in set_by_user | asked:
            raise InputError(f"DistillConfig: {name} is not supported", why=why, remedy=remedy)
    _require_length(args)
    _require_own_loader(args.accelerator_config)
    for name in sorted(set_by_user & idle.keys()):
        logging.getLogger(__name__).warning("DistillConfig: %s does nothing: %s", name, idle[name])


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed; a callback put in one's place needs no package."""
    own = [
        name
        for name, callback in integration_utils.INTEGRATION_TO_CALLBACK.items()
        if not callback.__module__.startswith("transformers.")
    ]
    trackers.require_installed([n for n in names if n not in own], "DistillConfig: report_to")


def _usual(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _by_launcher() -> dict[str, bool]:
    """Return what `accelerate launch` asks for, in the environment."""
    return {
        "deepspeed": os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true",
        "torch_compile": os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO",
    }


def _require_length(args: TrainingArguments) -> None:
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        raise InputError(
            f"DistillConfig: max_steps {args.max_steps} and num_train_epochs "
            f"{args.num_train_epochs:g} are no training",
            remedy="set one of them above 0; evaluate() measures a student as it is",
        )


def _require_own_loader(config: Any) -> None:
    given = config if isinstance(config, dict) else {}
    for name in _TO_LOADERS:
        if given.get(name):
            raise InputError(
                f"DistillConfig: accelerator_config {name} is not supported",
                why="each device takes its own rows of a step, which are planned before the run",
                remedy="leave it out; per_device_train_batch_size is each device's",
            )
