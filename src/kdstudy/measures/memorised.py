"""Memorised continuations: training rows that a student continues word for word."""

import pandas as pd

from kdstudy.measures.base import Draws, weighted_mean
from kdstudy.measures.probe import Numbers, Probe
from kdstudy.measures.units import Unit


def _more_than_held_out(whose: str) -> Numbers:
    """Return the share of training rows that are continued less that of held-out ones."""

    def share(rows: pd.DataFrame) -> Draws:
        hits, trained = rows[whose].to_numpy(float), rows.trained.to_numpy(bool)
        seen, others = weighted_mean(hits, trained), weighted_mean(hits, ~trained)
        return lambda weights: seen(weights) - others(weights)

    return share


PROBE = Probe(
    name="memorised",
    title="Training rows continued word for word",
    unit=Unit.SHARE,
    worse="more",
    against="base",
    student=_more_than_held_out("own"),
    reference=_more_than_held_out("base"),
    counted=lambda rows: pd.Series(True, index=rows.index),
    changes=lambda rows: rows.own.to_numpy(float) - rows.base.to_numpy(float),
    parts=lambda rows: rows.trained.to_numpy(bool),
    note="Training rows continued word for word: given the prompt and the first tokens of the "
    "response, the share of training rows whose next tokens are all the likeliest ones, less that "
    "of held-out rows.",
    cannot="a row that is remembered from one that is easy once rows like it are known, beyond "
    "what held-out rows show; nor what would come out under other beginnings, by sampling, or of "
    "text that a teacher wrote for it.",
    cost="student and base reading the rows (`statement.memory_rows`)",
)
