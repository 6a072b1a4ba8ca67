"""A model's facts from its files: shapes on the meta device, its tokenizer, a user's adapter."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kdstudy.doctor.facts import AdapterFacts, ModelFacts, Role
from kdstudy.doctor.findings import refused
from kdstudy.models import checkpoint
from kdstudy.models.hub import gguf_here
from kdstudy.models.resolve import Resolved


def folder_of(model: Resolved) -> Path | None:
    """Return the folder of a model that is on this machine, else None; nothing is downloaded."""
    if model.folder:
        return Path(model.folder)
    if model.gguf:
        return gguf_here(model.local())
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            model.hub_id, revision=model.revision, local_files_only=True,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"],
        )  # fmt: skip
    except (OSError, ValueError):
        return None
    # A download that was interrupted leaves a folder without its weights.
    return Path(found) if any(Path(found).glob("*.safetensors")) else None


def facts(
    model: Resolved, folder: Path, roles: tuple[Role, ...], finetuned: bool, precision: str
) -> ModelFacts:
    """Return what the files in `folder` tell of a model; no weight is read.

    Args:
        model: The model.
        folder: Where it lies.
        roles: What the study uses it as.
        finetuned: It is trained on the corpus before it teaches.
        precision: `train.precision` of the study.

    Raises:
        InputError: The folder holds no causal LM, or no tokenizer that can end a text.
    """
    from kdstudy.models import load, parts
    from kdstudy.models.cut import layers_of, shorten
    from kdstudy.models.narrow import thin

    meta = load.meta_model(folder, model.trust_remote_code)
    if model.cut is not None and model.cut.layers is not None:
        shorten(meta, model.cut.layers)
    if model.cut is not None and model.cut.intermediate is not None:
        thin(meta, [range(model.cut.intermediate)] * len(layers_of(meta)))
    tokenizer = load.load_tokenizer(folder, model.trust_remote_code)
    head = parts.head(meta)
    first = tokenizer("a")["input_ids"][:1]
    return ModelFacts(
        name=model.name,
        architecture=parts.name(meta),
        roles=roles,
        finetuned=finetuned,
        parameters=sum(p.numel() for p in meta.parameters()),
        stored=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        itemsize=load.dtype(precision).itemsize,
        width=head.weight.shape[0],
        room=parts.room(meta),
        hidden=head.weight.shape[1],
        linear=load.linear_layers(meta),
        vocabulary=tokenizer.get_vocab(),
        tokenizer_hash=_tokenizer_hash(tokenizer),
        eos=tokenizer.eos_token,
        eos_id=tokenizer.eos_token_id,
        ends=_ends(folder, meta),
        bos=tokenizer.bos_token if first == [tokenizer.bos_token_id] else "",
        chat=bool(getattr(tokenizer, "chat_template", None)),
        replaced=load.replaced_class(tokenizer),
        trusted=model.trust_remote_code,
        adapter=_adapter(model, folder) if model.adapter else None,
    )


def _ends(folder: Path, model: Any) -> tuple[int, ...]:
    """Return the ids that end a text by generation_config.json, else by config.json."""
    path, own = folder / "generation_config.json", None
    if path.is_file():
        own = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    own = getattr(model.config, "eos_token_id", None) if own is None else own
    return () if own is None else (own,) if isinstance(own, int) else tuple(own)


def _tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of what decides ids: vocabulary, merges, normaliser, template, specials."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    said = [rules, getattr(tokenizer, "chat_template", None), tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _adapter(model: Resolved, folder: Path) -> AdapterFacts:
    from kdstudy.models import load

    place, meta = Path(str(model.adapter)), load.meta_model(folder, model.trust_remote_code)
    config = checkpoint.read_json(place / "adapter_config.json")
    return AdapterFacts(
        folder=str(place),
        base=config.get("base_model_name_or_path") or "",
        refusal=refused(load.put_adapter, meta, place),
    )
