"""Teacher hacking: a run comes ever closer to its teacher and ever further from the truth.

After Tiapkin et al. 2025 (arXiv 2502.02671). Over a run's evaluations on validation rows, the
distance to the teacher is the method's own loss, the distance to the truth the cross-entropy of the
text.
"""

import dataclasses
from collections.abc import Mapping, Sequence

LEAST_EVALUATIONS = 4
"""Of fewer points no course can be told."""
MARGIN = 0.02
"""Both distances must change by this share of themselves; less is taken for noise (judgement)."""

NOTE = (
    "Teacher hacking: over the evaluations of a run, its loss (the distance to the teacher) "
    f"still falls by {MARGIN:.0%} or more after the cross-entropy of the validation text (the "
    f"distance to the truth) was lowest, while that rises by {MARGIN:.0%} or more."
)
CANNOT = (
    "It cannot tell whether answers suffer, nor, with no interval, a small course from noise; "
    "where the loss holds other terms it is not the distance to the teacher alone."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """How a run's two distances went from where the cross-entropy was lowest to the end.

    Attributes:
        step: Where the cross-entropy was lowest.
        last: The last evaluation's step.
        teacher: Relative change of the distance to the teacher since then.
        truth: Relative change of the distance to the truth.
    """

    step: int
    last: int
    teacher: float
    truth: float

    @property
    def hacked(self) -> bool:
        """Whether the one fell on while the other rose."""
        return self.teacher <= -MARGIN and self.truth >= MARGIN


def course(curve: Sequence[Mapping[str, float]]) -> Course | None:
    """Return a run's course, None where it has too few evaluations.

    Args:
        curve: Of each evaluation `step`, `eval_loss` and `eval_cross_entropy`, in order.
    """
    known = [p for p in curve if p.get("eval_loss") and p.get("eval_cross_entropy")]
    if len(known) < LEAST_EVALUATIONS:
        return None
    best, last = min(known, key=lambda p: p["eval_cross_entropy"]), known[-1]
    return Course(
        step=int(best["step"]),
        last=int(last["step"]),
        teacher=last["eval_loss"] / best["eval_loss"] - 1,
        truth=last["eval_cross_entropy"] / best["eval_cross_entropy"] - 1,
    )
