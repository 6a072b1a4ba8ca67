"""What of a model is kept, from what a study says; never imports torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kdstudy.errors import InputError

_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


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


def paired(
    which: Literal["even"] | Sequence[tuple[int, int]], student: int, teacher: int
) -> list[tuple[int, int]]:
    """Return pairs of layers, (student's, teacher's), both counted from 0.

    Args:
        which: The pairs; or `even`: every layer of the shallower model with layers of the other
            that are evenly spaced, first with first and last with last.
        student: How many layers the student has.
        teacher: How many the teacher has.

    Raises:
        InputError: A model has no such layer.
    """
    if which == "even":
        few, many = sorted((student, teacher))
        other = evenly(few, many) if few > 1 else [many - 1]
        numbers = (range(few), other) if student <= teacher else (other, range(few))
        return list(zip(*numbers, strict=True))
    for place, whose, of in ((0, "student", student), (1, "teacher", teacher)):
        for pair in which:
            if pair[place] >= of:
                raise InputError(
                    f"layers: layer {pair[place]} of the {whose} is asked for in {[*pair]}, and it "
                    f"has {of} layers",
                    remedy=f"the last is {of - 1}: they are counted from 0, the student's first",
                )
    return [*which]


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
