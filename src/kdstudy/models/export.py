"""A trained model as a folder for others: nothing in it names a path of this machine."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from kdstudy.artifacts import Trained
from kdstudy.data.prompts import PromptFormat, render
from kdstudy.errors import InputError
from kdstudy.models import load
from kdstudy.models.adapters import CONFIG
from kdstudy.models.fetch import fetch
from kdstudy.models.resolve import public
from kdstudy.models.save import ends_of, leave_ignored

# What the Hub and transformers split a model's files at.
_SHARD = "5GB"


def write(
    local: Mapping[str, Any],
    trained: Trained,
    out: Path,
    *,
    merge: bool,
    precision: str,
    decoding: Mapping[str, Any] | None,
) -> str:
    """Fill a folder with an adapter or a whole model, tokenizer and generation settings.

    A merge is done in float32 on this machine's memory, and rounded once, to `precision`; the
    folder is loaded again and compared with what was in memory.

    Args:
        local: The base, from `resolve.Resolved.local`.
        trained: What the train stage left.
        out: Folder to fill.
        merge: Write a whole model where an adapter was trained.
        precision: Type of a whole model's weights; an adapter keeps the one it was trained in.
        decoding: How it was measured: `max_new_tokens`, `temperature`, `top_p`; None keeps the
            base's own settings, where all that ends a text is named.

    Returns:
        A sentence on how to load the tokenizer, where AutoTokenizer would read it otherwise.

    Raises:
        InputError: An adapter alone would not give the trained model, or cannot be merged.
        StageError: What was written is another model when it is loaded again.
    """
    tokenizer = load.open_tokenizer(local)
    if trained.whole or merge:
        model = load.merge(load.open_model(local, "float32", trained))
        model = model.to(load.dtype(precision))
        load.align(model, tokenizer)
        model.generation_config = _settings(model.generation_config, tokenizer, decoding)
        load.save(model, out, tokenizer, shard=_SHARD)
        trust = local["trust_remote_code"]
        load.require_same(
            model, out, lambda: load.load_model(out, precision=precision, trust_remote_code=trust)
        )
        return load.read_otherwise(tokenizer, out)
    _require_adapter_alone(local)
    shutil.copytree(trained.adapter, out, dirs_exist_ok=True)
    tokenizer.save_pretrained(out)
    name_base(out, local)
    known = _known_settings(fetch(local), local["trust_remote_code"])
    _settings(known, tokenizer, decoding).save_pretrained(out)
    return load.read_otherwise(tokenizer, out)


def name_base(adapter: Path, local: Mapping[str, Any]) -> None:
    """Have an adapter name its base as others know it, at the commit that it was trained on."""
    path = adapter / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = public(local["hub_id"] or local["folder"])
    config["revision"] = local["revision"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def shown_prompts(tokenizer: PreTrainedTokenizerBase, made: PromptFormat) -> str:
    """Return the prompts of a chat template as Markdown: as it renders them, or how it refuses.

    Args:
        tokenizer: With a chat template.
        made: How prompts were made in training: arguments and date.
    """
    asked = [{"role": "user", "content": "{question}"}]
    briefed = [{"role": "system", "content": "{system message}"}, *asked]
    parts = []
    for title, messages in (("A question", asked), ("With a system message", briefed)):
        try:
            text = render(made, messages, tokenizer)
        except InputError as e:
            parts.append(f"{title}: {e.what}.")
            continue
        # A fence is longer than any that the template writes.
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
        parts.append(f"{title}:\n\n{fence}text\n{text}\n{fence}")
    return "\n\n".join(parts)


def licence(folder: Path) -> str | None:
    """Return the licence that a model's own card names, or None."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    header = re.match(r"---\n(.*?)\n---\s", text, re.DOTALL)
    try:
        found = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError:  # a card is anybody's text
        return None
    named = found.get("license") if isinstance(found, dict) else None
    return named if isinstance(named, str) else None


def _known_settings(folder: Path, trust_remote_code: bool) -> GenerationConfig:
    """Return a model's own settings, as transformers gives them to it."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return GenerationConfig.from_model_config(config)


def _settings(
    known: GenerationConfig, tokenizer: PreTrainedTokenizerBase, decoding: Mapping[str, Any] | None
) -> GenerationConfig:
    """Return the settings under which `generate()` decodes as the study did.

    Args:
        known: The model's own; they name further tokens that end a text.
        tokenizer: Its end comes first: what the model was taught to end with.
        decoding: As in `write`.
    """
    ends = [*ends_of(known, tokenizer)]
    special = {
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if decoding is None:
        config = GenerationConfig.from_dict(known.to_dict() | special)
        leave_ignored(config)
        return config
    # The base's own, a sampling temperature or a repetition penalty, are not what was measured.
    settings: dict[str, Any] = {"do_sample": False}
    if decoding["temperature"]:
        settings = {"do_sample": True, "top_k": 0}
        settings |= {k: decoding[k] for k in ("temperature", "top_p")}
    return GenerationConfig(max_new_tokens=decoding["max_new_tokens"], **special, **settings)


def _require_adapter_alone(local: Mapping[str, Any]) -> None:
    """Refuse to hand out an adapter that its base's name does not make a model of."""
    if local["adapter"]:
        raise InputError(
            f"it was trained on {public(local['hub_id'] or local['folder'])} with the adapter "
            f"{public(local['adapter'])} merged into it",
            why="put on the published model alone, the new adapter would give another model",
            remedy="add --merge: both adapters become part of a whole model",
        )
    config = AutoConfig.from_pretrained(fetch(local), trust_remote_code=local["trust_remote_code"])
    if type(config.get_text_config(decoder=True)) is not type(config):
        raise InputError(
            f"its base, a {config.model_type}, reads more than text, and the adapter is for its "
            "language model alone",
            why="PEFT would put it on the whole, where its weights have other names",
            remedy="add --merge: the language model is written whole",
        )
