"""How often the tests of `analyze` refuse a true null in the paper's design, and find an effect.

    python bench/calibration.py > docs/calibration.json

Eleven pairs of six students and four teachers, three methods: 33 cells. Gains are drawn, in points,
from student, teacher and cell effects. The standard deviations of `math` and `commonsense` are
those that a mixed model finds in the paper's Tables 7 and 8; the others vary one thing each.
Seeded; about three minutes on one core.
"""

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from kdstudy.analyze.clustered import cluster_robust, median_sign, sign_flip, student_t
from kdstudy.analyze.correlations import FACTORS, between, spearman
from kdstudy.analyze.diagnostics import smallest_effect
from kdstudy.analyze.intervals import wilson
from kdstudy.analyze.matched import friedman, repeated_measures
from kdstudy.analyze.mixed import mixed_model
from kdstudy.analyze.pooled import anova, gain_t
from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.verdict import Test

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
        skewed: Student effects are exponential (less their mean), not normal.
        methods: Methods differ as `METHODS` says.
    """

    student: float
    teacher: float
    cell: float
    skewed: bool = False
    methods: bool = True


TRUTHS = {
    "math": Truth(3.0, 1.8, 1.35),
    "commonsense": Truth(2.5, 0.0, 4.0),
    "students differ": Truth(3.0, 0.0, 1.35),
    "teachers differ as much": Truth(3.0, 3.0, 1.35),
    "independent cells": Truth(0.0, 0.0, 3.0),
    "skewed students": Truth(3.0, 0.0, 1.35, skewed=True),
}
GAIN = {"student-level t-test": student_t}
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

    def of(column: str, sd: float, skewed: bool = False) -> np.ndarray:
        codes, names = pd.factorize(cells[column])
        drawn = rng.exponential(size=len(names)) - 1 if skewed else rng.normal(size=len(names))
        return sd * drawn[codes]

    gain = effect + of("student", truth.student, truth.skewed) + of("teacher", truth.teacher)
    gain += truth.cell * rng.normal(size=len(cells))
    if truth.methods:
        gain += cells.method.map(METHODS).to_numpy()
    return cells.assign(gain=gain / 100)


def rate(
    test: Callable[[pd.DataFrame], Test], truth: Truth, draws: int, effect: float = 0.0
) -> dict[str, float]:
    """Return the share of draws with p <= 0.05, and its 95% interval over draws."""
    cells, rng = design(), np.random.default_rng(0)
    p = np.array([test(draw(truth, cells, rng, effect)).p for _ in range(draws)])
    known = int(np.isfinite(p).sum())
    share = float((p <= 0.05).sum() / known)
    low, high = wilson(share, known)
    found = {"rate": share, "low": low, "high": high}
    return {k: round(v, 4) for k, v in found.items()} | {"draws": draws, "no_p": draws - known}


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


def main() -> None:
    students = len(SIZES)
    print(
        json.dumps(
            {
                "design": "11 pairs, 6 students, 4 teachers, 3 methods; 5% nominal, two-sided",
                "truths": {k: dataclasses.asdict(v) for k, v in TRUTHS.items()},
                "level_of_gain_tests": gain_level(),
                "power_of_gain_tests": gain_power(),
                "level_of_other_tests": other_levels(),
                "detectable_with_80_percent_power": {
                    "students": students,
                    "in_standard_errors": round(smallest_effect(students) * math.sqrt(students), 3),
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
