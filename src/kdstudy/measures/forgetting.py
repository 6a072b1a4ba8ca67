"""Forgetting: accuracy that a student's base had where nobody trained it."""

from kdstudy.measures.base import Loss
from kdstudy.measures.kept import right
from kdstudy.measures.units import Unit

LOSS = Loss(
    name="forgetting",
    title="Forgetting",
    unit=Unit.SHARE,
    worse="less",
    how="change",
    against="base",
    where="elsewhere",
    of=right,
    defined_on=lambda cell: not cell.text,
    note="Forgetting: the student's accuracy less its base's, on benchmarks of another domain "
    "than the corpus.",
    cannot="whether knowledge is gone or only the form of the answer, which training may change; "
    "by likelihood no form is asked for.",
    cost="benchmarks of another domain than the corpus",
)
