"""Means that a run logs beside its loss, over what all devices saw since the last log."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class Means:
    """Sums and counts by name, of this device.

    Args:
        names: What may be added; the same on every device, as they are reduced together.
    """

    def __init__(self, names: Sequence[str]):
        self._sums: dict[str, list[float | Tensor]] = {name: [0.0, 0.0] for name in names}

    def add(self, name: str, total: float | Tensor, count: float = 1) -> None:
        """Add a sum of `count` values; a tensor stays where it is until somebody asks."""
        found = self._sums[name]
        self._sums[name] = [found[0] + total, found[1] + count]

    def taken(self, summed: Callable[[Tensor], Tensor]) -> dict[str, tuple[float, int]]:
        """Return the mean and the count of everything that has values, and begin anew.

        Args:
            summed: Returns a tensor's sum over devices.
        """
        if not self._sums:
            return {}
        both = summed(torch.tensor(list(self.state().values()), dtype=torch.float64)).tolist()
        pairs = zip(self._sums, both, strict=True)
        means = {name: (a / n, round(n)) for name, (a, n) in pairs if n}
        self.clear()
        return means

    def state(self) -> dict[str, list[float]]:
        """Return what resuming needs."""
        return {name: [float(a), float(n)] for name, (a, n) in self._sums.items()}

    def clear(self) -> None:
        """Forget everything."""
        self._sums = {name: [0.0, 0.0] for name in self._sums}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Put what `state` returned before what was added since: Trainer draws a first batch before
        it has read all of a checkpoint."""
        for name in self._sums.keys() & state.keys():
            self.add(name, *state[name])
