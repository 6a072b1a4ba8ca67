"""torch.compile where it pays, which is on a GPU; where it fails, the plain way gives the same."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.config
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

DEVICES = frozenset({"cuda"})
"""Kinds of device on which compiling pays."""

# torch gives up on a function after 8 forms of it and runs it uncompiled; every divergence has one
# form for training and one for validation, in each type.
_FORMS = 128
_LIMIT = (
    "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
)

_broken: set[tuple[Callable, str]] = set()


def attempt(function: Callable, first: Tensor, *rest: Any, **settings: Any) -> Any | None:
    """Return what `function`, compiled, gives; None where that does not pay or fails.

    Nothing is written to the arguments in that case. A second try on the same kind of device is
    not made.

    Args:
        function: Of the module's level, so that it is compiled once for all lengths.
        first: A tensor of the device in question.
        rest: Further arguments.
        settings: Keywords.
    """
    key = function, first.device.type
    if first.device.type not in DEVICES or key in _broken:
        return None
    try:
        with torch._dynamo.config.patch({_LIMIT: _FORMS}):
            return _compiler(function)(first, *rest, **settings)
    except (InductorError, TorchDynamoException) as e:
        _broken.add(key)
        logging.getLogger(__name__).warning(
            "%s could not be compiled and runs uncompiled, which is slower (%s)",
            function.__name__.strip("_"),
            str(e).splitlines()[0],
        )
        return None


@functools.cache
def _compiler(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)
