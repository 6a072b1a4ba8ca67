"""The loss statement as a table: every distilled system beside its teacher and its base.

Student and reference are compared on the same items: every number is computed for all bootstrap
weights of the items, the same for both, and so is their ratio or difference. Over several seeds the
number is the mean of the runs', and its interval covers items and seeds as `contrasts` has it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdstudy.analysis.contrasts import together
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from kdstudy.analysis.measures import AVERAGE, HELD_OUT
from kdstudy.errors import InputError
from kdstudy.measures import LOSSES, copied, robustness
from kdstudy.measures.base import Loss
from kdstudy.measures.cell import Cell, cells_of
from kdstudy.measures.hacking import Course, course
from kdstudy.measures.token_losses import TOKEN_LOSSES, TokenLoss
from kdstudy.methods import METHODS
from kdstudy.records import Score, System

ELSEWHERE = "elsewhere"
"""The pseudo-benchmark of those that nobody trained for (`elsewhere.elsewhere`)."""

COLUMNS = [
    *("system", "teacher", "measure", "benchmark", "against"),
    *("student", "reference", "floor", "value", "low", "high", "alike", "sd", "seeds", "n"),
    *("of", "why"),
]
"""Of the table.

`value` is the student's number over the `reference`'s, both less `floor`, or the student's less the
reference's, or the number itself where it is a distance and nothing is compared. `alike`: all draws
of the items gave this very number, so that there is no interval to show. `of` are the benchmarks
that a mean is over, `why` says why a value is NaN.
"""

_NORMAL = float(stats.norm.ppf(0.975))

Cells = Mapping[str, Mapping[str, Cell]]
Varied = Mapping[str, Mapping[str, Mapping[str, robustness.Changed]]]
"""Answers to variants of benchmarks: by variant, system label and benchmark."""
Groups = Mapping[tuple[str, str], Sequence[System]]
"""Runs that are draws of one system, by its name and its teacher's label."""

Row = dict[str, Any]


def statement(
    groups: Groups,
    systems: Sequence[System],
    cells: Cells,
    *,
    chance: Mapping[str, float],
    elsewhere: Collection[str] = (),
    tokens: Mapping[tuple[str, str], pd.DataFrame] | None = None,
    responses: Iterable[str] | None = None,
    varied: Varied | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """Return what distilled systems kept and lost; columns `COLUMNS`.

    Args:
        groups: Their runs (`distilled`).
        systems: Of the study, measured or not.
        cells: Graded answers by system label and benchmark (`cells_of_items`).
        chance: Accuracy of guessing, by benchmark.
        elsewhere: Benchmarks that nobody trained for.
        tokens: Token-level sums by (system label, teacher label).
        responses: Of the corpus's training rows; None where they are not known.
        varied: Answers to variants of benchmarks, which count in no other line.
        bootstrap: How items are drawn again.
    """
    whole = _Drawn(cells, chance, bootstrap)
    apart = {v: _Drawn(found, chance, bootstrap) for v, found in (varied or {}).items()}
    losses = [(loss, whole) for loss in LOSSES]
    losses += [(loss, apart[v]) for v, loss in robustness.LOSSES.items() if v in apart]
    losses += [(copied.loss(responses), whole)] if responses is not None else []
    rows: list[Row] = []
    for (system, teacher), runs in groups.items():
        base = _base_of(runs[0], systems)
        shared = {"system": system, "teacher": teacher}
        run_labels = [run.label for run in runs]
        for loss, drawn in losses:
            against = teacher if loss.against == "teacher" else base
            found = _of_loss(loss, run_labels, against, drawn, frozenset(elsewhere))
            rows += [shared | row for row in found]
        frames = [f for r in run_labels if (f := (tokens or {}).get((r, teacher))) is not None]
        if frames:
            rows += [shared | _of_tokens(loss, frames, bootstrap) for loss in TOKEN_LOSSES]
    return pd.DataFrame(rows, columns=COLUMNS)


def distilled(
    systems: Sequence[System], names: Mapping[str, str], wanted: Collection[str] = ()
) -> Groups:
    """Return the main grid's distilled runs in the study's order.

    Args:
        systems: Of the study.
        names: The system that each run is a draw of (`results.names_of`).
        wanted: Names of the systems to return, of ablations too; the main grid where empty.
    """
    found: dict[tuple[str, str], list[System]] = {}
    for s in systems:
        name = names.get(s.label, s.label)
        if s.kind == "distilled" and (name in wanted if wanted else not s.ablation):
            for teacher in s.teachers:
                found.setdefault((name, teacher), []).append(s)
    return found


def cells_of_items(items: pd.DataFrame, wanted: Collection[str]) -> dict[str, dict[str, Cell]]:
    """Return graded answers by system label and benchmark.

    Args:
        items: A row per graded text, with the fields of `records.Score` and `system`; empty where
            one without a default is missing.
        wanted: Systems that are needed.
    """
    fields = {f.name: f for f in dataclasses.fields(Score)}
    if not {n for n, f in fields.items() if not f.metadata.get("optional")} <= set(items.columns):
        return {}
    known = [name for name in fields if name in items]
    rows = items[items.system.isin(list(wanted))]
    found = {}
    for label, part in rows.groupby("system", sort=False):
        columns = [[_plain(value) for value in part[name]] for name in known]
        scores = [
            Score(**dict(zip(known, values, strict=True))) for values in zip(*columns, strict=True)
        ]
        found[str(label)] = cells_of(str(label), scores)
    return found


def _plain(value: Any) -> Any:
    """Return a cell as `Score` has it: a column of lists comes out of a file as arrays."""
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


def courses(
    training: Iterable[Mapping[str, Any]], systems: Sequence[System], names: Mapping[str, str]
) -> dict[str, dict[str, Course]]:
    """Return the courses of runs whose loss is a distance to a teacher, by system and run.

    Args:
        training: Facts of trainings, each with its run's label as `system` and its `curve`.
        systems: Of the study.
        names: As for `distilled`.
    """
    near = {s.label for s in systems if s.kind == "distilled" and _is_distance(s.method)}
    found: dict[str, dict[str, Course]] = {}
    for run in training:
        label = run["system"]
        if label in near and (went := course(run.get("curve") or ())) is not None:
            found.setdefault(names.get(label, label), {})[label] = went
    return found


def over_items_and_seeds(
    found: np.ndarray, many: int, least: tuple[float, float] | None = None
) -> tuple[float, float, float, float]:
    """Return the mean of runs, its 95% interval, and the standard deviation over seeds.

    The interval is that of the bootstrap, moved by its bias, and over several runs as much wider as
    seeds make it (`contrasts.together`); NaN where all draws are alike, which is not certainty.

    Args:
        found: A number per run, for the items as they are and for each draw of them, [runs, 1 +
            draws].
        many: Degrees of freedom of the items.
        least: Of a mean of which few items may move, `least_known`: the interval holds that one
            too, and is never NaN.
    """
    value, drawn = float(found[:, 0].mean()), found[:, 1:]
    runs = len(found)
    sd = float(found[:, 0].std(ddof=1)) if runs > 1 else math.nan
    mean = drawn.mean(axis=0)
    finite = np.isfinite(mean)
    moves = finite.mean() >= 0.9 and np.ptp(mean[finite]) >= 1e-12
    if not moves and least is None:
        return value, math.nan, math.nan, sd
    low, high, items, both = 0.0, 0.0, 0.0, 0.0
    if moves:
        drawn, mean = drawn[:, finite], mean[finite]
        low, high = np.quantile(mean, [0.025, 0.975]) - mean.mean()
        items = float(mean.var(ddof=1))
    if moves and runs > 1:
        both = float((drawn - mean).var(axis=1, ddof=1).sum()) / (runs - 1) / runs
    centre, error = least or (value, 0.0)
    items = max(items, error**2)
    wider = 1.0
    if runs > 1:
        variance, freedom = together(items, sd**2 / runs, both, runs - 1, max(many, 1))
        wider = math.sqrt(variance / items) * float(stats.t.ppf(0.975, freedom)) / _NORMAL
    low, high = value + wider * float(low), value + wider * float(high)
    if least is not None:
        half = wider * _NORMAL * error
        low, high = min(low, centre - half), max(high, centre + half)
    return value, low, high, sd


def least_known(moves: Sequence[np.ndarray], pairs: int) -> tuple[float, float]:
    """Return a mean over benchmarks and the standard error that it has at least.

    Where three items of thirty move, all one way, a bootstrap's interval leaves 0 out, which the
    exact test of three coins does not (p = 0.25). Adding half an item to every cell of a table of
    matched pairs mends that (Agresti and Min 2005): each pair of answers that is compared adds two
    items, of which one moves, half of it either way.

    Args:
        moves: By benchmark, what moves of each item, [items].
        pairs: Pairs of answers that an item's number compares: before with after, or that twice.
    """
    centres, variances = [], []
    for own in moves:
        n = len(own) + 2 * pairs
        centre = float(own.sum()) / n
        centres.append(centre)
        variances.append((float((own**2).sum() + pairs) / n - centre**2) / n)
    return float(np.mean(centres)), math.sqrt(sum(variances)) / len(moves)


def _alike(found: np.ndarray) -> bool:
    """Return whether every draw of the items gives every run the number that it has."""
    return bool(np.isfinite(found).all() and np.abs(found - found[:, :1]).max() < 1e-12)


class _Drawn:
    """Every loss of every cell under all weights of its items, computed once."""

    def __init__(
        self,
        cells: Cells | Mapping[str, Mapping[str, Any]],
        chance: Mapping[str, float],
        bootstrap: Bootstrap,
    ):
        self.cells, self.chance, self.bootstrap = cells, chance, bootstrap
        self._places = {b: i for i, b in enumerate(sorted({b for c in cells.values() for b in c}))}
        self._found: dict[tuple[str, str, str, str], np.ndarray] = {}

    def of(self, loss: Loss, label: str, benchmark: str, reference: str = "") -> np.ndarray | None:
        """Return its number for the items as they are and for each draw, None where it has none.

        A distance is one of two systems: from `reference`.
        """
        labels = [label, reference] if loss.between else [label]
        cells = [self.cells.get(name, {}).get(benchmark) for name in labels]
        if any(cell is None or not loss.defined_on(cell) for cell in cells):
            return None
        key = (loss.name, label, benchmark, reference if loss.between else "")
        if key not in self._found:
            # Other draws on each benchmark: items of one are independent of another's.
            own = dataclasses.replace(
                self.bootstrap, seed=self.bootstrap.seed + self._places[benchmark]
            )
            if loss.between:
                self.require_same(label, reference, benchmark)
            made = (loss.between or loss.of)(*cells)
            self._found[key] = made(_weights(own, len(cells[0].ids)))
        found = self._found[key]
        return None if math.isnan(found[0]) else found

    def floor(self, loss: Loss, label: str, benchmark: str) -> float:
        """Return what nothing learned scores."""
        return loss.floor(self.cells[label][benchmark], self.chance.get(benchmark) or 0.0)

    def require_same(self, label: str, reference: str, benchmark: str) -> None:
        """Refuse two systems whose items of a benchmark are not the same, in the same order."""
        own, theirs = (self.cells.get(name, {}).get(benchmark) for name in (label, reference))
        if own is not None and theirs is not None and list(own.ids) != list(theirs.ids):
            raise InputError(
                f"{label} and {reference} were asked other items of {benchmark}",
                why="what a student kept is taken item by item",
                remedy="score both on the same items",
            )

    def items(self, label: str, benchmark: str) -> int:
        """Return how many items there are."""
        return len(self.cells[label][benchmark].ids)


def _of_loss(
    loss: Loss, runs: Sequence[str], reference: str, drawn: _Drawn, elsewhere: frozenset[str]
) -> Iterator[Row]:
    """Yield a loss's rows: means over benchmarks first, then each where there are several."""
    known = sorted(
        b
        for b in drawn.cells.get(reference, {})
        if (loss.between or drawn.of(loss, reference, b) is not None)
        and any(drawn.of(loss, run, b, reference) is not None for run in runs)
    )
    for run, benchmark in itertools.product(runs, known):
        drawn.require_same(run, reference, benchmark)
    scopes = {AVERAGE: known}
    if loss.how == "kept" or loss.where != "all":
        scopes = {
            AVERAGE: [b for b in known if b not in elsewhere and loss.where != "elsewhere"],
            ELSEWHERE: [b for b in known if b in elsewhere and loss.where != "home"],
        }
    for scope, benchmarks in scopes.items():
        for name, part in {scope: benchmarks, **{b: [b] for b in benchmarks}}.items():
            if part and (name == scope or len(benchmarks) > 1):
                yield from _compared(loss, runs, reference, drawn, part, name)


def _compared(
    loss: Loss, runs: Sequence[str], reference: str, drawn: _Drawn, part: list[str], name: str
) -> Iterator[Row]:
    of_runs = [[drawn.of(loss, run, b, reference) for b in part] for run in runs]
    whole = [np.mean(found, axis=0) for found in of_runs if all(f is not None for f in found)]
    if not whole:
        return
    students, theirs = np.array(whole), np.full(1, math.nan)
    if not loss.between:
        theirs = np.mean([drawn.of(loss, reference, b) for b in part], axis=0)
    n = sum(drawn.items(reference, b) for b in part)
    why, floor = "", 0.0
    if loss.how == "distance":
        compared = students
    elif loss.how == "change":
        compared = students - theirs
    else:
        floor = float(np.mean([drawn.floor(loss, reference, b) for b in part]))
        above = theirs - floor
        if above[0] <= _NORMAL * above[1:].std():
            why = "the teacher is not above " + ("guessing" if floor else "0")
        above = np.where((above > 0) & (not why), above, np.nan)
        compared = (students - floor) / above
    least = None
    # What all draws agree on has no interval, but where nothing else is compared.
    if loss.moves and not why and (loss.pairs > 1 or not _alike(compared)):
        least = _least(loss, runs, reference, drawn, part)
        if loss.how == "kept":
            least = 1 + least[0] / float(above[0]), least[1] / float(above[0])
    value, low, high, sd = over_items_and_seeds(compared, n - len(part), least)
    yield {
        "measure": loss.name,
        "benchmark": name,
        "against": "" if loss.between else loss.against,
        "student": float(students[:, 0].mean()),
        "reference": float(theirs[0]),
        "floor": floor,
        **{"value": value, "low": low, "high": high, "alike": _alike(compared), "sd": sd},
        **{"seeds": len(whole), "n": n, "of": ", ".join(part), "why": why},
    }


def _least(
    loss: Loss, runs: Sequence[str], reference: str, drawn: _Drawn, part: list[str]
) -> tuple[float, float]:
    """Return `least_known` of what moves of the student's items less what moves of the other's."""
    cells = drawn.cells
    there = [run for run in runs if all(b in cells.get(run, {}) for b in part)]
    moves = [
        np.mean([loss.moves(cells[run][b]) for run in there], axis=0)
        - loss.moves(cells[reference][b])
        for b in part
    ]
    return least_known(moves, loss.pairs)


def _of_tokens(loss: TokenLoss, frames: Sequence[pd.DataFrame], bootstrap: Bootstrap) -> Row:
    n = min(map(len, frames))
    theirs, students = math.nan, []
    for frame in frames:
        weights = _weights(bootstrap, len(frame))
        tokens = weights @ frame.tokens.to_numpy(float)
        own = weights @ loss.student(frame) / tokens
        students.append(own)
        if loss.teacher is not None:
            reference = weights @ loss.teacher(frame) / tokens
            theirs = float(reference[0])
            students[-1] = own - reference
    value, low, high, sd = over_items_and_seeds(np.array(students), n - 1)
    return {
        "measure": loss.name,
        "benchmark": HELD_OUT,
        "against": "teacher" if loss.teacher else "",
        "student": value if loss.teacher is None else value + theirs,
        "reference": theirs,
        "floor": 0.0,
        **{"value": value, "low": low, "high": high, "alike": False, "sd": sd},
        **{"seeds": len(frames), "n": n, "of": HELD_OUT, "why": ""},
    }


@functools.lru_cache(maxsize=8)
def _weights(bootstrap: Bootstrap, n: int) -> np.ndarray:
    """Return weight 1 for every item, and below it the draws, [1 + draws, items]."""
    return np.vstack([np.ones(n), bootstrap.weights(n)])


def _base_of(run: System, systems: Sequence[System]) -> str:
    """Return the label of a run's model before training; "" where the study does not measure it."""
    untrained = (s for s in systems if s.model == run.model and not s.method)
    return next((s.label for s in untrained), "")


def _is_distance(method: str) -> bool:
    """Return whether a method's loss on given text is a distance to the teacher."""
    found = METHODS.get(method.removesuffix("-from-sft"))
    return found is not None and found.teacher_gives == "distribution"
