"""Holm's and Benjamini-Hochberg's corrections inside each declared family of tests."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from kdstudy.analysis.cells import ALL
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test


def family(name: str, subject: str, scope: str) -> str:
    """Return the family of a test that is made per subject and scope.

    All methods on the average is a family of one: the question asked first. All methods per task,
    each method on the average, and each method per task are corrected apart.
    """
    where = "average" if scope == AVERAGE else "tasks"
    return f"{name}, {where}" + ("" if subject == ALL else ", by method")


def corrected(tests: Sequence[Test]) -> list[Test]:
    """Return the tests with `p_adjusted` (Holm) and `q` (BH) inside each named family.

    A test without a p does not count; one without a family keeps NaN.
    """
    found = list(tests)
    members: dict[str, list[int]] = {}
    for i, test in enumerate(found):
        if test.family and not math.isnan(test.p):
            members.setdefault(test.family, []).append(i)
    for places in members.values():
        p = np.array([found[i].p for i in places])
        both = zip(places, holm(p), stats.false_discovery_control(p), strict=True)
        for i, strict, loose in both:
            found[i] = dataclasses.replace(found[i], p_adjusted=float(strict), q=float(loose))
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p of one family (Holm 1979), in the order given; none is NaN."""
    # statsmodels has it, but collects garbage on each call: half the time of an analysis.
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
