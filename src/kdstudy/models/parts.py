"""A causal LM as body and head, so that only scored positions ever meet the vocabulary.

Shapes: B rows, L positions, N scored tokens, H hidden width, V vocabulary entries.
"""

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudy.errors import InputError

Model = PreTrainedModel | PeftModel
# What models do to logits after the head; scoring without it would train on another distribution.
_AFTER_HEAD = {
    "final_logit_softcapping": None,
    "logits_scaling": 1,
    "logit_scale": 1,
    "lm_head_multiplier": 1,
}


def plain(model: Model) -> PreTrainedModel:
    """Return the transformers model; adapter layers stay in it and stay active."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def head(model: Model) -> nn.Module:
    """Return the module that maps hidden states [..., H] to logits [..., V]."""
    return plain(model).get_output_embeddings()


def scored_hidden(model: Model, ids_BL: Tensor, rows_N: Tensor, positions_N: Tensor) -> Tensor:
    """Return the final hidden states at the scored positions, [N, H].

    Args:
        model: Plain or PEFT causal LM.
        ids_BL: Token ids, padded on the right.
        rows_N: Row of each scored token.
        positions_N: Position whose output predicts it.
    """
    body = plain(model).get_decoder()
    hidden_BLH = body(input_ids=ids_BL, use_cache=False).last_hidden_state
    return hidden_BLH[rows_N, positions_N]


def require_linear_head(model: Model) -> None:
    """Refuse a model whose logits are more than its head applied to its last hidden state.

    Raises:
        InputError: The configuration names a soft cap or scale, or a trial run differs.
    """
    base = plain(model)
    name = getattr(base.config, "model_type", type(base).__name__)
    remedy = "choose a model whose logits come straight from its output layer"
    for key, neutral in _AFTER_HEAD.items():
        value = getattr(base.config, key, None)
        if value is not None and value != neutral:
            raise InputError(
                f"{name}: config.json sets {key} = {value}",
                why="the loss is computed from the head alone and would miss it",
                remedy=remedy,
            )
    ids_BL = torch.arange(4, device=base.device)[None] % base.config.vocab_size
    at_N = torch.arange(4, device=base.device)
    training = model.training
    model.eval()
    with torch.no_grad():
        whole_NV = base(input_ids=ids_BL, use_cache=False).logits[0]
        split_NV = head(model)(scored_hidden(model, ids_BL, torch.zeros_like(at_N), at_N))
    model.train(training)
    tolerance = 1e-4 if whole_NV.dtype == torch.float32 else 5e-2
    gap = (whole_NV.float() - split_NV.float()).abs().max()
    if not gap <= tolerance * (1 + whole_NV.float().abs().max()):
        raise InputError(
            f"{name}: its logits differ from its output layer's by up to {gap:.3g}",
            why="the model changes them after its output layer, and the loss would miss that",
            remedy=remedy,
        )
