"""What `train.precision: auto` means for a study: decided once in a store, and kept there.

A stage's key holds the type that was decided, never `auto`, which is another type on a GPU than on
a CPU: a store that moves from one to the other goes on in the type that it began with.
"""

from collections.abc import Sequence
from pathlib import Path

from kdstudy.config.schema import Study
from kdstudy.models.resolve import Resolved

_FLOAT32, _BFLOAT16 = "float32", "bfloat16"
_GPU = "on a GPU"


def settled(
    study: Study, students: Sequence[Resolved], pins: dict[str, str]
) -> tuple[Study, tuple[str, ...]]:
    """Return the study with its precision settled, and what there is to say about that.

    Args:
        study: The study.
        students: Its students; bfloat16 is taken where it is right for all of them.
        pins: The store's memory, read and added to: what was decided stands, on whatever machine.
    """
    if study.train.precision != "auto":
        return study, ()
    found = {student.name: _pinned(student, pins) for student in students}
    if _FLOAT32 in found.values():
        return _with(study, _FLOAT32), ()
    said = ", ".join(f"{name} {pin.removeprefix(_BFLOAT16).strip()}" for name, pin in found.items())
    return _with(study, _BFLOAT16), (
        f"train.precision: auto is bfloat16, as this store settled it ({said}); write float32 to "
        "have that",
    )


def left_to_a_gpu(asked: str, settled: str) -> str:
    """Return what to say where a GPU would be faster in another type than a store settled on.

    Args:
        asked: `train.precision` as it was written.
        settled: What the study computes in.
    """
    if (asked, settled) != ("auto", _FLOAT32):
        return ""
    from kdstudy.models import precision

    if precision.gpu() != _BFLOAT16:
        return ""
    return (
        "train.precision: auto is float32, which this store settled without this GPU; write "
        "bfloat16 to have that, and every stage is built anew in it"
    )


def _with(study: Study, precision: str) -> Study:
    train = study.train.model_copy(update={"precision": precision})
    return study.model_copy(update={"train": train})


def _pinned(student: Resolved, pins: dict[str, str]) -> str:
    """Return `float32`, `bfloat16 on a GPU` or `bfloat16` with its gain on a CPU.

    Where a model is not here yet there is no gain to remember.
    """
    key = f"precision:{student.whole}"
    # Older stores hold `auto`, of which nobody knows what it was.
    if pins.get(key, "auto") != "auto":
        return pins[key]
    from kdstudy.models import precision

    there = precision.gpu()
    if there is None and (student.folder is None or student.trust_remote_code):
        return _FLOAT32
    if there is not None:
        pins[key] = f"{there} {_GPU}" if there == _BFLOAT16 else there
    else:
        gain = precision.gain(Path(student.folder or "")) or 0.0
        fast = gain >= precision.MARGIN
        pins[key] = f"{_BFLOAT16} {gain:.2f} times as fast as float32" if fast else _FLOAT32
    return pins[key]
