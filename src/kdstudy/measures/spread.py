"""How far an item's draws spread: different answers, and the entropy of their shares."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdstudy.measures.base import Measure
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit


def entropy(answers: Sequence[str | None]) -> float:
    """Return the entropy of the shares of an item's answers, in nats; no answer counts as one.

    It is the estimate from the shares themselves, which is too low by about (answers - 1) / 2n.
    """
    shares = [count / len(answers) for count in Counter(answers).values()]
    return -math.fsum(share * math.log(share) for share in shares)


def _different(cell: Cell) -> np.ndarray:
    return np.array([float(len(set(item) - {None})) for item in cell.answers()])


def _entropy(cell: Cell) -> np.ndarray:
    return np.array([entropy(item) for item in cell.answers()])


MEASURES = (
    Measure(
        name="distinct_answers",
        unit=Unit.NUMBER,
        column="Distinct answers",
        note="Distinct answers: how many different answers an item's draws give.",
        per_item=_different,
        of="answers",
        draws=2,
    ),
    Measure(
        name="answer_entropy",
        unit=Unit.NUMBER,
        column="Answer entropy",
        note=(
            "Answer entropy: of the shares of an item's answers, in nats; no answer counts as one. "
            "It grows with the number of draws: compare systems with equally many."
        ),
        per_item=_entropy,
        of="answers",
        draws=2,
    ),
)
