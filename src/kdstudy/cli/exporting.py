"""One trained model as a folder: written, asked ten items again, and described in its card."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudy.api.systems import answering, cutting
from kdstudy.artifacts import ITEMS, TRAINED, CutModel, Generations, Items, Trained
from kdstudy.distill.kinds import TrainConfig
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation.kinds import GenerateConfig
from kdstudy.records import Example, System
from kdstudy.stage import Work, kinds, located

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan
    from kdstudy.stage import Stage

CHECKED = 10
"""Items that an exported model answers once more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model that a study trained.

    Attributes:
        system: As the study measures it.
        training: Its train stage.
        finished: What it left.
        answering: One of its generate stages: it names the model, the prompt and the decoding.
        local: Where its base lies.
        source: Where the model lies that its base is, or was cut out of.
        cut: What was kept of it, as the stage `cut` says; empty for all.
    """

    system: System
    training: "Stage"
    finished: Trained
    answering: "Stage"
    local: Mapping[str, Any]
    source: Mapping[str, Any]
    cut: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def trained(planned: "Plan", store: "Store", system: System) -> TrainedModel | None:
    """Return a system's trained model, or None where it is not trained yet."""
    finished = store.get(planned.trained[system.label])
    if finished is None:
        return None
    stages = [s for s in answering(system, planned) if s.kind == "generate"]
    if not stages:
        raise InputError(
            f"{system.label}: the study generated no answers (scoring: likelihood throughout)",
            why="what is written is checked on texts that the evaluated model wrote, and its card "
            "says how they were decoded",
            remedy="add a benchmark that is answered in text",
        )
    # Answers to questions come before free texts, which are drawn and long.
    stage = min(stages, key=lambda s: GenerateConfig.of(s.config).generation["samples"])
    local = stage.local["models"]["model"]
    found = {"local": local, "source": local}
    if (shrinking := cutting(system, planned)) is not None:
        folder = store.get(shrinking.key)
        if folder is None:
            raise InputError(
                f"{system.label}: its base, {shrinking.label}, is gone from the store",
                remedy="run the study again: what is missing is built first",
            )
        cut = CutModel(folder)
        found = {
            "local": located(local, cut),
            "source": shrinking.local["models"]["source"],
            "cut": cut.facts.read(),
        }
    return TrainedModel(
        system=system,
        training=planned.stages[planned.trained[system.label]],
        finished=Trained(finished),
        answering=stage,
        **found,
    )


def require_new(out: Path) -> None:
    """Refuse a folder that holds something, with an InputError."""
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise InputError(f"--out {out}: is not empty", remedy="give a new folder")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill that becomes `out` when everything is in it.

    Raises:
        InputError: `out` is there and not empty.
    """
    require_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir(mode=0o777 & ~_umask())
        yield fresh
        if out.exists():
            out.rmdir()
        fresh.rename(out)


def hand_over(
    model: TrainedModel,
    out: Path,
    name: str,
    *,
    merge: bool = False,
    precision: str | None = None,
    store: "Store | None" = None,
    measured: list[dict[str, Any]] | None = None,
    statement: str = "",
) -> str:
    """Write a trained model, compare its texts with the study's, and write its card.

    Args:
        model: What to write.
        out: Folder to fill.
        name: What it will be called.
        merge: Write a whole model where an adapter was trained.
        precision: Type of a whole model's weights; None for the one it was evaluated in.
        store: Holds the texts to compare with; None where it was not evaluated.
        measured: Its results, for the card.
        statement: What it lost (`report.statement`), for the card.

    Returns:
        What the comparison found; empty without one.

    Raises:
        InputError: As `models.export.write` does.
        StageError: Written, the model is another one.
    """
    from kdstudy.models import export, load
    from kdstudy.models.resolve import public

    if model.cut and not (merge or model.finished.whole):
        raise InputError(
            f"{model.system.label}: its base was cut out of {public(_origin(model))}",
            why="nobody else has that base; on the whole model the adapter would be another one",
            remedy="add --merge: base and adapter become one whole model",
        )
    config = GenerateConfig.of(model.answering.config)
    evaluated = str(load.dtype(config.precision)).removeprefix("torch.")
    precision = precision or evaluated
    tokenizer = export.write(
        model.local,
        model.finished,
        out,
        merge=merge,
        precision=precision,
        decoding=config.generation if store is not None else None,
    )
    whole = not (out / "adapter_config.json").is_file()
    said = ""
    if store is not None:
        said = _compared(model, out, store, precision if whole else evaluated, evaluated)
    notes = [*_notes(model, measured or [], said), *([f"{tokenizer}."] if tokenizer else [])]
    notes += [statement] if statement else []
    text = _card(model, name, measured or [], notes, precision if whole else "")
    (out / "README.md").write_text(text, encoding="utf-8")
    return said


def _compared(
    model: TrainedModel, out: Path, store: "Store", precision: str, evaluated: str
) -> str:
    """Answer a few items with what was written; return how many texts are the study's.

    Where some are not, the study's own way is tried on this machine: rounding differs between
    machines and types, and is no fault of what was written.

    Raises:
        StageError: In float32, and here, the study's own way gives the study's other text.
    """
    answered = store.get(model.answering.key)
    if answered is None:
        return ""
    items = store.get(ITEMS.find(model.answering.inputs) or "")
    if items is None:
        return ""
    examples = Items(items).examples.read()[:CHECKED]
    known = {g.example_id: g.completion for g in Generations(answered).rows.read() if g.sample == 0}
    want = [known[e.id] for e in examples]
    got = _texts(model, examples, precision, out)
    same = sum(a == b for a, b in zip(want, got, strict=True))
    said = (
        f"checked on {len(want)} items of a benchmark: {same} of {len(want)} texts are those that "
        "the evaluated model wrote"
    )
    if same == len(want):
        return said
    here = _texts(model, examples, evaluated, None)
    again = sum(a == b for a, b in zip(here, got, strict=True))
    if again < len(got) and precision == evaluated == "float32":
        raise StageError(
            f"{model.system.label}: what was written answers {len(got) - again} of {len(got)} "
            "items otherwise than the model that was evaluated",
            why="both were asked on this machine in float32",
            remedy="export the adapter without --merge, and please report it",
        )
    if again == len(got):
        return f"{said}; the model that was evaluated, asked on this machine, gives all of them"
    return f"{said}; evaluated in {evaluated}, its weights are rounded to {precision}"


def _texts(
    model: TrainedModel, examples: list[Example], precision: str, written: Path | None
) -> list[str]:
    """Return the greedy (or first drawn) texts of what was written, or of the study's model.

    The study's own stage is run, with the folder in the model's place.
    """
    stage = model.answering
    (role,) = stage.local["models"]
    config = GenerateConfig.of(stage.config)
    alone = {**config.generation, "samples": 1, "engine": "transformers"}
    config = dataclasses.replace(config, precision=precision, generation=alone)
    local = {**model.local}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        items, finished, made = (folder / name for name in ("items", "trained", "out"))
        for new in (items, finished, made):
            new.mkdir()
        Items(items).examples.write(examples)
        trained: Path | None = model.finished.folder
        if written is not None and (written / "adapter_config.json").is_file():
            Trained(finished).adapter.symlink_to(written.absolute())
            trained = finished
        elif written is not None:
            local |= {"folder": str(written), "adapter": None, "hub_id": None, "files": {}}
            trained = None
        work = Work(
            config=config.hashed(),
            inputs=ITEMS.at(items) | TRAINED.at(trained),
            local={**stage.local, "models": {role: local}, "batch_size": None},
            out=made,
        )
        kinds()["generate"].function()(work)
        texts = {g.example_id: g.completion for g in Generations(made).rows.read()}
    return [texts[e.id] for e in examples]


def _kept(cut: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says of a cut base."""
    if not cut:
        return {}
    kept = {"layers kept": ", ".join(map(str, cut["kept"]))}
    neurons = {"neurons kept of each MLP": cut.get("intermediate")}
    return kept | {name: n for name, n in neurons.items() if n}


def _card(
    model: TrainedModel, name: str, measured: list[dict[str, Any]], notes: list[str], precision: str
) -> str:
    from kdstudy import __version__
    from kdstudy.distill import hub
    from kdstudy.models.export import licence
    from kdstudy.models.fetch import fetch

    local, system = model.source, model.system
    config = TrainConfig.of(model.training.config)
    facts = model.finished.facts.read()
    method = {k: v for k, v in config.method.items() if k != "type" and v is not None}
    origin = hub.Origin(
        base=_origin(model),
        teachers=system.own_teachers,
        method={"method": config.method["type"], **method},
        adapter=not precision,
    )
    told = {
        "base": origin.public_base
        + (f" at commit {local['revision']}" if local["revision"] else ""),
        **_kept(model.cut),
        "rows": facts["rows"],
        "optimizer steps": facts["steps"],
        **({"steps of sft before": facts["start"]["steps"]} if "start" in facts else {}),
        "scored tokens": facts["tokens"],
        "best validation loss": f"{facts['best_loss']:.4f} at step {facts['best_step']}",
        "learning rate": config.train["learning_rate"],
        "training seed": config.seed,
        **({"weights": precision} if precision else {}),
        "kdstudy": __version__,
    }
    return hub.card(
        origin,
        system.label.replace("/", "-"),
        name,
        told,
        measured,
        notes,
        license=licence(fetch(local)),
    )


def _notes(model: TrainedModel, measured: list[dict[str, Any]], said: str) -> list[str]:
    from kdstudy.data.prompts import TEMPLATES
    from kdstudy.models.export import shown_prompts
    from kdstudy.models.load import open_tokenizer

    config = GenerateConfig.of(model.answering.config)
    decoding = config.generation
    tokenizer, made = open_tokenizer(model.local), config.format()
    template = made.chosen(tokenizer)
    notes = []
    if not model.source["hub_id"]:
        base = Path(model.source["folder"]).name
        notes.append(f"The base, `{base}`, was a folder on the machine that trained this.")
    if template == "chat":
        notes.append(
            "Prompts in training and evaluation are the tokenizer's chat template. "
            + shown_prompts(tokenizer, made)
        )
    else:
        text = TEMPLATES.get(template, template)
        notes.append(
            f"The prompt of a question, in training and evaluation:\n\n```text\n{text}\n```"
        )
    if measured:
        how = "greedy" if not decoding["temperature"] else f"temperature {decoding['temperature']}"
        notes.append(
            f"Measured with {how} decoding, at most {decoding['max_new_tokens']} tokens, decoding "
            f"seed {decoding['seed']}, training seed {model.system.seed}; intervals are over items "
            "of one trained model, not over trainings."
        )
    if said:
        notes.append(f"After it was written this model answered some items again: {said}.")
    return notes


def _origin(model: TrainedModel) -> str:
    return model.source["hub_id"] or model.source["folder"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
