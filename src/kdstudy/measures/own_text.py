"""Exposure bias: how much further a student is from its teacher on text of its own.

After Arora et al. 2022 (arXiv 2204.01171), who set the error on a model's own contexts beside that
on contexts of an oracle; here the oracle is the teacher, and its contexts are its own answers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdstudy.measures.base import Draws
from kdstudy.measures.probe import Numbers, Probe
from kdstudy.measures.units import Unit
from kdstudy.records import POSITION_BINS

BINS: Sequence[str] = [
    *(f"{a + 1}-{b}" for a, b in zip((0, *POSITION_BINS), POSITION_BINS, strict=False)),
    f"from {POSITION_BINS[-1] + 1}",
]
"""What the bins of positions are called."""
DISTANCE = "kl_student_teacher"
OF: Mapping[str, str] = {"own": "its own", "reference": "its teacher's"}
"""The two texts, in words."""


def within(rows: pd.DataFrame, name: str, part: int | None = None) -> np.ndarray:
    """Return of each row a sum over positions.

    Args:
        rows: Columns of `records.OwnTextRow`.
        name: Of the column.
        part: Number of the bin; None for all of them.
    """
    found = np.array([*rows[name]], dtype=float).reshape(len(rows), len(BINS))
    return found.sum(axis=1) if part is None else found[:, part]


def per_token(rows: pd.DataFrame, name: str, part: int | None = None) -> Draws:
    """Return a mean over tokens as a function of rows' weights; arguments as for `within`."""
    both = np.column_stack([within(rows, name, part), within(rows, "tokens", part)])

    def mean(weights: np.ndarray) -> np.ndarray:
        sums, tokens = (weights @ both).T
        return np.divide(sums, tokens, out=np.full(len(sums), np.nan), where=tokens > 0)

    return mean


def _on(text: str) -> Numbers:
    return lambda rows: per_token(rows, f"{text}_{DISTANCE}")


PROBE = Probe(
    name="own_text",
    title="KL(student, teacher) on its own text",
    unit=Unit.NATS,
    worse="more",
    student=_on("own"),
    reference=_on("reference"),
    counted=lambda rows: within(rows, "tokens") > 0,
    note="KL(student, teacher) on its own text: nats per token on what the student answered, "
    "beside that on what its teacher answered, at the positions that both answers have.",
    cannot="why the two part: a teacher that is unsure on text that is not its own makes the gap "
    "as well as a student that is lost; nor anything behind the end of the shorter answer.",
    cost="both models reading both answers (`statement.own_text_items`)",
)
