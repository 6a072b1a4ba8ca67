"""What of a model is kept, from what a study says; never imports torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kdstudy.errors import InputError

_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

CUT = "cut.json"
"""Name of the file in which a `cut` stage says what it kept."""

By = Literal["spacing", "influence"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """What a study keeps of a model.

    Attributes:
        layers: How many layers, or which; None for all.
        by: How layers are chosen where their number is given: `spacing`, evenly; `influence`, those
            that change their input most on training rows.
        intermediate: How many neurons of each layer's MLP; None for all.
    """

    layers: int | tuple[int, ...] | None = None
    by: By = "spacing"
    intermediate: int | None = None

    @property
    def measured(self) -> bool:
        """Whether the model has to be measured on training rows first."""
        return self.by == "influence" or self.intermediate is not None

    def config(self) -> dict[str, Any]:
        """Return what a stage's key says of it; a field that is not used is left out."""
        found: dict[str, Any] = {} if self.layers is None else {"layers": self.layers}
        found |= {} if self.by == "spacing" else {"by": self.by}
        return found | ({} if self.intermediate is None else {"intermediate": self.intermediate})

    @property
    def mark(self) -> str:
        """What is behind a fingerprint: `[6]`, `[0,1,5]`, `[6 by influence, intermediate 64]`."""
        return self._bracket("" if self.layers is None else written(self.layers))

    @property
    def called(self) -> str:
        """What is behind a name: `[6 layers]`, as much of `[6 layers by influence]`."""
        if self.layers is None:
            return self._bracket("")
        many = self.layers if isinstance(self.layers, int) else len(self.layers)
        return self._bracket(f"{many} layers")

    def _bracket(self, layers: str) -> str:
        by = "" if self.by == "spacing" else f" by {self.by}"
        width = "" if self.intermediate is None else f"intermediate {self.intermediate}"
        return f"[{', '.join(part for part in (layers + by, width) if part)}]"


def depth(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a config.json says that a model has, or None."""
    config = config.get("text_config") or config
    return next((config[name] for name in _DEPTH if isinstance(config.get(name), int)), None)


def width(config: Mapping[str, Any]) -> int | None:
    """Return how many neurons a config.json says that each layer's MLP has, or None."""
    config = config.get("text_config") or config
    found = config.get("intermediate_size")
    return found if isinstance(found, int) else None


def evenly(keep: int, of: int) -> list[int]:
    """Return `keep` of `of` layers, evenly spaced; the first and the last are among them.

    Their distance is real and their numbers are rounded, a half upwards.
    """
    return [(2 * i * (of - 1) + keep - 1) // (2 * (keep - 1)) for i in range(keep)]


def chosen(layers: int | Sequence[int], of: int, model: str) -> list[int]:
    """Return the numbers of the layers that are kept.

    Args:
        layers: How many, or which, in ascending order.
        of: How many the model has.
        model: What to call it in messages.

    Raises:
        InputError: There are not so many, or nothing would be cut.
    """
    many = layers if isinstance(layers, int) else len(layers)
    last = of - 1 if isinstance(layers, int) else layers[-1]
    if many > of or last >= of:
        asked = f"{many} of them are asked for" if many > of else f"layer {last} is asked for"
        raise InputError(
            f"layers: {model} has {of} layers, and {asked}",
            remedy=f"the last is {of - 1}: they are counted from 0",
        )
    if many == of:
        raise InputError(
            f"layers: {model} has {of} layers, and all are kept", remedy="leave layers out"
        )
    return evenly(layers, of) if isinstance(layers, int) else list(layers)


def require_narrower(neurons: int, of: int, model: str) -> None:
    """Refuse a width that cuts nothing, with an InputError."""
    if neurons >= of:
        raise InputError(
            f"intermediate: the MLPs of {model} have {of} neurons, and {neurons} are asked for",
            remedy="give less, or leave intermediate out",
        )


def influential(keep: int, influence: Sequence[float]) -> list[int]:
    """Return the `keep` layers of the greatest influence, in their order.

    All are judged by one measurement of the whole model (ShortGPT, arXiv 2403.03853). Of two that
    are alike the earlier is kept.
    """
    ranked = sorted(range(len(influence)), key=lambda i: (-influence[i], i))
    return sorted(ranked[:keep])


def written(layers: int | Sequence[int]) -> str:
    """Return what a study says of layers as one text, alike for a list and a tuple."""
    return str(layers) if isinstance(layers, int) else ",".join(map(str, layers))
