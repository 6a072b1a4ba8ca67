"""A difference between groups of runs of fixed students: items are drawn, and so are seeds.

A run's accuracy moves with the items that were asked and with the seed of its training. Runs that
differ by seed alone are draws of one system; all runs meet the same items. This is the design of
multi-reader, multi-case studies, seeds for readers and items for cases (Obuchowski and Rockette
1995; Gallas 2006; Hillis 2007), with the seeds of each group its own. What the result holds for:
other items and other seeds of these students, never other students.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from kdstudy.analysis.flips import agreed, flip_p, least_p, reaching
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, difference, mover

Run = Mapping[str, np.ndarray]
"""One run: per benchmark, each item's share of right draws, in an order all runs share."""

_NONE = 1e-24
"""A variance below this is rounding."""

_LEAST_SHARE = 0.7
"""Least share of the items' variance that the whole has."""

_KNOWN = 0.25
"""Share of what seeds and single items do together that counts as known in the seeds' variance."""


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ by seed alone, and the weight of their mean in a difference."""

    weight: float
    runs: Sequence[Run]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A weighted difference of groups' mean accuracies; NaN where it cannot be estimated.

    Attributes:
        low, high: 95% interval.
        inner: 90% interval, for two one-sided tests at 5%.
        statistic: Estimate over its standard error.
        p: Two-sided. With seeds by t on `freedom` degrees, else by all flips of items (mid-p).
            It is below 5% where the 95% interval leaves 0 out, and nowhere else.
        freedom: Degrees of freedom; infinite over items alone.
        seeds: Runs of the smallest and of the largest group.
        items: Number of items, and how many of them `changed`.
    """

    estimate: float
    low: float
    high: float
    inner: tuple[float, float]
    statistic: float
    p: float
    freedom: float
    seeds: tuple[int, int]
    items: int
    changed: int

    @property
    def over_seeds(self) -> bool:
        """Whether seeds count as drawn; else the result is one of these very runs."""
        return self.seeds[1] > 1

    @property
    def borrowed(self) -> bool:
        """Whether a group of one run is taken to vary over seeds as the others do."""
        return self.over_seeds and self.seeds[0] == 1


def contrast(groups: Sequence[Group]) -> Contrast:
    """Return the weighted sum of groups' accuracies, a mean over the benchmarks that all have.

    Its variance is that of the seeds plus that of the items. The first is each group's variance of
    runs' mean accuracies over seeds, which holds what seeds and single items do together. The
    second is the variance over items of the difference, less what seeds and items do together,
    else that would count twice (`_over_both`). With one run everywhere there is no variance over
    seeds: items alone are drawn.

    Args:
        groups: Every group's runs hold the same items in the same order.

    Raises:
        ValueError: The runs share no benchmark.
    """
    common = sorted(set.intersection(*(set(run) for g in groups for run in g.runs)))
    if not common:
        raise ValueError("the runs share no benchmark")
    blocks = [[np.array([run[b] for run in g.runs], float) for b in common] for g in groups]
    changes = [
        np.sum([g.weight * rows[k].mean(axis=0) for g, rows in zip(groups, blocks, strict=True)], 0)
        for k in range(len(common))
    ]
    counts = [len(g.runs) for g in groups]
    shared = {
        "estimate": float(np.mean([c.mean() for c in changes])),
        "seeds": (min(counts), max(counts)),
        "items": sum(map(len, changes)),
        "changed": sum(int((np.abs(c) > 1e-12).sum()) for c in changes),
    }
    if min(map(len, changes)) < 2:
        return _nothing(shared)
    items = sum(float(c.var(ddof=1)) / len(c) for c in changes) / len(common) ** 2
    if max(counts) == 1:
        return _over_items(shared, changes, items)
    variance, freedom = _over_both(groups, blocks, items, shared["items"] - len(common))
    if variance < _NONE:
        return _over_items(shared, changes, 0.0)
    return _by_t(shared, math.sqrt(variance), freedom)


def _over_both(
    groups: Sequence[Group], blocks: Sequence[Sequence[np.ndarray]], items: float, many: int
) -> tuple[float, float]:
    """Return the variance of the difference over seeds and items, and its degrees of freedom."""
    alone = any(len(g.runs) == 1 for g in groups)
    seeds, both, few = _over_seeds(groups, blocks)
    return together(items, seeds, both, few, many, alone=alone)


def together(
    items: float, seeds: float, both: float, few: float, many: float, *, alone: bool = False
) -> tuple[float, float]:
    """Return the variance of a number over seeds and items, and its degrees of freedom.

    Few seeds may spread by chance as if there were none, but the variance over items is known well,
    and seeds can only add to it: so the whole is at least `_LEAST_SHARE` of that. At all of it a
    null without seed effects would be refused 2% of the time at 5%. The degrees of freedom are
    those of the seeds' variance, more where it is a small part of the whole; what is `_KNOWN` of it
    from all items is no part. Where a group's variance is borrowed nothing counts as known: the
    loan itself is unsure. `bench/calibration.py` has the rates that this leaves.

    Args:
        items: Its variance over items.
        seeds: Its variance over seeds, which holds what seeds and single items do together.
        both: What seeds and single items do together.
        few: Degrees of freedom of `seeds`.
        many: Degrees of freedom of `items`.
        alone: A group of one run has borrowed its variance.
    """
    whole = max(seeds + max(items - both, 0.0), _LEAST_SHARE * items)
    if whole < _NONE:
        return 0.0, math.inf
    unsure = seeds if alone else max(seeds - _KNOWN * both, 0.0)
    return whole, 1 / ((unsure / whole) ** (few / (few + 1)) / few + 1 / many)


def _over_seeds(
    groups: Sequence[Group], blocks: Sequence[Sequence[np.ndarray]]
) -> tuple[float, float, float]:
    """Return the variance that seeds give the difference, their share with items, and freedom.

    A group of one run takes both variances that the others have on average.
    """
    several = [k for k, g in enumerate(groups) if len(g.runs) > 1]
    own = {k: _components(blocks[k]) for k in several}
    degrees = {k: len(groups[k].runs) - 1 for k in several}
    pooled = np.average(list(own.values()), axis=0, weights=list(degrees.values()))
    parts = np.array(
        [np.asarray(own.get(k, pooled)) * g.weight**2 / len(g.runs) for k, g in enumerate(groups)]
    )
    seeds, both = (float(x) for x in parts.sum(axis=0))
    alone = len(several) < len(groups)
    return seeds, both, _freedom(parts[several, 0], list(degrees.values()), alone)


def _freedom(parts: np.ndarray, degrees: Sequence[int], alone: bool) -> float:
    """Return the degrees of freedom of the seeds' variance: between Welch's and the pooled.

    Welch's (1947) is too careful with two seeds that spread alike (2.3% of true nulls at 5%), the
    pooled too bold where one group spreads more (7.5%), and Welch's gets better with every seed: so
    it is 3/4 of the way to the pooled with two seeds, half with three, 3/10 with five. Where a
    group's variance is borrowed, only the pooled exists. `bench/calibration.py` has the rates.
    """
    pooled = float(sum(degrees))
    if alone or parts.sum() < _NONE:
        return pooled
    welch = float(parts.sum() ** 2 / (parts**2 / np.array(degrees)).sum())
    return welch + (pooled - welch) * 1.5 / (min(degrees) + 1)


def _components(rows: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return a group's variance of runs' means over seeds, and that of seeds with items in it."""
    means = np.mean([x.mean(axis=1) for x in rows], axis=0)
    both = 0.0
    for x in rows:
        rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
        square = float((rest**2).sum()) / ((x.shape[0] - 1) * (x.shape[1] - 1))
        both += square / x.shape[1] / len(rows) ** 2
    return float(means.var(ddof=1)), both


def _by_t(shared: dict, error: float, freedom: float) -> Contrast:
    mean = shared["estimate"]
    t = mean / error
    p = max(float(2 * stats.t.sf(abs(t), freedom)), least_p(shared["changed"]))
    low, high = reaching(*_ends(mean, error, freedom, 0.95), p, 0.05)
    inner = reaching(*_ends(mean, error, freedom, 0.90), p, 0.10)
    return Contrast(**shared, low=low, high=high, inner=inner, statistic=t, p=p, freedom=freedom)


def _over_items(shared: dict, changes: Sequence[np.ndarray], variance: float) -> Contrast:
    """Return the difference of these very runs: flips for p, a normal interval over items.

    The two are `agreed`. Where all items changed alike the interval is the exact one of
    `intervals.difference`.
    """
    mean, p = shared["estimate"], flip_p(changes, mid=True)
    if variance < _NONE:
        ends = mover(*zip(*(difference(c, DEFAULT_BOOTSTRAP) for c in changes), strict=True))
        outer, inner, z = ends[1:], ends[1:], math.nan
    else:
        error = math.sqrt(variance)
        z = mean / error
        outer, inner = (_ends(mean, error, math.inf, level) for level in (0.95, 0.90))
    low, high, p = agreed(changes, *outer, p)
    inner = reaching(*inner, p, 0.10)
    return Contrast(**shared, low=low, high=high, inner=inner, statistic=z, p=p, freedom=math.inf)


def _ends(mean: float, error: float, freedom: float, level: float) -> tuple[float, float]:
    half = error * float(stats.t.ppf((1 + level) / 2, freedom))
    return max(mean - half, -1.0), min(mean + half, 1.0)


def _nothing(shared: dict) -> Contrast:
    unknown = dict.fromkeys(("low", "high", "statistic", "p", "freedom"), math.nan)
    return Contrast(**shared, **unknown, inner=(math.nan, math.nan))
