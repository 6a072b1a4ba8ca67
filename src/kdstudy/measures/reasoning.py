"""Whether the final answer follows the reasoning before it."""

import numpy as np
import pandas as pd

from kdstudy.measures.base import Draws, weighted_mean
from kdstudy.measures.probe import Numbers, Probe
from kdstudy.measures.units import Unit

TOLD = ("followed", "kept")
"""Outcomes (`records.Continued`) of which something can be said."""


def beside(own: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Return outcomes of a system and its reference by item: `example_id`, `own`, `reference`.

    Args:
        own: Columns of `records.ReasoningRow`.
        theirs: The same of its reference, of the same items.
    """
    columns = ["example_id", "outcome"]
    both = own[columns].merge(theirs[columns], on="example_id", validate="1:1")
    return both.set_axis(["example_id", "own", "reference"], axis=1)


def both_told(rows: pd.DataFrame) -> pd.Series:
    """Return of which items something can be said of both."""
    return rows.own.isin(TOLD) & rows.reference.isin(TOLD)


def _follows(whose: str) -> Numbers:
    def share(rows: pd.DataFrame) -> Draws:
        return weighted_mean(
            (rows[whose] == TOLD[0]).to_numpy(float), among=both_told(rows).to_numpy()
        )

    return share


def _changes(rows: pd.DataFrame) -> np.ndarray:
    own, theirs = ((rows[whose] == TOLD[0]).to_numpy(float) for whose in ("own", "reference"))
    return np.where(both_told(rows), own - theirs, np.nan)


PROBE = Probe(
    name="reasoning",
    title="Answers that follow their reasoning",
    unit=Unit.SHARE,
    worse="less",
    student=_follows("own"),
    reference=_follows("reference"),
    counted=both_told,
    changes=_changes,
    note="Answers that follow their reasoning: one result in a right answer is changed and the "
    "model goes on from there; the share of answers that come out otherwise, on the items where "
    "student and teacher could both be asked so.",
    cannot="an answer that ignores its reasoning from one that notices the mistake and mends it, "
    "nor one that follows the number from one that is thrown off by it, nor anything of answers "
    "that were wrong, or state no equation whose result they use again. An answer of one equation "
    "shows no more than that its last sentence repeats the result.",
    cost="each model going on twice from its own right answers (`statement.reasoning_items`)",
)
