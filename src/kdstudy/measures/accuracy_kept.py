"""What a student keeps of its teacher's accuracy and of its ROUGE-L."""

from kdstudy.measures import accuracy, rouge_l
from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def right(cell: Cell) -> Draws:
    """Return the accuracy of a cell's answers."""
    return weighted_mean(accuracy.per_item(cell))


LOSSES = (
    Loss(
        name="accuracy_kept",
        title="Accuracy",
        unit=Unit.SHARE,
        worse="less",
        how="kept",
        of=right,
        moves=accuracy.per_item,
        defined_on=lambda cell: not cell.text,
        floor=lambda cell, chance: chance,
        note="Accuracy kept: the student's accuracy over its teacher's, both less what guessing "
        "scores.",
        cannot="whether the items that student and teacher answer right are the same ones, which "
        "agreement tells.",
    ),
    Loss(
        name="text_kept",
        title="ROUGE-L of free texts",
        unit=Unit.HUNDRED,
        worse="less",
        how="kept",
        of=lambda cell: weighted_mean(rouge_l.per_item(cell)),
        defined_on=lambda cell: cell.text,
        note="ROUGE-L kept: the student's mean ROUGE-L with the references over its teacher's.",
        cannot="whether a text is right or good: it counts shared words.",
    ),
)
