"""What is known of each model of a study: numbers, size, and where it lies."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudy.errors import InputError
from kdstudy.models.layers import CUT
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
    label, finished, folder = system.label, None, None
    if label in planned.trained:
        finished = store.get(planned.trained[label])
    if finished is None and label not in planned.trained:
        finished = _cut(system, planned, store)
    if finished is not None:
        folder = next((p for n in ("adapter", "model") if (p := finished / n).is_dir()), None)
    return {
        "system": label,
        "kind": system.kind,
        "model": system.model,
        "method": system.method,
        "teacher": system.teacher,
        "seed": system.seed if label in planned.trained else None,
        "parameters": _parameters(system, planned, store, finished),
        "accuracy": average and average["value"],
        "rouge_l": texts and texts["value"],
        "benchmarks": {
            name: {k: row[k] for k in ("metric", "value", "low", "high", "n", "signature")}
            for name, row in sorted((accuracy | rouge).items())
        },
        "path": str(folder) if folder else None,
        "origin": "" if label in planned.trained else origin(system, planned),
    }


def measured(system: System, planned: "Plan", store: "Store") -> list[dict[str, Any]]:
    """Return accuracy or ROUGE-L per benchmark and on average, with n and interval."""
    from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP
    from kdstudy.analysis.measures import averages, own_rows
    from kdstudy.evaluation.stages import SCORES
    from kdstudy.measures.cell import cells_of
    from kdstudy.records import Score, read_records

    folder = store.get(planned.scored[system.label])
    if folder is None:
        return []
    cells = cells_of(system.label, read_records(folder / SCORES, Score))
    rows = [
        row
        for row in own_rows(cells, {}, DEFAULT_BOOTSTRAP)
        if row["metric"] in ("accuracy", "rouge_l")
    ]
    texts = {name for name, cell in cells.items() if cell.text}
    return [*rows, *averages(rows, cells.keys() - texts, texts)]


ANSWERS = ("generations:", "likelihoods:")
"""How the roles of a score stage's inputs begin that hold what a system answered."""


def _parameters(
    system: System, planned: "Plan", store: "Store", finished: Path | None
) -> int | None:
    from kdstudy.evaluation.stages import MODEL

    if finished is not None:
        file = "training.json" if system.label in planned.trained else CUT
        return json.loads((finished / file).read_text())["parameters"]
    for role, key in planned.stages[planned.scored[system.label]].inputs.items():
        folder = store.get(key) if role.startswith(ANSWERS) else None
        if folder is not None:
            return json.loads((folder / MODEL).read_text())["parameters"]
    return None


def _answering(system: System, planned: "Plan") -> "Stage":
    inputs = planned.stages[planned.scored[system.label]].inputs
    key = next(key for role, key in inputs.items() if role.startswith(ANSWERS))
    return planned.stages[key]


def _cut(system: System, planned: "Plan", store: "Store") -> Path | None:
    """Return the finished stage that cut a system out of another model, if one did."""
    key = _answering(system, planned).inputs.get("cut:model")
    return None if key is None else store.get(key)


def origin(system: System, planned: "Plan") -> str:
    """Say where a model that the study uses as it is comes from."""
    stage, cut = _answering(system, planned), ""
    if (key := stage.inputs.get("cut:model")) is not None:
        stage = planned.stages[key]
        cut = f"\ncut to {_kept(stage.config)}"
    (local,) = stage.local["models"].values()
    adapter = f"\nwith the adapter {from_here(local['adapter'])}" if local["adapter"] else ""
    if local["hub_id"]:
        return f"it is {local['hub_id']} on the Hub, at {local['revision']}{adapter}{cut}"
    return f"it is the model in {from_here(local['folder'])}{adapter}{cut}"


def _kept(config: Mapping[str, Any]) -> str:
    """Say what a stage keeps of a model."""
    layers, by = config.get("layers"), config.get("by")
    said = []
    if isinstance(layers, int):
        said.append(f"{layers} layers" + (f" by {by}" if by else ""))
    elif layers is not None:
        said.append(f"layers {', '.join(map(str, layers))}")
    if (neurons := config.get("intermediate")) is not None:
        said.append(f"{neurons} neurons of each MLP")
    return ", ".join(said)


def from_here(path: str) -> str:
    """Return a path from here, if it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
