"""Memory that is free, and how many rows can be decoded together in it."""

from pathlib import Path

import psutil
import torch

from kdstudy.models import parts

# Share of the free bytes that a batch may fill: the estimate leaves out what a forward pass holds
# for a moment, and other programs want some too.
SHARE = 0.6
# Rows of a batch, which is what an interruption loses. Two cores answer as fast with 100 rows of
# the zoo's largest model as with 300; that a GPU gains from more is expected, not measured.
MOST, MOST_CUDA = 256, 512
# Bytes per vocabulary entry and row besides the logits: float32 scores and probabilities.
_DRAWING = 8


def free(device: torch.device) -> int:
    """Return the bytes free on a GPU, or in this machine's memory or its container's."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    available = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{x}").read_text()) for x in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files are given back when memory is short.
        return min(available, limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return available  # no container, or one without a limit


def room(length: int) -> int:
    """Return how many positions a cache has memory for when it holds `length`."""
    return length + length // 4 + 64


def bytes_per_row(model: parts.Model, prompt: int, new: int) -> int:
    """Return what decoding one row needs at most.

    The key-value cache, 2 * layers * key-value heads * head width numbers a position, and the
    logits with what drawing from them takes.

    Args:
        model: What decodes.
        prompt: Tokens of the prompt.
        new: Tokens that may follow.
    """
    config = parts.plain(model).config.get_text_config(decoder=True)
    queries = getattr(config, "num_attention_heads", None) or 1  # none where nothing attends
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or config.hidden_size // queries
    position = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    logits = config.vocab_size * (model.dtype.itemsize + _DRAWING)
    return position * room(prompt + new) + logits


def rows_together(model: parts.Model, prompt: int, new: int) -> int:
    """Return how many rows to decode together, at least one.

    Args:
        model: What decodes.
        prompt: Tokens of the longest prompt.
        new: Tokens that may follow.
    """
    fit = int(SHARE * free(model.device)) // bytes_per_row(model, prompt, new)
    return max(1, min(fit, MOST_CUDA if model.device.type == "cuda" else MOST))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in this machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch's CPU allocator says; it has no type of its own.
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
