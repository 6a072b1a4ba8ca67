"""What `train.precision: auto` means for a study: decided once in a store, and kept there.

A stage's key holds `bfloat16` where a CPU was measured to be faster in it. Else it holds `auto`,
which is float32 on a CPU and bfloat16 on a GPU that has it, so that a study that is planned on a
machine without a GPU does not keep one that has it in float32.
"""

from collections.abc import Sequence
from pathlib import Path

from kdstudy.config.schema import Study
from kdstudy.models.resolve import Resolved

_FLOAT32 = "auto"


def settled(
    study: Study, students: Sequence[Resolved], pins: dict[str, str]
) -> tuple[Study, tuple[str, ...]]:
    """Return the study with its precision settled, and what there is to say about that.

    Args:
        study: The study.
        students: Its students; bfloat16 is taken where all are faster in it.
        pins: The store's memory, read and added to: what was measured stands, on whatever machine.
    """
    if study.train.precision != "auto":
        return study, ()
    found = {student.name: _pinned(student, pins) for student in students}
    if _FLOAT32 in found.values():
        return study, ()
    said = ", ".join(f"{name} {pin.split()[1]}" for name, pin in found.items())
    train = study.train.model_copy(update={"precision": "bfloat16"})
    return study.model_copy(update={"train": train}), (
        f"train.precision: auto is bfloat16, by a measurement that this store keeps ({said} times "
        "as fast as float32); write float32 to have that",
    )


def _pinned(student: Resolved, pins: dict[str, str]) -> str:
    """Return `bfloat16 GAIN`, or `auto`; a model that is not here yet is not remembered."""
    key = f"precision:{student.whole}"
    if key in pins:
        return pins[key]
    if student.folder is None or student.trust_remote_code:
        return _FLOAT32
    from kdstudy.models import precision

    gain = precision.gain(Path(student.folder)) or 0.0
    pins[key] = f"bfloat16 {gain:.2f}" if gain >= precision.MARGIN else _FLOAT32
    return pins[key]
