"""Of which kinds is an item: every filter of the item browser, decided for every row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdstudy.compared_pairs import compared_pairs, own_sft
from kdstudy.evaluation.fidelity import HIGH_BLEU, HIGH_STEPS, LOW_BLEU, LOW_STEPS
from kdstudy.measures.cell import GROUPS
from kdstudy.records import OUTCOMES, System

KINDS = {
    "gained": "newly right",
    "lost": "newly wrong",
    "same-low": f"same answer, low fidelity (BLEU < {LOW_BLEU:g})",
    "same-low-steps": f"same answer, other steps (shared < {LOW_STEPS:g})",
    "wrong-faithful": f"wrong, yet faithful (BLEU ≥ {HIGH_BLEU:g})",
    "wrong-faithful-steps": f"wrong, by the teacher's steps (shared ≥ {HIGH_STEPS:g})",
    "wrong-alike": "both wrong in the same way",
    "truncated": "truncated",
    "unparsed": "no answer found",
    "contaminated": "question is in the corpus",
}
"""Kinds of items and their names; the paper's Table 9 is `same-low` and `wrong-faithful`."""

KEY = ["benchmark", "example_id", "sample"]
FREE = "rated"
CODE = {outcome: code for code, outcome in enumerate((*OUTCOMES, FREE))}

Run = dict[str, str]
"""Labels of a distilled system (`run`), its `teacher` and its `sft`; "" for one without texts."""


@dataclass(frozen=True)
class Measured:
    """Every graded text and every comparison that the runs need, by item and by run.

    A place is a row number of `items` or `pairs`, -1 where there is none.

    Attributes:
        keys: One row per item and draw, sorted.
        items: Graded texts of the systems in `index`, with the `CODE` of their outcomes.
        pairs: Comparisons of the systems in `index`.
        runs: One per distilled system with texts.
        index: Column of each label in `place`.
        place: Of each text, item by system.
        pair_place: Of each comparison, by its two labels: an array over items.
    """

    keys: pd.DataFrame
    items: pd.DataFrame
    pairs: pd.DataFrame
    runs: Sequence[Run]
    index: dict[str, int]
    place: np.ndarray
    pair_place: dict[tuple[str, str], np.ndarray]

    def outcomes(self, role: str) -> np.ndarray:
        """Return, item by run, the outcome's `CODE` of one role of the run, -1 without a text."""
        columns = [self.index.get(run[role], len(self.index)) for run in self.runs]
        nobody = np.full((len(self.keys), 1), -1)
        return _take(self.items.code, np.hstack([self.place, nobody])[:, columns], -1)

    def with_teacher(self, column: str) -> np.ndarray:
        """Return, item by run, a column of the run's comparison with its teacher; NaN for none."""
        found = np.full((len(self.keys), len(self.runs)), -1)
        for i, run in enumerate(self.runs):
            found[:, i] = self.pair_place.get((run["run"], run["teacher"]), -1)
        return _take(self.pairs[column], found, math.nan)

    def asked(self) -> pd.DataFrame:
        """Return, by item, a row of `items`: its question, gold and overlap are every system's."""
        return self.items.iloc[self.place.max(axis=1, initial=-1)]


def measure(
    items: pd.DataFrame, pairs: pd.DataFrame, systems: Sequence[System], first: str
) -> Measured:
    """Lay out what `browse.browser_data` is given; the run `first` comes first."""
    runs = sorted(_runs(systems, set(items.system)), key=lambda run: run["run"] != first)
    shown = dict.fromkeys(label for run in runs for label in run.values() if label)
    index = {label: i for i, label in enumerate(shown)}
    items = items[items.system.isin(index)].reset_index(drop=True)
    items = items.assign(code=items.outcome.map(CODE))
    keys = items[KEY].drop_duplicates().sort_values(KEY, ignore_index=True)
    known = pd.MultiIndex.from_frame(keys)
    place = np.full((len(keys), len(index)), -1)
    row = known.get_indexer(pd.MultiIndex.from_frame(items[KEY]))
    place[row, items.system.map(index).to_numpy(int)] = np.arange(len(items))
    compared = {pair for pair in compared_pairs(systems) if index.keys() >= {*pair}}
    inside = [pair in compared for pair in zip(pairs.system, pairs.reference, strict=True)]
    pairs = pairs[np.array(inside, dtype=bool)].reset_index(drop=True)
    row = known.get_indexer(pd.MultiIndex.from_frame(pairs[KEY]))
    pair_place = {}
    for pair, places in pairs.groupby(["system", "reference"]).indices.items():
        places = places[row[places] >= 0]  # one of the two may have no text here
        pair_place[pair] = np.full(len(keys), -1)
        pair_place[pair][row[places]] = places
    return Measured(keys, items, pairs, runs, index, place, pair_place)


def kinds_of(known: Measured) -> dict[str, np.ndarray]:
    """Return, for each of `KINDS` that the rows can tell, whether item (row) of run (column) is.

    Without shared steps or a corpus to look into, the kinds that need them are left out: none
    found is not the same as not looked for.
    """
    own, before, teacher = (known.outcomes(role) for role in ("run", "sft", "teacher"))
    right, wrong = own == CODE["correct"], own == CODE["wrong"]
    agree, bleu, shared = (known.with_teacher(c) for c in ("agree", "bleu", "steps"))
    same = (agree == 1) & (own >= 0)
    overlap = known.asked().overlap
    contaminated = overlap.isin(GROUPS["contaminated"]).to_numpy()[:, None]
    found = {
        "gained": right & (before >= 0) & (before != CODE["correct"]),
        "lost": (own >= 0) & ~right & (before == CODE["correct"]),
        "same-low": same & (bleu < LOW_BLEU),
        "same-low-steps": same & (shared < LOW_STEPS),
        "wrong-faithful": wrong & (bleu >= HIGH_BLEU),
        "wrong-faithful-steps": wrong & (shared >= HIGH_STEPS),
        "wrong-alike": same & ~right & (teacher >= 0) & (teacher != CODE["correct"]),
        "truncated": own == CODE["truncated"],
        "unparsed": own == CODE["unparsed"],
        "contaminated": (own >= 0) & contaminated,
    }
    told = {"steps": known.pairs.steps.notna().any(), "contaminated": (overlap != "").any()}
    return {kind: at for kind, at in found.items() if told.get(kind.rpartition("-")[2], True)}


def _take(values: pd.Series, place: np.ndarray, absent: float) -> np.ndarray:
    return np.append(values.to_numpy(float), absent)[place]  # -1 is the one appended


def _runs(systems: Sequence[System], known: set[str]) -> list[Run]:
    found = []
    for s in sorted(systems, key=lambda s: bool(s.ablation)):
        if s.kind != "distilled" or s.label not in known:
            continue
        sft = own_sft(s, systems)
        for teacher in s.teachers or ("",):
            roles = {"teacher": teacher, "sft": sft.label if sft else ""}
            there = {role: label if label in known else "" for role, label in roles.items()}
            found.append({"run": s.label, **there})
    return found
