"""The stages `importance` and `cut`: a student's base, cut out of another model."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from kdstudy.artifacts import CORPUS, IMPORTANCE, CutModel, Importance
from kdstudy.data.prompts import called, row_of
from kdstudy.errors import InputError
from kdstudy.models import load
from kdstudy.models.adapters import quiet
from kdstudy.models.fetch import fetch, read_files
from kdstudy.models.importance import measure
from kdstudy.models.kinds import CutConfig, ImportanceConfig
from kdstudy.models.layers import chosen, influential
from kdstudy.models.narrow import narrow, strongest
from kdstudy.stage import Work

# Of a model's folder: its weights and what describes them are written anew.
_ANEW = ("config.json", "*.safetensors", "*.safetensors.index.json")


def importance(work: Work) -> str:
    """Measure a model's layers and neurons on training rows: an `Importance`.

    Config: `ImportanceConfig`. Inputs: `corpus`, of which the training split alone is read. Local:
    `models` {source: `resolve.Resolved.local`}. An adapter of the source is merged first; what is
    computed is float32.

    Raises:
        InputError: No row leaves room for a response, or the model cannot be measured.
    """
    local, config = work.local["models"]["source"], ImportanceConfig.of(work.config)
    rows = _training_rows(work, config, load.open_tokenizer(local))
    model = load.open_model({**local, "layers": None, "intermediate": None}, "float32")
    found = measure(model, rows, neurons=config.neurons, progress=work.progress)
    made = Importance(work.out)
    if config.neurons:
        named = {f"layer.{i}": numbers_I for i, numbers_I in enumerate(found.neurons_I)}
        save_file(named, made.neurons)
    facts = {"rows": len(rows), "tokens": found.tokens, "influence": found.influence}
    made.facts.write(facts)
    least = min(range(len(found.influence)), key=found.influence.__getitem__)
    return (
        f"{len(rows)} rows, {found.tokens} tokens; layer {least} changes least, by "
        f"{found.influence[least]:.3f}"
    )


def _training_rows(work: Work, config: ImportanceConfig, tokenizer: Any) -> list[tuple[int, ...]]:
    """Return the ids of the first training rows that leave room for a response."""
    made, limit = config.format(), config.max_length
    corpus = work.read(CORPUS)
    known, examples = corpus.places, corpus.train.read()
    rows = [
        row_of(tokenizer, made, e, limit, where=called(e, known)) for e in examples[: config.rows]
    ]
    if not any(rows):
        raise InputError(
            f"no training row leaves room for a response in {limit} tokens",
            remedy="raise train.max_length",
        )
    return [row.ids for row in rows if row is not None]


def cut(work: Work) -> str:
    """Keep some layers and neurons of a model: a `CutModel`.

    Config: `CutConfig`. Inputs: `importance` where the
    cut is by measured importance. Local: `models` {source: `resolve.Resolved.local`}. An adapter of
    the source is merged first. Tokenizer, chat template and generation settings are the source's;
    weights keep the type that they are stored in.

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
    whole = load.open_model({**local, "layers": None, "intermediate": None}, precision)
    before = sum(p.numel() for p in whole.parameters())
    model, facts = _shrunk(work, whole, folder.name)
    made = CutModel(work.out)
    out = made.model
    shutil.rmtree(out, ignore_errors=True)  # a save that was interrupted
    with quiet():
        model.save_pretrained(out, max_shard_size="5GB")
    _copy_words(folder, out, trust)
    load.require_same(
        model, out, lambda: load.load_model(out, precision=precision, trust_remote_code=trust)
    )
    facts |= {"parameters": sum(p.numel() for p in model.parameters()), "parameters_before": before}
    made.facts.write(facts)
    return f"{_said(facts)}; {facts['parameters'] / before:.0%} of the parameters"


def _shrunk(
    work: Work, model: PreTrainedModel, called: str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model cut as the configuration says, and what was kept."""
    config, of = CutConfig.of(work.config), model.config.num_hidden_layers
    measured: Mapping[str, Any] = {}
    if (before := work.find(IMPORTANCE)) is not None:
        measured = before.facts.read()
    kept: Sequence[int] = range(of)
    if config.layers is not None:
        kept = chosen(config.layers, of, called)
        if config.by == "influence":
            kept = influential(config.layers, measured["influence"])
        model = load.cut(model, kept)
    facts: dict[str, Any] = {"of": of, "kept": [*kept]}
    facts |= {"measured": measured | {"by": config.by}} if measured else {}
    if config.intermediate is not None:
        found = load_file(work.read(IMPORTANCE).neurons)
        most_I = [strongest(config.intermediate, found[f"layer.{i}"]) for i in kept]
        facts |= {
            "intermediate": config.intermediate,
            "intermediate_before": len(found["layer.0"]),
        }
        model = narrow(model, most_I)
    return model, facts


def _said(facts: Mapping[str, Any]) -> str:
    """Return in words what a cut kept."""
    said = []
    if len(facts["kept"]) < facts["of"]:
        said.append(f"layers {', '.join(map(str, facts['kept']))} of {facts['of']}")
    if "intermediate" in facts:
        said.append(
            f"{facts['intermediate']} of {facts['intermediate_before']} neurons of each MLP"
        )
    if "measured" in facts:
        said.append(f"by {facts['measured']['rows']} training rows")
    return ", ".join(said)


def _copy_words(folder: Path, out: Path, trust_remote_code: bool) -> None:
    """Copy what is read of a model's folder beside its weights: tokenizer, template, settings."""
    for file in read_files(folder, trust_remote_code):
        if not any(file.match(pattern) for pattern in _ANEW):
            copy = out / file.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
