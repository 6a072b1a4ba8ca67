"""torch.compile where it pays, which is on a GPU; where it fails, the plain way gives the same."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

_broken: set[tuple[Callable, str]] = set()


def attempt(function: Callable, first: Tensor, *rest: Any, **settings: Any) -> Any | None:
    """Return what `function`, compiled, gives; None where it cannot be compiled.

    Nothing is written to the arguments in that case. A second try on the same kind of device is
    not made.

    Args:
        function: Of the module's level, so that it is compiled once for all lengths.
        first: A tensor of the device in question.
        rest: Further arguments.
        settings: Keywords.
    """
    key = function, first.device.type
    if key in _broken:
        return None
    try:
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
