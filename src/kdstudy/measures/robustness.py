"""Robustness: what changes of an item that must not matter do to accuracy."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kdstudy.errors import InputError
from kdstudy.measures import accuracy
from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """One system's answers to a benchmark's variant, beside those to the same items as they are.

    Attributes:
        ids: The items, those that have the variant.
        before: Whether they are answered right as they are, the share of draws, [items].
        after: The same in the variant.
    """

    ids: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray

    @property
    def moves(self) -> np.ndarray:
        """What the variant does to each item, [items]: -1 where it is lost, 1 where it is won."""
        return self.after - self.before


def paired(original: Cell, variant: Cell, where: str) -> Changed:
    """Pair a variant's items with the same items of the original.

    Args:
        original: One system's answers to the benchmark.
        variant: To its variant.
        where: What is paired, for the error.

    Raises:
        InputError: The variant has an item that the original has not.
    """
    place = {name: i for i, name in enumerate(original.ids)}
    missing = [name for name in variant.ids if name not in place]
    if missing:
        raise InputError(
            f"{where}: item {missing[0]} is none of the benchmark's",
            why="a changed item is compared with itself as it was",
            remedy="score both on the same items",
        )
    rows = [place[name] for name in variant.ids]
    return Changed(variant.ids, accuracy.per_item(original)[rows], accuracy.per_item(variant))


def _moved(changed: Changed) -> Draws:
    return weighted_mean(changed.moves)


def _loss(variant: str, title: str, what: str, cannot: str) -> Loss:
    return Loss(
        name=f"robust_{variant}",
        title=title,
        unit=Unit.POINTS,
        worse="less",
        how="change",
        of=_moved,
        moves=lambda changed: changed.moves,
        pairs=2,
        defined_on=lambda changed: True,
        note=f"{title}: accuracy {what}, less that on the same items as they are; the student's "
        "difference less its teacher's.",
        cannot=f"{cannot}; a system that answers few items right has few to lose.",
        cost=f"the variant {variant} of a benchmark: its items answered once more",
    )


LOSSES: Mapping[str, Loss] = {
    "numbers": _loss(
        "numbers",
        "Accuracy, other numbers",
        "on items with other numbers and the answer that their equation then gives",
        "memory from numbers that happen to be harder: they have as many digits, but a sum may "
        "carry where it did not",
    ),
    "names": _loss(
        "names",
        "Accuracy, other names",
        "on items with other first names",
        "what names of other places or spellings would do: the new ones are common English ones",
    ),
    "irrelevant": _loss(
        "irrelevant",
        "Accuracy, irrelevant sentence",
        "with a true sentence before the question that has nothing to do with it",
        "what a sentence about the item's own things would do, which misleads more",
    ),
    "irrelevant_number": _loss(
        "irrelevant_number",
        "Accuracy, irrelevant number",
        "with such a sentence that has a number in it",
        "the number's share from the sentence's, which the irrelevant sentence tells",
    ),
    "template": _loss(
        "template",
        "Accuracy, another prompt",
        "in another prompt than the one trained on",
        "which of its words mattered, nor what a third prompt would do",
    ),
}
"""The line of the loss statement by variant."""
