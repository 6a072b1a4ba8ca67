"""The sign-flip test over items: exact, with any weights, and never surer than its flips."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

GRID = 2**15
"""Cells of the line on which sums of flips are counted."""
MOST_STEPS = 40
"""Up to so many different sizes of a change all flips are counted; above it a seeded sample."""
SAMPLED = 9_999


def least_p(changed: int) -> float:
    """Return the least two-sided p that flipping so many changes can give."""
    return min(1.0, 2.0 ** (1 - changed))


def flip_p(changes: Sequence[np.ndarray], *, mid: bool = False) -> float:
    """Return the two-sided p of the mean of means of items' changes under flips of their signs.

    Under the null an item's change is as likely to help as to hurt. With one benchmark and
    outcomes that are right or wrong this is the exact McNemar test. All flips are counted, sizes
    of change apart; sums that lie closer together than a 32,768th of the line count as equal to
    the one seen, which can only enlarge p.

    Args:
        changes: Per benchmark, each item's change; every benchmark weighs the same.
        mid: Count outcomes as far out as the one seen by half (Lancaster 1961; for McNemar's test
            Fagerland, Lydersen and Laake 2013), which takes back what discreteness makes an exact
            test lose; but never below what all flips could give.

    Returns:
        A p-value; NaN where nothing changed.
    """
    steps, ups, downs = _counts(changes)
    if not len(steps):
        return math.nan
    seen = abs(float(steps @ (ups - downs)))
    number = ups + downs
    least = least_p(int(number.sum()))
    if len(steps) > MOST_STEPS:
        return max(least, _sampled(steps, number, seen))
    mass, unit, slack = _sums(steps, number)
    at = unit * (np.arange(len(mass)) - len(mass) // 2)
    beyond = float(mass[np.abs(at) > seen + slack].sum())
    level = float(mass[np.abs(np.abs(at) - seen) <= slack].sum())
    return min(1.0, max(least, beyond + level / (2 if mid else 1)))


def reaching(low: float, high: float, p: float, level: float) -> tuple[float, float]:
    """Return an interval that holds 0 wherever a test of 0 at this level does not refuse it.

    An interval and a p that were found in two ways may disagree near the level; a reader who is
    told both must not be told two things.
    """
    return (min(low, 0.0), max(high, 0.0)) if p >= level else (low, high)


def agreed(
    changes: Sequence[np.ndarray], low: float, high: float, p: float
) -> tuple[float, float, float]:
    """Return the 95% interval and the p of a mean of means, so that both say the same of 0.

    Flips count, an interval over items measures: near 5% they may differ. Both must refuse 0, so
    the interval reaches 0 where p does not. Where p refuses 0 and the interval holds it, as one of
    resamples may by a hair, the normal one over items decides for both.

    Args:
        changes: Per benchmark, each item's change.
        low, high: An interval for their mean of means, however it was found.
        p: From `flip_p`; NaN where nothing changed.
    """
    if math.isnan(p) or p >= 0.05:
        return *reaching(low, high, p, 0.05), p
    if not low <= 0 <= high:
        return low, high, p
    parts = [np.asarray(c, float) for c in changes]
    mean = float(np.mean([c.mean() for c in parts]))
    error = math.sqrt(sum(c.var(ddof=1) / len(c) for c in parts)) / len(parts)
    half = error * float(stats.norm.ppf(0.975))
    return mean - half, mean + half, max(p, float(2 * stats.norm.sf(abs(mean) / error)))


def _counts(changes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sizes that an item adds to the mean, and how many items add or take them."""
    parts = [np.asarray(c, float) / len(c) / len(changes) for c in changes]
    every = np.concatenate(parts)
    every = every[np.abs(every) > 1e-15]
    scale = np.abs(every).max() if len(every) else 1.0
    steps, place = np.unique(np.round(np.abs(every) / scale, 9), return_inverse=True)
    ups = np.bincount(place, every > 0, minlength=len(steps))
    downs = np.bincount(place, every < 0, minlength=len(steps))
    return steps * scale, ups.astype(int), downs.astype(int)


def _sums(steps: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the distribution of the sum of all flips on a grid, its unit and its uncertainty."""
    unit = 2.1 * float(steps @ number) / GRID
    mass = np.zeros(GRID + 1)
    mass[GRID // 2] = 1.0
    for step, n in zip(steps, number, strict=True):
        # One size's sum is a binomial; placed as a whole, its rounding does not add up.
        ways = np.arange(n + 1)
        share = stats.binom.pmf(ways, n, 0.5)
        shift = np.rint(step * (2 * ways - n) / unit).astype(int)
        total = np.zeros_like(mass)
        for s, w in zip(shift, share, strict=True):
            total[max(s, 0) : GRID + 1 + min(s, 0)] += w * mass[max(-s, 0) : GRID + 1 - max(s, 0)]
        mass = total
    return mass, unit, unit * (len(steps) + 1) / 2


def _sampled(steps: np.ndarray, number: np.ndarray, seen: float) -> float:
    rng = np.random.default_rng(0)
    sums = (2 * rng.binomial(number, 0.5, (SAMPLED, len(steps))) - number) @ steps
    extreme = np.count_nonzero(np.abs(sums) >= seen * (1 - 1e-12))
    return (extreme + 1) / (SAMPLED + 1)
