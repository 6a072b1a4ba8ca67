"""The stage `cut`: a student's base, cut out of another model."""

import json
import shutil
from pathlib import Path

from kdstudy.models import load
from kdstudy.models.adapters import quiet
from kdstudy.models.layers import chosen
from kdstudy.models.resolve import fetch, read_files
from kdstudy.stage import Work

# Of a model's folder: its weights and what describes them are written anew.
_ANEW = ("config.json", "*.safetensors", "*.safetensors.index.json")


def cut(work: Work) -> str:
    """Keep some layers of a model: `model/`, as transformers saves one, and `cut.json`.

    Config: `source` {fingerprint} and `layers`, how many or which. Local: `models` {source:
    `resolve.Resolved.local`}. An adapter of the source is merged first. Tokenizer, chat template
    and generation settings are the source's; weights keep the type that they are stored in.

    Raises:
        InputError: The folder is no model, or the model cannot be cut so.
        StageError: What was written is another model when it is loaded again.
    """
    local = work.local["models"]["source"]
    folder, trust = fetch(local), local["trust_remote_code"]
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = said.get("dtype") or said.get("torch_dtype")
    # A merge is exact in float32 alone.
    precision = stored if stored in load.DTYPES and not local["adapter"] else "float32"
    whole = load.open_model({**local, "layers": None}, precision)
    before = sum(p.numel() for p in whole.parameters())
    kept = chosen(work.config["layers"], whole.config.num_hidden_layers, folder.name)
    of, model = whole.config.num_hidden_layers, load.cut(whole, kept)
    out = work.out / "model"
    shutil.rmtree(out, ignore_errors=True)  # a save that was interrupted
    with quiet():
        model.save_pretrained(out, max_shard_size="5GB")
    _copy_words(folder, out, trust)
    load.require_same(
        model, out, lambda: load.load_model(out, precision=precision, trust_remote_code=trust)
    )
    facts = {
        "of": of,
        "kept": kept,
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_before": before,
    }
    (work.out / "cut.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    share = facts["parameters"] / before
    return f"layers {', '.join(map(str, kept))} of {of}; {share:.0%} of the parameters"


def _copy_words(folder: Path, out: Path, trust_remote_code: bool) -> None:
    """Copy what is read of a model's folder beside its weights: tokenizer, template, settings."""
    for file in read_files(folder, trust_remote_code):
        if not any(file.match(pattern) for pattern in _ANEW):
            copy = out / file.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
