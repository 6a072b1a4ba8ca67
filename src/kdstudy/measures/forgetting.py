"""Beside its base: what training added where it was aimed, and took elsewhere."""

from kdstudy.measures import accuracy
from kdstudy.measures.accuracy_kept import right
from kdstudy.measures.base import Loss
from kdstudy.measures.units import Unit

LOSSES = (
    Loss(
        name="forgetting",
        title="Forgetting",
        unit=Unit.SHARE,
        worse="less",
        how="change",
        against="base",
        where="elsewhere",
        of=right,
        moves=accuracy.per_item,
        defined_on=lambda cell: not cell.text,
        note="Forgetting: the student's accuracy less its base's, on benchmarks of another domain "
        "than the corpus.",
        cannot="whether knowledge is gone or only the form of the answer, which training may "
        "change; by likelihood no form is asked for.",
        cost="benchmarks of another domain than the corpus",
    ),
    Loss(
        name="over_base",
        title="Accuracy over its base",
        unit=Unit.SHARE,
        worse="less",
        how="change",
        against="base",
        where="home",
        of=right,
        moves=accuracy.per_item,
        defined_on=lambda cell: not cell.text,
        note="Accuracy over its base: the student's accuracy less that of its model before "
        "training, on the other benchmarks.",
        cannot="what of it the teacher gave, which the gain over SFT tells.",
    ),
)
