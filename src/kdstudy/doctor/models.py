"""A model's facts from its files: shapes on the meta device, its tokenizer, a user's adapter."""

import hashlib
import json
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdstudy.doctor.patient import AdapterFacts, ModelFacts, Role
from kdstudy.models import load, parts
from kdstudy.models.cut import layers_of, shorten
from kdstudy.models.narrow import thin
from kdstudy.models.resolve import Resolved, gguf_here


def folder_of(model: Resolved) -> Path | None:
    """Return the folder of a model that is on this machine, else None; nothing is downloaded."""
    if model.folder:
        return Path(model.folder)
    if model.gguf:
        return gguf_here(model.local())
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
    load.require_causal_lm(folder, model.trust_remote_code)
    bones = _bones(folder, model.trust_remote_code)
    if model.cut is not None and model.cut.layers is not None:
        shorten(bones, model.cut.layers)
    if model.cut is not None and model.cut.intermediate is not None:
        thin(bones, [range(model.cut.intermediate)] * len(layers_of(bones)))
    tokenizer = load.load_tokenizer(folder, model.trust_remote_code)
    head = parts.head(bones)
    first = tokenizer("a")["input_ids"][:1]
    return ModelFacts(
        name=model.name,
        roles=roles,
        finetuned=finetuned,
        parameters=sum(p.numel() for p in bones.parameters()),
        stored=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        itemsize=load.dtype(precision).itemsize,
        width=head.weight.shape[0],
        room=parts.room(bones),
        hidden=head.weight.shape[1],
        linear=load.linear_layers(bones),
        vocabulary=tokenizer.get_vocab(),
        reads=_reading(tokenizer),
        eos=tokenizer.eos_token,
        eos_id=tokenizer.eos_token_id,
        ends=_ends(folder, bones),
        bos=tokenizer.bos_token if first == [tokenizer.bos_token_id] else "",
        chat=bool(getattr(tokenizer, "chat_template", None)),
        replaced=load.replaced_class(tokenizer),
        trusted=model.trust_remote_code,
        adapter=_adapter(Path(model.adapter)) if model.adapter else None,
    )


def _bones(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # On the meta device a model has names and shapes and no memory.
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _ends(folder: Path, bones: PreTrainedModel) -> tuple[int, ...]:
    """Return the ids that end a text by generation_config.json, else by config.json."""
    path, own = folder / "generation_config.json", None
    if path.is_file():
        own = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    own = getattr(bones.config, "eos_token_id", None) if own is None else own
    return () if own is None else (own,) if isinstance(own, int) else tuple(own)


def _reading(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what decides ids: vocabulary, merges, normaliser, template, specials."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    said = [rules, getattr(tokenizer, "chat_template", None), tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _adapter(folder: Path) -> AdapterFacts:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors: dict[str, dict[str, tuple[int, ...]]] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as f:
        for key in f.keys():  # noqa: SIM118
            module, _, which = key.removeprefix("base_model.model.").partition(".lora_")
            # Only LoRA's pairs tell which layer they need; other adapters are tried by loading.
            if which in ("A.weight", "B.weight"):
                tensors.setdefault(module, {})[which[0]] = tuple(f.get_slice(key).get_shape())
    base = config.get("base_model_name_or_path") or ""
    return AdapterFacts(folder=str(folder), base=base, tensors=tensors)
