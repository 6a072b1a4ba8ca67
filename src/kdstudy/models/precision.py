"""Which type a machine trains a model in faster: on a CPU measured, on two of its layers."""

import functools
import json
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
# Nobody trains wider ones on a CPU, and two of their layers would take gigabytes.
_WIDE = 2048
_LAYERS, _ROWS, _LENGTH = 2, 4, 128
# The body looks its tokens up; how many others there are changes memory alone.
_VOCABULARY = 1024
_SECONDS = 1.0


def gpu() -> str | None:
    """Return the type that this machine's GPU trains in: bfloat16 if it has that; None without."""
    if not torch.cuda.is_available():
        return None
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def gain(folder: Path) -> float | None:
    """Return how many times faster a CPU trains under bfloat16 autocast than in float32.

    None where that is not asked: the model is narrow or very wide, or it needs code of its own.

    Args:
        folder: Has the model's configuration; its weights are not read.
    """
    try:
        text = AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
        if not _NARROW <= text.hidden_size <= _WIDE:
            return None
        return _measured(type(text), text.to_json_string(use_diff=False))
    except Exception:  # any architecture, cut to two layers: float32 is right for all
        return None


@functools.cache
def _measured(kind: type, config: str) -> float:
    """Return the gain of a configuration; a process measures equal ones once."""
    run = _pass(kind.from_dict(json.loads(config)))
    run(False), run(True)  # the first call of each sets up what the next ones use
    return _ratio(run)


def _pass(config: object) -> Callable[[bool], None]:
    """Return a forward and backward pass of a shallow model of this width, in either type."""
    config.num_hidden_layers = min(_LAYERS, config.num_hidden_layers)
    config.vocab_size = min(_VOCABULARY, config.vocab_size)
    config.pad_token_id = None  # may lie outside
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
