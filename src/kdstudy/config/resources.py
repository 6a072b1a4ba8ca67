"""What stages ask of a cluster's nodes; nothing here changes a result or a key."""

from typing import Any, Self

from pydantic import Field, create_model, model_validator

from kdstudy.fields import Strict
from kdstudy.stage import kinds

_SMALLEST = 1e-4  # Ray counts in these


class Needs(Strict):
    """What one stage has to itself while it runs."""

    cpus: float = Field(default=1.0, ge=_SMALLEST)
    """Cores, and threads of a model that runs on them; a fraction lets stages share one."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs; a fraction lets stages share one. null: 1 to run a model where the cluster has any."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that its node must have left; null does not ask."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        gpus = self.gpus or 0
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus: {gpus:g} is more than one and not whole; write {int(gpus)}")
        if 0 < gpus < _SMALLEST:
            raise ValueError(f"gpus: {gpus:g} is less than Ray can count; write 0 or {_SMALLEST:g}")
        return self

    def of_node(self, kind: str, *, any_gpu: bool) -> dict[str, float]:
        """Return what a stage takes from a node, in Ray's names and units (bytes).

        Args:
            kind: The stage's kind.
            any_gpu: Whether any node has a GPU.
        """
        gpus = float(any_gpu and kinds()[kind].needs_model) if self.gpus is None else self.gpus
        memory = int((self.memory_gib or 0) * 2**30)
        asked = {"CPU": round(self.cpus, 4), "GPU": round(gpus, 4), "memory": memory}
        return {name: amount for name, amount in asked.items() if amount}


_FIELDS: dict[str, Any] = {
    kind: (Needs, Field(default=Needs(), description=f"Needs of a `{kind}` stage."))
    for kind in kinds()
}
Resources = create_model(
    "Resources", __base__=Strict, __doc__="What stages ask of a cluster, by their kind.", **_FIELDS
)
