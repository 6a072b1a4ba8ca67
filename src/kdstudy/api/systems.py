"""What is known of each model of a study: numbers, size, and where it lies."""

import difflib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdstudy.artifacts import (
    CUT,
    EACH_GENERATIONS,
    EACH_LIKELIHOODS,
    Answers,
    CutModel,
    Scores,
    Trained,
)
from kdstudy.errors import InputError
from kdstudy.models.kinds import CutConfig
from kdstudy.records import System

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan
    from kdstudy.stage import Stage


def chosen(name: str, labels: Sequence[str]) -> str:
    """Return the label that a label, or the beginning of one, means.

    Raises:
        InputError: None, or several.
    """
    if name in labels:
        return name
    found = [label for label in labels if label.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"SYSTEM {name}: means {len(found)} models: {', '.join(found)}",
            remedy="name one of them",
        )
    near = difflib.get_close_matches(name, labels, n=3, cutoff=0.5) or labels
    raise InputError(
        f"SYSTEM {name}: the study has no such model",
        remedy=f"`kdstudy models` lists them; did you mean {' or '.join(near)}?",
    )


def facts(system: System, planned: "Plan", store: "Store") -> dict[str, Any]:
    """Return what is known of a system so far; `path` is where it lies if the study made it."""
    rows = measured(system, planned, store)
    accuracy = {r["benchmark"]: r for r in rows if r["metric"] == "accuracy"}
    rouge = {r["benchmark"]: r for r in rows if r["metric"] == "rouge_l"}
    average = accuracy.pop("average", None)
    texts = rouge.pop("average", None)
    label, made = system.label, _made(system, planned, store)
    folder = made.weights if isinstance(made, Trained) else made and made.model
    return {
        "system": label,
        "kind": system.kind,
        "model": system.model,
        "method": system.method,
        "teacher": system.after or system.taught_by,
        "seed": system.seed if label in planned.trained else None,
        "parameters": _parameters(system, planned, store, made),
        "accuracy": average and average["value"],
        "rouge_l": texts and texts["value"],
        "benchmarks": {
            name: {k: row[k] for k in ("metric", "value", "low", "high", "n", "signature")}
            for name, row in sorted((accuracy | rouge).items())
        },
        "path": str(folder) if folder is not None else None,
        "origin": "" if label in planned.trained else origin(system, planned),
    }


def measured(system: System, planned: "Plan", store: "Store") -> list[dict[str, Any]]:
    """Return accuracy or ROUGE-L per benchmark and on average, with n and interval."""
    from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP
    from kdstudy.analysis.measures import averages, own_rows
    from kdstudy.measures.cell import cells_of

    folder = store.get(planned.scored[system.label])
    if folder is None:
        return []
    cells = cells_of(system.label, Scores(folder).rows.read())
    rows = [
        row
        for row in own_rows(cells, {}, DEFAULT_BOOTSTRAP)
        if row["metric"] in ("accuracy", "rouge_l")
    ]
    texts = {name for name, cell in cells.items() if cell.text}
    return [*rows, *averages(rows, cells.keys() - texts, texts)]


def _parameters(
    system: System, planned: "Plan", store: "Store", made: Trained | CutModel | None
) -> int | None:
    if made is not None:
        return made.facts.read()["parameters"]
    for stage in answering(system, planned):
        folder = store.get(stage.key)
        if folder is not None:
            return Answers(folder).model.read()["parameters"]
    return None


def answering(system: System, planned: "Plan") -> list["Stage"]:
    """Return the stages in which a system answers benchmarks, those that write texts first."""
    inputs = planned.stages[planned.scored[system.label]].inputs
    keys = [*EACH_GENERATIONS.find(inputs).values(), *EACH_LIKELIHOODS.find(inputs).values()]
    return [planned.stages[key] for key in keys]


def cutting(system: System, planned: "Plan") -> "Stage | None":
    """Return the stage that cuts a system, or its base, out of another model, if one does."""
    key = CUT.find(answering(system, planned)[0].inputs).get("model")
    return None if key is None else planned.stages[key]


def _made(system: System, planned: "Plan", store: "Store") -> Trained | CutModel | None:
    """Return what a finished stage of the study left of a system; None of a model as it is."""
    if system.label in planned.trained:
        folder = store.get(planned.trained[system.label])
        return None if folder is None else Trained(folder)
    stage = cutting(system, planned)
    folder = stage and store.get(stage.key)
    return None if folder is None else CutModel(folder)


def origin(system: System, planned: "Plan") -> str:
    """Say where a model that the study uses as it is comes from."""
    stage, cut = answering(system, planned)[0], ""
    if (shrinking := cutting(system, planned)) is not None:
        stage, cut = shrinking, f"\ncut to {_kept(CutConfig.of(shrinking.config))}"
    (local,) = stage.local["models"].values()
    adapter = f"\nwith the adapter {from_here(local['adapter'])}" if local["adapter"] else ""
    if local["hub_id"]:
        return f"it is {local['hub_id']} on the Hub, at {local['revision']}{adapter}{cut}"
    return f"it is the model in {from_here(local['folder'])}{adapter}{cut}"


def _kept(config: CutConfig) -> str:
    """Say what a stage keeps of a model."""
    said = []
    if isinstance(config.layers, int):
        by = "" if config.by == "spacing" else f" by {config.by}"
        said.append(f"{config.layers} layers{by}")
    elif config.layers is not None:
        said.append(f"layers {', '.join(map(str, config.layers))}")
    if config.intermediate is not None:
        said.append(f"{config.intermediate} neurons of each MLP")
    return ", ".join(said)


def from_here(path: str) -> str:
    """Return a path from here, if it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
