"""A model cut in width: some neurons of each layer's MLP, and a configuration that says so.

Shapes: H hidden width, I neurons of an MLP.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudy.errors import InputError
from kdstudy.models.cut import layers_of, rebuilt_otherwise
from kdstudy.models.parts import alike, name, trial_logits

_FIELD = "intermediate_size"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlp:
    """The MLP of a layer.

    Attributes:
        module: It, whole.
        ups: Its projections from H to I: one, or two where one gates the other.
        down: Its projection from I to H.
    """

    module: nn.Module
    ups: tuple[nn.Linear, ...]
    down: nn.Linear


def mlps(model: PreTrainedModel) -> list[Mlp]:
    """Return the MLP of every layer.

    Raises:
        InputError: Some layer has none or several (experts), one whose projections are fused, or
            one with weights of another kind.
    """
    config = model.config
    hidden, neurons = config.hidden_size, getattr(config, _FIELD, None)
    found = []
    for place, layer in enumerate(layers_of(model)):
        some = [mlp for module in layer.modules() if (mlp := _mlp(module, hidden, neurons))]
        if len(some) != 1:
            raise _refusal(
                model,
                f"{len(some) or 'none'} of the parts of layer {place} is an MLP of {neurons} "
                "neurons with plain linear projections",
            )
        found += some
    return found


def _mlp(module: nn.Module, hidden: int, neurons: object) -> Mlp | None:
    """Return a module as an MLP, if it is one."""
    linear = [child for child in module.children() if isinstance(child, nn.Linear)]
    shapes = [(child.in_features, child.out_features) for child in linear]
    if hidden == neurons or shapes.count((neurons, hidden)) != 1:
        return None
    down = linear[shapes.index((neurons, hidden))]
    ups = tuple(child for child in linear if child is not down)
    if not ups or any((up.in_features, up.out_features) != (hidden, neurons) for up in ups):
        return None
    own = {id(p) for child in linear for p in child.parameters()}
    alone = all(id(p) in own for p in module.parameters())
    return Mlp(module=module, ups=ups, down=down) if alone else None


def thin(model: PreTrainedModel, kept: Sequence[Sequence[int] | Tensor]) -> None:
    """Take neurons out of a model's MLPs and have its configuration say so.

    A model on the meta device will do.

    Args:
        model: A plain causal LM; changed in place.
        kept: Numbers of the neurons that each layer keeps, as many in each.

    Raises:
        InputError: As `mlps`.
    """
    for mlp, some in zip(mlps(model), kept, strict=True):
        at_I = torch.as_tensor(some, device=mlp.down.weight.device)
        mlp.down.weight = nn.Parameter(mlp.down.weight.detach()[:, at_I].contiguous())
        mlp.down.in_features = len(at_I)
        for up in mlp.ups:
            up.weight = nn.Parameter(up.weight.detach()[at_I].contiguous())
            up.bias = None if up.bias is None else nn.Parameter(up.bias.detach()[at_I])
            up.out_features = len(at_I)
        if hasattr(mlp.module, _FIELD):
            setattr(mlp.module, _FIELD, len(at_I))
    setattr(model.config, _FIELD, len(kept[0]))


@torch.no_grad()
def narrow(model: PreTrainedModel, kept: Sequence[Sequence[int] | Tensor]) -> PreTrainedModel:
    """Return the model with some neurons of its MLPs; as `thin`, and tried.

    Raises:
        InputError: As `thin`; or the model is not what it would be if the other neurons put out
            zeros; or one built anew from the configuration would have other MLPs.
    """
    for mlp, some in zip(mlps(model), kept, strict=True):
        others_I = torch.ones(mlp.down.in_features, dtype=torch.bool)
        others_I[torch.as_tensor(some)] = False
        mlp.down.weight[:, others_I] = 0
    silenced_LV = trial_logits(model)
    thin(model, kept)
    if not alike(silenced_LV, trial_logits(model)):
        raise _refusal(model, "its MLPs do more with a neuron than add its output")
    if difference := rebuilt_otherwise(model):
        raise _refusal(model, f"its configuration cannot say how wide they are: {difference}")
    return model


def strongest(neurons: int, importance_I: Tensor) -> Tensor:
    """Return the numbers of the most important neurons, ascending; of equals the earlier."""
    ranked = importance_I.sort(descending=True, stable=True).indices
    return ranked[:neurons].sort().values


def _refusal(model: PreTrainedModel, why: str) -> InputError:
    return InputError(
        f"intermediate: the MLPs of {name(model)} cannot be cut",
        why=why,
        remedy="leave intermediate out, or cut a model of another architecture",
    )
