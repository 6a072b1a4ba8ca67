"""What each layer of a model does to its input, and each neuron of its MLPs adds to the output.

Shapes: L positions of a row, H hidden width, I neurons of an MLP.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudy.errors import InputError
from kdstudy.models.cut import layers_of
from kdstudy.models.narrow import mlps
from kdstudy.models.parts import body, name
from kdstudy.stage import Progress, silent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance:
    """What was measured on some rows.

    Attributes:
        influence: Of each layer, 1 - cos(h_in, h_out), the mean over all positions of all rows
            (block influence, ShortGPT, arXiv 2403.03853, equation 1): 0 of a layer that changes
            nothing, 1 of one whose output says nothing of its input.
        neurons_I: Of each layer, for each neuron of its MLP the root mean square over positions of
            what it adds to the residual stream: sqrt(E[a^2]) |w|, a its activation, w its column of
            the output projection, float64. Empty where that was not asked for. Minitron (arXiv
            2407.14679) ranks by a alone, which keeps a neuron that nothing reads.
        tokens: How many positions.
    """

    influence: list[float]
    neurons_I: list[Tensor]
    tokens: int


@torch.inference_mode()
def measure(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    *,
    neurons: bool,
    progress: Progress = silent,
) -> Importance:
    """Measure a model on rows of token ids, one by one: no position is padding.

    The output of the last layer is what the layer gives, before the final norm.

    Args:
        model: A plain causal LM in eval mode.
        rows: Token ids, at least one row.
        neurons: Measure MLPs as well.
        progress: Told how many rows are done.

    Raises:
        InputError: The model does not show its layers, or its MLPs where they are asked for; or it
            gives no finite numbers.
    """
    assert not any(module.training for module in model.modules()), "dropout would be measured"
    blocks = layers_of(model)
    downs = [mlp.down for mlp in mlps(model)] if neurons else []
    changed = torch.zeros(len(blocks), dtype=torch.float64)
    squares = [torch.zeros(down.in_features, dtype=torch.float64) for down in downs]
    run = body(model)
    with _watched(blocks, changed), _felt(downs, squares):
        for done, ids in enumerate(rows, 1):
            run(input_ids=torch.tensor(ids, device=model.device)[None], use_cache=False)
            progress(done, len(rows), "row")
    tokens = sum(map(len, rows))
    if not all(numbers.isfinite().all() for numbers in (changed, *squares)):
        raise InputError(
            f"{name(model)}: its hidden states are not finite numbers",
            remedy="download or save the model again",
        )
    columns_I = [down.weight.double().norm(dim=0).cpu() for down in downs]
    return Importance(
        influence=(changed / tokens).tolist(),
        neurons_I=[
            (total_I / tokens).sqrt() * column_I
            for total_I, column_I in zip(squares, columns_I, strict=True)
        ],
        tokens=tokens,
    )


@contextmanager
def _watched(blocks: Sequence[nn.Module], changed: Tensor) -> Iterator[None]:
    """Add to `changed`, while the block runs, what every layer's cosines lack of 1."""

    def watch(place: int) -> Callable[..., None]:
        def hook(_: Any, args: Any, named: Any, out: Any) -> None:
            into_LH = (args[0] if args else named["hidden_states"])[0].double()
            out_LH = (out[0] if isinstance(out, tuple) else out).view_as(into_LH).double()
            cosine_L = nn.functional.cosine_similarity(into_LH, out_LH, dim=-1)
            changed[place] += (1 - cosine_L).sum().cpu()

        return hook

    handles = [
        block.register_forward_hook(watch(place), with_kwargs=True)
        for place, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _felt(downs: Sequence[nn.Linear], squares: Sequence[Tensor]) -> Iterator[None]:
    """Add to `squares`, while the block runs, the squared activations that MLPs put out."""

    def feel(total_I: Tensor) -> Callable[..., None]:
        def hook(_: Any, args: Any) -> None:
            total_I.add_(args[0][0].double().square().sum(0).cpu())

        return hook

    handles = [
        down.register_forward_pre_hook(feel(total_I))
        for down, total_I in zip(downs, squares, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
