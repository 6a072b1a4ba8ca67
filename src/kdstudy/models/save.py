"""Models as folders that PEFT or transformers load: written, put back, and held against memory."""

import contextlib
import copy
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import WeakSet

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdstudy.data.chat import end_ids
from kdstudy.errors import KdstudyError, StageError
from kdstudy.models import checkpoint, memory
from kdstudy.models.adapters import (
    CONFIG,
    WEIGHTS,
    active,
    adapter_weights,
    embedding_names,
    quiet,
)
from kdstudy.models.parts import Model, plain, require_room, trial_logits
from kdstudy.models.tokenizer import read_otherwise

# One file: a checkpoint is read back whole.
_WHOLE = "1TB"
_read_again: WeakSet[PreTrainedTokenizerBase] = WeakSet()


def save(
    model: Model,
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    base: str = "",
    *,
    shard: str = _WHOLE,
) -> None:
    """Write an adapter (PEFT) or a whole model, with the tokenizer, as safetensors.

    A whole model's configuration names the tokens that end a text, the tokenizer's first. An
    adapter is the active one, in `out` itself whatever its name, and holds the embedding where the
    vocabulary was resized. A warning says so where AutoTokenizer will read the tokenizer otherwise.

    Args:
        model: What to save.
        out: Folder to fill.
        tokenizer: Saved beside it.
        base: What an adapter names as its base, not the folder that was loaded: a Hub id.
        shard: Size of a whole model's files, as in `save_pretrained`.
    """
    if isinstance(model, PeftModel):
        _save_adapter(model, out, base)
    else:
        align(model, tokenizer)
        with quiet():
            model.save_pretrained(out, max_shard_size=shard)
    tokenizer.save_pretrained(out)
    # Once is enough: checkpoints of one run are read alike.
    if tokenizer not in _read_again:
        _read_again.add(tokenizer)
        if said := read_otherwise(tokenizer, out):
            logging.getLogger(__name__).warning("%s: %s", out, said)


def align(model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a model's configurations name the tokenizer's special tokens, as `Trainer` does.

    What ended a text before ends it still: the taught token comes first, the others after it.
    """
    base = plain(model)
    ends = [*eos_ids(model, tokenizer)]
    own = base.config.get_text_config(decoder=True)
    if isinstance(own.eos_token_id, list):
        own.eos_token_id = [*dict.fromkeys([ends[0], *own.eos_token_id])]
    else:
        own.eos_token_id = ends[0]
    if base.generation_config is not None:
        base.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
        leave_ignored(base.generation_config)
    for name in ("bos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            for config in filter(None, (own, base.generation_config)):
                setattr(config, name, getattr(tokenizer, name))


def leave_ignored(config: GenerationConfig) -> None:
    """Take out settings that `generate` ignores, such as a temperature of greedy decoding.

    transformers reads folders that have them, and refuses to write them.
    """
    try:
        config.validate(strict=True)
    except ValueError as e:
        for name in re.findall(r"^- `(\w+)`", str(e), re.MULTILINE):
            setattr(config, name, None)


def eos_ids(model: Model, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every id that ends a completion: the tokenizer's, the template's, the model's.

    The template's is the token that its chat template ends an assistant's turn with; the model's
    are those of its generation config.

    Raises:
        InputError: The tokenizer's is none of the model's tokens: no text could end in it.
    """
    require_room(model, 0, tokenizer.eos_token_id)
    return ends_of(getattr(plain(model), "generation_config", None), tokenizer)


def ends_of(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the same from the generation settings alone."""
    more = getattr(config, "eos_token_id", None)
    more = [] if more is None else [more] if isinstance(more, int) else list(more)
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *end_ids(tokenizer), *more]))


def restore(model: Model, folder: Path) -> None:
    """Put the weights that `save` wrote back into the model they came from.

    Raises:
        StageError: The folder holds the weights of another model.
    """
    adapted = isinstance(model, PeftModel)
    saved = load_file(folder / (WEIGHTS if adapted else "model.safetensors"))
    whole = model.state_dict()
    own = adapter_weights(model) if adapted else whole
    if adapted:
        # Embedding and output layer of a resized vocabulary, which the adapter leaves alone.
        saved = {n: v for n, v in saved.items() if n in own or n not in whole}
    strangers = [n for n, v in saved.items() if n not in own or own[n].shape != v.shape]
    # A tied output layer is not in the file.
    tied = set() if adapted else set(plain(model).all_tied_weights_keys)
    if strangers or own.keys() - saved.keys() - tied:
        raise StageError(
            f"{folder}: was made by another training (its parameters have other names or shapes)",
            remedy="delete the folder and train again",
        )
    if adapted:
        set_peft_model_state_dict(model, saved, adapter_name=active(model))
    else:
        model.load_state_dict(saved, strict=False)


def require_same(model: Model, folder: Path, reload: Callable[[], Model] | None) -> None:
    """Refuse a saved folder that, loaded again, is not the model that was saved.

    An adapter's file is compared with the adapter byte by byte; the logits of one short row with
    those of the folder loaded anew. Loading is left out where the memory has no room for a second
    model.

    Args:
        model: What was saved.
        folder: Where.
        reload: Loads it as a user would; None where that cannot be told.

    Raises:
        StageError: It differs.
    """
    if isinstance(model, PeftModel):
        _require_bytes(model, folder)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if reload is None or size > memory.SHARE * memory.free(model.device):
        return
    try:
        again = reload()
    except (KdstudyError, OSError, ValueError, RuntimeError) as e:
        raise StageError(f"{folder}: was saved, and does not load again: {e}") from e
    want_LV, got_LV = trial_logits(model).float(), trial_logits(again).float()
    gap = float("inf")
    if want_LV.shape == got_LV.shape:
        gap = float((want_LV - got_LV.to(want_LV.device)).abs().max())
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    if not gap <= tolerance * (1 + float(want_LV.abs().max())):
        raise StageError(
            f"{folder}: was saved, and loaded again it is another model: its logits differ by up "
            f"to {gap:.3g}",
            why="an adapter's file holds the adapter alone: its base was changed in memory, or is "
            "another one where it lies"
            if isinstance(model, PeftModel)
            else "something of the model is not in its files",
            remedy="save the base as it is in memory and start from that folder; or train the "
            "student whole",
        )


def home_of(model: PreTrainedModel) -> Path | None:
    """Return the folder that a model was loaded from, if it is on this machine."""
    name = model.config._name_or_path
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name) if (Path(name) / "config.json").is_file() else None
    try:
        commit = getattr(model.config, "_commit_hash", None)
        found = try_to_load_from_cache(name, "config.json", revision=commit)
    except ValueError:  # no Hub id
        return None
    return Path(found).parent if isinstance(found, str) else None


def _save_adapter(model: PeftModel, out: Path, base: str) -> None:
    name = active(model)
    live = model.peft_config[name]
    with _without_card(model):
        commit = getattr(plain(model).config, "_commit_hash", None) if "/" in base else None
        model.peft_config[name] = _public(live, base, commit)
        try:
            with quiet():
                # "auto" would ask the Hub whether the base's vocabulary has grown.
                model.save_pretrained(
                    out, selected_adapters=[name], save_embedding_layers=_is_resized(model)
                )
        finally:
            model.peft_config[name] = live
    if name != "default":  # PEFT gives it a folder of its own
        for file in (CONFIG, WEIGHTS):
            (out / name / file).replace(out / file)
        shutil.rmtree(out / name)
    if _is_resized(model):
        _add_embeddings(model, out / WEIGHTS)


def _public(config: PeftConfig, base: str, revision: str | None) -> PeftConfig:
    """Return an adapter's configuration as others may see it, alike in every process."""
    config = copy.deepcopy(config)
    config.base_model_name_or_path, config.revision = base, revision
    if isinstance(getattr(config, "target_modules", None), set):  # in the order of hashes
        config.target_modules = sorted(config.target_modules)
    return config


def _is_resized(model: PeftModel) -> bool:
    """Whether the vocabulary has other rows than the base has where it lies."""
    home = home_of(plain(model))
    if home is None:
        return False
    config = json.loads((home / "config.json").read_text(encoding="utf-8"))
    known = checkpoint.entries(config)
    return known is not None and known != len(plain(model).get_input_embeddings().weight)


def _add_embeddings(model: PeftModel, file: Path) -> None:
    """Add what PEFT leaves out where an adapter is on one of embedding and output layer."""
    saved, whole = load_file(file), model.state_dict()
    missing = {
        name: whole[name].detach().cpu().clone()
        for name in (f"{place}.weight" for place in embedding_names(model))
        if name not in saved and name in whole
    }
    if missing:
        save_file(saved | missing, file, metadata={"format": "pt"})


def _require_bytes(model: PeftModel, folder: Path) -> None:
    saved = load_file(folder / WEIGHTS)
    own = adapter_weights(model)
    for name, value in own.items():
        if name not in saved or not torch.equal(saved[name], value.detach().cpu()):
            raise StageError(
                f"{folder}: was saved, and {name} is not in its file as it is in memory",
                remedy="look for a full or failing disk; train again to be sure",
            )


@contextlib.contextmanager
def _without_card(model: PeftModel) -> Iterator[None]:
    """Keep PEFT from writing a model card, which would repeat the folder of the base."""
    model.create_or_update_model_card = lambda *_: None
    try:
        yield
    finally:
        del model.create_or_update_model_card
