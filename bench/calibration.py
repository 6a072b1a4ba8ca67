"""How often the tests of `analysis` refuse a true null in the paper's design, and find an effect.

    python bench/calibration.py > docs/calibration.json
    python bench/calibration.py one_student           # one part of it

Eleven pairs of six students and four teachers, three methods: 33 cells. Gains are drawn, in points,
from student, teacher and cell effects. The standard deviations of `math` and `commonsense` are
those that a mixed model finds in the paper's Tables 7 and 8; the others vary one thing each.
Truths named in `CONFIRM` were not looked at while the lead was chosen.

And one student with SFT and one method: items and seeds are drawn, and no gain is there. An item
is answered right with a probability whose logit is the sum of the item's, the method's on it, and
the run's. Seeded; about twenty minutes on one core.
"""

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import optimize

from kdstudy.analysis.clustered import (
    DEFAULT,
    cluster_robust,
    median_sign,
    sign_flip,
    student_level,
    student_t,
)
from kdstudy.analysis.contrasts import Group, contrast
from kdstudy.analysis.correlations import FACTORS, between, spearman
from kdstudy.analysis.diagnostics import smallest_effect
from kdstudy.analysis.intervals import wilson
from kdstudy.analysis.matched import friedman, repeated_measures
from kdstudy.analysis.mixed import mixed_model
from kdstudy.analysis.pooled import anova, gain_t
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test

SIZES = {"Q0.5": 0.5e9, "Q1.5": 1.5e9, "Q3": 3e9, "Q7": 7e9, "L1": 1e9, "L3": 3e9}
TEACHERS = {
    "Q3": ["Q0.5", "Q1.5"],
    "Q7": ["Q0.5", "Q1.5", "Q3"],
    "Q14": ["Q0.5", "Q1.5", "Q3", "Q7"],
    "L8": ["L1", "L3"],
}
METHODS = {"SeqKD": -1.5, "RevKD": 0.75, "GKD": 0.75}
"""Each method's gain over their mean, in points, as in the paper's Table 7."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """Standard deviations of a gain's parts, in points.

    Attributes:
        student: Between students.
        teacher: Between teachers.
        cell: Between cells of one student and teacher.
        shape: How student effects are distributed, a name of `SHAPES`.
        methods: Methods differ as `METHODS` says.
        seed: Seed of the draws.
    """

    student: float
    teacher: float
    cell: float
    shape: str = "normal"
    methods: bool = True
    seed: int = 0


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n) - 1,
    "falling exponential": lambda rng, n: 1 - rng.exponential(size=n),
    "gamma 2": lambda rng, n: (rng.gamma(2, size=n) - 2) / math.sqrt(2),
    "t 3": lambda rng, n: rng.standard_t(3, size=n) / math.sqrt(3),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n) * math.sqrt(3),
    "lognormal 0.8": lambda rng, n: (
        (np.exp(0.8 * rng.normal(size=n)) - math.exp(0.32))
        / math.sqrt((math.exp(0.64) - 1) * math.exp(0.64))
    ),
}
"""Distributions with mean 0 and standard deviation 1; the last has a skewness of 3.7."""

TRUTHS = {
    "math": Truth(3.0, 1.8, 1.35),
    "commonsense": Truth(2.5, 0.0, 4.0),
    "students differ": Truth(3.0, 0.0, 1.35),
    "teachers differ as much": Truth(3.0, 3.0, 1.35),
    "independent cells": Truth(0.0, 0.0, 3.0),
    "skewed students": Truth(3.0, 0.0, 1.35, "exponential"),
}
CONFIRM = {
    "students skewed down": Truth(3.0, 0.0, 1.35, "falling exponential", seed=1),
    "skewed students, teachers differ": Truth(3.0, 1.8, 1.35, "exponential", seed=2),
    "gamma students": Truth(3.0, 0.0, 1.35, "gamma 2", seed=3),
    "students with heavy tails": Truth(3.0, 0.0, 1.35, "t 3", seed=4),
    "uniform students": Truth(3.0, 0.0, 1.35, "uniform", seed=5),
    "math, other draws": Truth(3.0, 1.8, 1.35, seed=6),
    "skewed beyond that": Truth(3.0, 0.0, 1.35, "lognormal 0.8", seed=7),
}
GAIN = {DEFAULT: student_level, "student-level t-test": student_t}
BESIDE = {
    "cluster-robust least squares": cluster_robust,
    "exact sign-flip permutation": sign_flip,
    "sign test of the median": median_sign,
}


def design() -> pd.DataFrame:
    """Return the 33 cells without gains."""
    rows = [
        {"student": s, "teacher": t, "method": m, "task": AVERAGE, "size": SIZES[s]}
        for t, students in TEACHERS.items()
        for s in students
        for m in METHODS
    ]
    return pd.DataFrame(rows).assign(score=0.5, baseline=0.5)


def draw(truth: Truth, cells: pd.DataFrame, rng: np.random.Generator, effect: float = 0.0):
    """Return the design with gains (fractions) drawn around a mean effect in points."""

    def of(column: str, sd: float, shape: str = "normal") -> np.ndarray:
        codes, names = pd.factorize(cells[column])
        return sd * SHAPES[shape](rng, len(names))[codes]

    gain = effect + of("student", truth.student, truth.shape) + of("teacher", truth.teacher)
    gain += truth.cell * rng.normal(size=len(cells))
    if truth.methods:
        gain += cells.method.map(METHODS).to_numpy()
    return cells.assign(gain=gain / 100)


def rate(
    test: Callable[[pd.DataFrame], Test], truth: Truth, draws: int, effect: float = 0.0
) -> dict[str, float]:
    """Return the share of draws with p <= 0.05, and its 95% interval over draws."""
    cells, rng = design(), np.random.default_rng(truth.seed)
    return _share([test(draw(truth, cells, rng, effect)).p for _ in range(draws)])


def _share(values: list[float], level: float = 0.05) -> dict[str, float]:
    p = np.array(values)
    known = int(np.isfinite(p).sum())
    share = float((p <= level).sum() / known)
    low, high = wilson(share, known)
    found = {"rate": share, "low": low, "high": high}
    return {k: round(v, 4) for k, v in found.items()} | {"draws": len(p), "no_p": len(p) - known}


@dataclasses.dataclass(frozen=True)
class Items:
    """One student's runs: standard deviations are of logits.

    Attributes:
        accuracy: Mean accuracy of SFT and, without an effect, of the method.
        seed: Between seeds of one method.
        method: Of what a method does to an item; 0 where the same items are hard for both.
        spread: How many times as far the method's seeds spread as SFT's.
        topic: Between seeds within a topic of ten items, which so go right or wrong together.
        item: Between items.
    """

    accuracy: float = 0.5
    seed: float = 0.0
    method: float = 0.0
    spread: float = 1.0
    topic: float = 0.0
    item: float = 1.5


SEED_SDS = {"no seed effect": 0.0, "small": 0.1, "large": 0.5}
ONE_STUDENT = {
    f"{100 * accuracy:.0f}% right, {name}, {items}": Items(accuracy, sd, method)
    for accuracy in (0.1, 0.5, 0.9)
    for name, sd in SEED_SDS.items()
    for items, method in (("items alike", 0.0), ("items differ", 1.0))
} | {
    "50% right, the method's seeds spread three times as far": Items(0.5, 0.3, 0.5, spread=3.0),
    "50% right, SFT's seeds spread three times as far": Items(0.5, 0.9, 0.5, spread=1 / 3),
    "50% right, items of a topic go together": Items(0.5, 0.1, 0.5, topic=0.7),
}
SEEDS, ITEMS = (1, 2, 3, 5), (100, 1000)
UNEQUAL = ((2, 1), (3, 1), (5, 1), (3, 2))
"""Runs of the method, and of SFT; seen from the other side it is the same difference."""


@functools.cache
def _centre(accuracy: float, sd: float) -> float:
    """Return the mean logit that gives an accuracy where logits are normal around it."""
    at, weight = np.polynomial.hermite_e.hermegauss(61)

    def above(centre: float) -> float:
        return float(weight @ (1 / (1 + np.exp(-(centre + sd * at))))) / weight.sum() - accuracy

    return float(optimize.brentq(above, -30, 30))


def answers(
    truth: Items,
    seeds: int | tuple[int, int],
    items: int,
    rng: np.random.Generator,
    effect: float = 0.0,
):
    """Return right answers of the method and of SFT, each (seeds, items); effect in points.

    With one seed each the two runs are what they are, so a run has no effect of its own: the null
    is that these two are equally good on the items that could have been drawn.
    """
    both = (seeds, seeds) if isinstance(seeds, int) else seeds
    difficulty = truth.item * rng.normal(size=items)
    found = []
    for runs, spread, gain in zip(both, (truth.spread, 1.0), (effect / 100, 0.0), strict=True):
        seed = 0.0 if max(both) == 1 else spread * truth.seed
        parts = (truth.item, truth.method, seed, truth.topic)
        logit = _centre(truth.accuracy + gain, math.sqrt(sum(x * x for x in parts)))
        logit = logit + difficulty + truth.method * rng.normal(size=items)
        logit = logit + seed * rng.normal(size=(runs, 1))
        logit = logit + truth.topic * np.repeat(rng.normal(size=(runs, items // 10)), 10, axis=1)
        found.append((rng.random((runs, items)) < 1 / (1 + np.exp(-logit))).astype(float))
    return found


def rate_of_items(
    truth: Items, seeds: int | tuple[int, int], items: int, draws: int, effect: float = 0.0
) -> dict[str, float]:
    """Return the share of draws in which the test of one student has p <= 0.05, and <= 0.01."""
    rng = np.random.default_rng([*np.atleast_1d(seeds).tolist(), items])
    values = []
    for _ in range(draws):
        runs = answers(truth, seeds, items, rng, effect)
        groups = [
            Group(weight, [{"benchmark": run} for run in part])
            for weight, part in zip((1.0, -1.0), runs, strict=True)
        ]
        p = contrast(groups).p
        values.append(1.0 if math.isnan(p) else p)  # no item tells them apart
    strict = _share(values, 0.01)
    return _share(values) | {f"{k}_at_1_percent": strict[k] for k in ("rate", "low", "high")}


def few_students(
    students: int, seeds: int, sd: float, draws: int = 1000, items: int = 100
) -> dict[str, float]:
    """Return the share of draws without a gain in which the lead test has p <= 0.05 and less.

    Items are hard for all students alike (standard deviation of the logit 1.5), for each on its own
    (0.5) and for its method (0.5); seeds differ by 0.1, students' gains by `sd`.
    """
    rng, centre = np.random.default_rng([students, seeds]), _centre(0.5, 1.5)
    values = []
    for _ in range(draws):
        hard, rows = 1.5 * rng.normal(size=items), []
        for s in range(students):
            before = centre + hard + 0.5 * rng.normal(size=items)
            after = before + 0.5 * rng.normal(size=items) + sd * rng.normal()
            logits = [x + 0.1 * rng.normal(size=(seeds, 1)) for x in (before, after)]
            sft, own = (
                (rng.random((seeds, items)) < 1 / (1 + np.exp(-x))).mean(axis=1) for x in logits
            )
            spread = own.var(ddof=1) / seeds if seeds > 1 else math.nan
            rows.append((f"s{s}", "t", own.mean() - sft.mean(), items, spread))
        columns = ["student", "teacher", "gain", "items", "seed_variance"]
        p = student_level(pd.DataFrame(rows, columns=columns)).p
        values.append(1.0 if math.isnan(p) else p)  # all gained the same
    low, least = _share(values, 0.01)["rate"], _share(values, 0.001)["rate"]
    return _share(values) | {"rate_at_1_percent": low, "rate_at_0.1_percent": least}


def level_of_few_students() -> dict:
    """Return the level of the lead test by students, seeds and how students' gains differ."""
    return {
        f"{students} students, {seeds} seeds, gains differ by {sd:g}": few_students(
            students, seeds, sd
        )
        for students in (2, 3, 4, 5, 6)
        for seeds in (1, 3)
        for sd in (0.0, 0.3)
    }


def one_student() -> dict:
    """Return level and power of the test of one student, by seeds and items."""
    level: dict[str, dict] = {}
    for seeds in (*SEEDS, *UNEQUAL):
        for items in ITEMS:
            truths = ONE_STUDENT.items()
            if seeds == 1:  # seeds are not in the hypothesis
                truths = [(k, v) for k, v in truths if not v.seed]
            runs = f"{seeds}" if isinstance(seeds, int) else f"{seeds[0]} against {seeds[1]}"
            level[f"{runs} seeds, {items} items"] = {
                name: rate_of_items(truth, seeds, items, 4000 if items == 100 else 2000)
                for name, truth in truths
            }
    power = {
        f"{effect:g} points, seeds {name}": {
            f"{seeds} seeds, {items} items": rate_of_items(
                Items(0.5, sd, 0.5), seeds, items, 500, effect
            )["rate"]
            for seeds in SEEDS
            for items in ITEMS
        }
        for effect in (3.0, 6.0)
        for name, sd in SEED_SDS.items()
    }
    return {"truths": _fields(ONE_STUDENT), "level": level, "power": power}


def _fields(truths: dict) -> dict:
    return {k: dataclasses.asdict(v) for k, v in truths.items()}


def _blocks(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.groupby(["student", "method"]).gain.mean().unstack()


def gain_level() -> dict:
    """Return the share of true nulls (no mean gain) that each gain test refuses."""
    found = {}
    for name, truth in TRUTHS.items():
        rates = {n: rate(t, truth, 4000) for n, t in GAIN.items()}
        rates |= {n: rate(t, truth, 1000) for n, t in BESIDE.items()}
        rates["mixed model"] = rate(mixed_model, truth, 200)
        rates["pooled t-test (the paper's)"] = rate(gain_t, truth, 400)
        found[name] = rates
    for name, truth in CONFIRM.items():
        found[name] = {n: rate(t, truth, 4000) for n, t in GAIN.items()}
    return found


def gain_power() -> dict:
    """Return how often a mean gain of so many points is found where students differ as in math."""
    truth = TRUTHS["math"]
    tests = {**GAIN, "exact sign-flip permutation": sign_flip}
    return {
        f"{effect:g} points": {n: rate(t, truth, 1000, effect) for n, t in tests.items()}
        for effect in (2.0, 4.0, 6.0)
    }


def other_levels() -> dict:
    """Return levels of the tests of student size and of methods, when neither matters."""
    size = FACTORS[1]
    truth = dataclasses.replace(TRUTHS["math"], methods=False)
    return {
        "size: pooled Spearman (the paper's)": rate(
            lambda c: spearman(c, size, AVERAGE), truth, 1000
        ),
        "size: Spearman between students": rate(
            lambda c: between(c, size, AVERAGE, "student"), truth, 500
        ),
        "methods: one-way ANOVA (the paper's)": rate(anova, truth, 1000),
        "methods: repeated-measures ANOVA": rate(
            lambda c: repeated_measures(_blocks(c)), truth, 1000
        ),
        "methods: Friedman": rate(lambda c: friedman(_blocks(c)), truth, 200),
    }


def _detectable() -> dict:
    students = len(SIZES)
    errors = round(smallest_effect(students) * math.sqrt(students), 3)
    return {"students": students, "in_standard_errors": errors}


PARTS: dict[str, Callable[[], dict | str]] = {
    "design": lambda: "11 pairs, 6 students, 4 teachers, 3 methods; 5% nominal, two-sided",
    "truths": lambda: _fields(TRUTHS | CONFIRM),
    "level_of_gain_tests": gain_level,
    "power_of_gain_tests": gain_power,
    "level_of_other_tests": other_levels,
    "one_student": one_student,
    "few_students": level_of_few_students,
    "detectable_with_80_percent_power": _detectable,
}


def main() -> None:
    """Print the parts that are named, or all."""
    named = sys.argv[1:] or list(PARTS)
    print(json.dumps({name: PARTS[name]() for name in named}, indent=1))


if __name__ == "__main__":
    main()
