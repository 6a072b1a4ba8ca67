"""Lines of the loss statement for which models were asked again, as rows of its table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdstudy.analysis.flips import SAMPLED, flip_p, reaching
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from kdstudy.analysis.losses import COLUMNS, Groups, Row, over_items_and_seeds
from kdstudy.analysis.measures import AVERAGE
from kdstudy.errors import InputError
from kdstudy.measures import own_text
from kdstudy.measures.probe import Probe
from kdstudy.measures.probes import PROBES

Frames = Mapping[tuple[str, str], Mapping[str, pd.DataFrame]]
"""By run and teacher, and by benchmark: a row per item, of the same items for every run."""

CORPUS = "corpus rows"
"""What stands in a benchmark's place where the corpus is asked."""
LEAST = 10
"""A bin of positions is told of from so many texts on (judgement)."""

POSITIONS = [
    *("system", "teacher", "benchmark", "tokens", "text"),
    *("value", "low", "high", "sd", "seeds", "n", "ce_student", "ce_teacher"),
]
"""Of the table by position. `tokens` are positions from 1 on, `text` is whose text is read (`own`,
`reference`), or `gap`, that on the student's own less that on its teacher's; `value` is KL(student,
teacher), `ce_` the text's cross-entropy under each; `n` are texts."""


def probed(
    groups: Groups,
    found: Mapping[str, Frames],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """Return the rows of these lines, columns `COLUMNS` of `losses`.

    Args:
        groups: Of `losses.statement`.
        found: By name of the line.
        bootstrap: How items are drawn again.

    Raises:
        InputError: Runs of one system have other items.
    """
    rows = []
    for (system, teacher), runs in groups.items():
        for probe in PROBES:
            of_pairs = found.get(probe.name, {})
            told = [frames for run in runs if (frames := of_pairs.get((run.label, teacher)))]
            own = _rows(probe, told, bootstrap)
            rows += [{"system": system, "teacher": teacher, **row} for row in own]
    return pd.DataFrame(rows, columns=COLUMNS)


def by_position(
    groups: Groups, found: Frames, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """Return KL(student, teacher) on either text and its gap by position, columns `POSITIONS`.

    A bin is left out where fewer than `LEAST` texts of some run reach it.

    Args:
        groups: Of `losses.statement`.
        found: Of `own_text`.
        bootstrap: How items are drawn again.
    """
    rows = []
    for (system, teacher), runs in groups.items():
        told = [frames for run in runs if (frames := found.get((run.label, teacher)))]
        for benchmark in sorted({b for frames in told for b in frames}):
            own = _same_items([f[benchmark] for f in told if benchmark in f], benchmark)
            shared = {"system": system, "teacher": teacher, "benchmark": benchmark}
            rows += [shared | row for row in _of_bins(own, _drawn_apart(bootstrap, benchmark))]
    return pd.DataFrame(rows, columns=POSITIONS)


def _rows(
    probe: Probe, runs: Sequence[Mapping[str, pd.DataFrame]], bootstrap: Bootstrap
) -> list[Row]:
    """Return a line's rows: the mean over benchmarks, then each where there are several."""
    known: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    counts: dict[str, int] = {}
    changes: dict[str, np.ndarray] = {}
    chosen: dict[str, np.ndarray] = {}
    for benchmark in sorted({b for frames in runs for b in frames}):
        frames = _same_items([f[benchmark] for f in runs if benchmark in f], benchmark)
        weights = _weights(_drawn_apart(bootstrap, benchmark), len(frames[0]))
        numbers = [(probe.student(f)(weights), probe.reference(f)(weights)) for f in frames]
        if (
            len(numbers) == len(runs)
            and np.isfinite([n[0] for both in numbers for n in both]).all()
        ):
            known[benchmark] = numbers
            counts[benchmark] = min(int(np.sum(probe.counted(f))) for f in frames)
            if probe.changes is not None:
                changes[benchmark] = _of_items([probe.changes(f) for f in frames])
            if probe.parts is not None:
                chosen[benchmark] = probe.parts(frames[0])
    if not known:
        return [_nothing(probe, runs)] if runs else []
    parts = {AVERAGE: [*known], **({b: [b] for b in known} if len(known) > 1 else {})}
    rows = []
    for name, part in parts.items():
        row = _row(probe, name, [known[b] for b in part], part, sum(counts[b] for b in part))
        if changes and (row["alike"] or not math.isnan(row["low"])):
            own = [changes[b] for b in part]
            p = flip_p(own) if probe.parts is None else other_choices_p(own[0], chosen[part[0]])
            if math.isnan(row["low"]) and p >= 0.05:  # five items that all turn are five coins
                row |= {"low": row["value"], "high": row["value"], "alike": False}
            row["low"], row["high"] = reaching(row["low"], row["high"], p, 0.05)
        rows.append(row)
    return rows


def other_choices_p(values: np.ndarray, chosen: np.ndarray) -> float:
    """Return the two-sided p of chosen rows' mean less the others' among choices of so many rows.

    Choices are drawn, seeded; what lies as far out as the one seen counts as a whole.

    Args:
        values: Of each row, [rows].
        chosen: Which rows are chosen, [rows].
    """
    if np.ptp(values) < 1e-12:
        return math.nan
    sizes, counts = np.unique(np.round(values - values.mean(), 12), return_counts=True)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(counts, chosen.sum(), SAMPLED)
    sums, seen = np.abs(drawn @ sizes), abs(float((values - values.mean())[chosen].sum()))
    return (np.count_nonzero(sums >= seen - 1e-9) + 1) / (SAMPLED + 1)


def _of_items(changes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean change over the runs that there is one of, of each item with any."""
    known = ~np.isnan(changes)
    counts = known.sum(axis=0)
    return np.where(known, changes, 0).sum(axis=0)[counts > 0] / counts[counts > 0]


def _row(
    probe: Probe,
    name: str,
    numbers: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    part: Sequence[str],
    n: int,
) -> Row:
    """Return one row; `numbers` are student's and reference's by benchmark and run."""
    students, theirs = np.mean(np.array(numbers), axis=0).swapaxes(0, 1)  # [runs, 1 + draws]
    gap = students - theirs
    value, low, high, sd = over_items_and_seeds(gap, n - len(part))
    alike = bool(np.isfinite(gap).all() and np.abs(gap - gap[:, :1]).max() < 1e-12)
    return {
        "measure": probe.name,
        "benchmark": name,
        "against": probe.against,
        "student": float(students[:, 0].mean()),
        "reference": float(theirs[:, 0].mean()),
        "floor": 0.0,
        **{"value": value, "low": low, "high": high, "alike": alike, "sd": sd},
        **{"seeds": len(gap), "n": n, "of": ", ".join(part), "why": ""},
    }


def _nothing(probe: Probe, runs: Sequence[Mapping[str, pd.DataFrame]]) -> Row:
    """Return the row of a line that was asked for and has nothing to count."""
    names = ("student", "reference", "value", "low", "high", "sd")
    return {
        "measure": probe.name,
        "benchmark": AVERAGE,
        "against": probe.against,
        **dict.fromkeys(names, np.nan),
        **{"floor": 0.0, "alike": False, "seeds": len(runs), "n": 0},
        "of": ", ".join(sorted({b for frames in runs for b in frames})),
        "why": f"there is nothing to count for it and its {probe.against} both",
    }


def _of_bins(frames: Sequence[pd.DataFrame], bootstrap: Bootstrap) -> list[Row]:
    weights, found = _weights(bootstrap, len(frames[0])), []
    for part, tokens in enumerate(own_text.BINS):
        n = min(int((own_text.within(f, "tokens", part) > 0).sum()) for f in frames)
        if n < LEAST:
            continue
        texts = {
            text: np.array(
                [
                    own_text.per_token(f, f"{text}_{own_text.DISTANCE}", part)(weights)
                    for f in frames
                ]
            )
            for text in own_text.OF
        }
        texts["gap"] = texts["own"] - texts["reference"]
        for text, numbers in texts.items():
            value, low, high, sd = over_items_and_seeds(numbers, n - 1)
            told = {"value": value, "low": low, "high": high, "sd": sd, "seeds": len(frames)}
            if text in own_text.OF:
                told |= {
                    ce: _mean(frames, f"{text}_{ce}", part) for ce in ("ce_student", "ce_teacher")
                }
            found.append({"tokens": tokens, "text": text, **told, "n": n})
    return found


def _mean(frames: Sequence[pd.DataFrame], name: str, part: int) -> float:
    """Return the mean over runs of a number per token."""
    whole = np.ones((1, len(frames[0])))
    return float(np.mean([own_text.per_token(f, name, part)(whole) for f in frames]))


def _same_items(frames: Sequence[pd.DataFrame], benchmark: str) -> list[pd.DataFrame]:
    """Return runs' rows in one order of their items."""
    found = [f.sort_values("example_id", kind="stable") for f in frames]
    if any([*f.example_id] != [*found[0].example_id] for f in found):
        raise InputError(
            f"runs of one system were asked other items of {benchmark}",
            why="what a system lost is the mean of its runs on the same items",
            remedy="measure all of them on the same items",
        )
    return found


def _drawn_apart(bootstrap: Bootstrap, benchmark: str) -> Bootstrap:
    """Return other draws for each benchmark: items of one are independent of another's."""
    return dataclasses.replace(bootstrap, seed=bootstrap.seed + sum(benchmark.encode()))


def _weights(bootstrap: Bootstrap, n: int) -> np.ndarray:
    """Return weight 1 for every item, and below it the draws, [1 + draws, items]."""
    return np.vstack([np.ones(n), bootstrap.weights(n)])
