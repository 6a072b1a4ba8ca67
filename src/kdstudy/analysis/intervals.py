"""Intervals over test items: Wilson, paired bootstrap, and the mean of independent estimates."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from statsmodels.stats.proportion import proportion_confint


@dataclasses.dataclass(frozen=True, slots=True)
class Bootstrap:
    """How items are drawn again; equal fields, equal draws.

    Attributes:
        seed: Seed of the draws.
        resamples: Number of resamples.
    """

    seed: int = 0
    resamples: int = 1000

    def weights(self, n: int) -> np.ndarray:
        """Return how often each of n items is drawn in each resample, `(resamples, n)`.

        All systems of a benchmark meet the same draws, so their intervals can be compared.
        """
        return _weights(n, self.seed, self.resamples)

    def __str__(self) -> str:
        return f"bootstrap-95|resamples:{self.resamples}|seed:{self.seed}"


DEFAULT_BOOTSTRAP = Bootstrap()


@functools.lru_cache(maxsize=32)
def _weights(n: int, seed: int, resamples: int) -> np.ndarray:
    drawn = np.random.default_rng([seed, n]).integers(0, n, size=(resamples, n))
    offsets = np.arange(resamples)[:, None] * n
    counts = np.bincount((drawn + offsets).ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float32)


@functools.lru_cache(maxsize=4096)
def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the Wilson 95% interval of a share of n items; NaN for n = 0."""
    if not n:
        return np.nan, np.nan
    low, high = proportion_confint(share * n, n, method="wilson")
    return float(low), float(high)


def mover(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> tuple:
    """Return the mean of independent estimates and its interval, from their own intervals.

    The variance is recovered from each interval (MOVER, Zou and Donner 2008), so a share of 0 or 1
    keeps its width where a normal approximation would claim certainty.
    """
    value, low, high = (np.asarray(x, dtype=float) for x in (values, lows, highs))
    mean = value.mean()
    below = np.sqrt(((value - low) ** 2).sum()) / len(value)
    above = np.sqrt(((high - value) ** 2).sum()) / len(value)
    return float(mean), float(mean - below), float(mean + above)


def mean_of(
    values: np.ndarray, bootstrap: Bootstrap, top: float = 1.0
) -> tuple[float, float, float]:
    """Return the mean of per-item values in [0, top] and its bootstrap 95% interval.

    One item has no interval. Where all values are equal every resample is, which is not certainty:
    the interval is then the exact one of the share of items with this value, observed as 1
    (Clopper-Pearson), the others being as low, or as high, as values can be.
    """
    n = len(values)
    if n < 2:
        return float(values.mean()) if n else np.nan, np.nan, np.nan
    mean = float(values.mean())
    if np.ptp(values) < 1e-12 * top:
        share = float(proportion_confint(n, n, method="beta")[0])
        return mean, share * mean, share * mean + (1 - share) * top
    low, high = np.quantile(bootstrap.weights(n) @ values / n, [0.025, 0.975])
    return mean, float(low), float(high)


def difference(change: np.ndarray, bootstrap: Bootstrap) -> tuple[float, float, float]:
    """Return mean and paired bootstrap 95% interval of per-item changes in [-1, 1].

    Where all items changed alike, or none did, every resample is the same, which is not certainty:
    the interval is then the exact (Clopper-Pearson) one of a share observed as 1, or as 0.
    """
    n = len(change)
    if n < 2:
        return float(change.mean()) if n else np.nan, np.nan, np.nan
    if not change.any():
        bound = float(proportion_confint(0, n, method="beta")[1])
        return 0.0, -bound, bound
    if np.ptp(change) == 0:
        every = float(change[0])
        bound = every * float(proportion_confint(n, n, method="beta")[0])
        return every, min(every, bound), max(every, bound)
    means = bootstrap.weights(n) @ change.astype(np.float32) / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(change.mean()), float(low), float(high)
