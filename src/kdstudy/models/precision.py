"""Which type a CPU trains a model in faster: measured once, on two of its layers."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdstudy.models import parts

# bfloat16 must be this much faster to be taken: it rounds, and other programs disturb a clock.
MARGIN = 1.25
# Narrower models are not measured: their passes are launches and not products, and bfloat16 only
# adds casts to them.
_NARROW = 384
_LAYERS, _ROWS, _LENGTH = 2, 4, 128
_SECONDS = 1.0


def gain(folder: Path) -> float | None:
    """Return how many times faster a training pass is under bfloat16 autocast than in float32.

    None where that is not asked: there is a GPU, the model is narrow, or it needs code of its own.

    Args:
        folder: Has the model's configuration; its weights are not read.
    """
    if torch.cuda.is_available():
        return None
    try:
        config = AutoConfig.from_pretrained(folder)
        text = copy.deepcopy(config.get_text_config(decoder=True))
        if text.hidden_size < _NARROW:
            return None
        run = _pass(text)
        run(False), run(True)  # the first call of each sets up what the next ones use
    except Exception:  # any architecture, cut to two layers: float32 is right for all
        return None
    return _ratio(run)


def _pass(config: object) -> Callable[[bool], None]:
    """Return a forward and backward pass of a shallow model of this width, in either type."""
    config.num_hidden_layers = min(_LAYERS, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.random.fork_rng():
        body = parts.body(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    ids_BL = torch.arange(_ROWS * _LENGTH).view(_ROWS, _LENGTH) % config.vocab_size

    def run(narrow: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            hidden_BLH = body(input_ids=ids_BL, use_cache=False).last_hidden_state
        hidden_BLH.float().square().mean().backward()
        body.zero_grad()

    return run


def _ratio(run: Callable[[bool], None]) -> float:
    """Return the ratio of the fastest passes; other work makes a pass slower and never faster."""
    fastest = {False: float("inf"), True: float("inf")}
    end = time.perf_counter() + _SECONDS
    while True:
        for narrow in fastest:
            started = time.perf_counter()
            run(narrow)
            fastest[narrow] = min(fastest[narrow], time.perf_counter() - started)
        if time.perf_counter() > end:
            return fastest[False] / fastest[True]
