"""What a study keeps of a model that it cuts a student out of."""

import dataclasses
from typing import Literal

By = Literal["spacing", "influence"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """What a study keeps of a model.

    Attributes:
        layers: How many layers, or which; None for all.
        by: How layers are chosen where their number is given: `spacing`, evenly; `influence`, those
            that change their input most on training rows.
        intermediate: How many neurons of each layer's MLP; None for all.
    """

    layers: int | tuple[int, ...] | None = None
    by: By = "spacing"
    intermediate: int | None = None

    @property
    def measured(self) -> bool:
        """Whether the model has to be measured on training rows first."""
        return self.by == "influence" or self.intermediate is not None

    @property
    def mark(self) -> str:
        """What is behind a fingerprint: `[6]`, `[0,1,5]`, `[6 by influence, intermediate 64]`."""
        which = self.layers if isinstance(self.layers, tuple) else (self.layers,)
        return self._bracket("" if which == (None,) else ",".join(map(str, which)))

    @property
    def called(self) -> str:
        """What is behind a name: `[6 layers]`, as much of `[6 layers by influence]`."""
        if self.layers is None:
            return self._bracket("")
        many = self.layers if isinstance(self.layers, int) else len(self.layers)
        return self._bracket(f"{many} layers")

    def _bracket(self, layers: str) -> str:
        by = "" if self.by == "spacing" else f" by {self.by}"
        width = "" if self.intermediate is None else f"intermediate {self.intermediate}"
        return f"[{', '.join(part for part in (layers + by, width) if part)}]"
