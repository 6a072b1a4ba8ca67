"""The verbs for what a study trained: where it lies, and one model of it as a folder."""

import difflib
import json
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.cli.options import (
    STORE,
    AsJson,
    DataDir,
    StorePath,
    StudyPath,
    inert,
    note,
    print_json,
)
from kdstudy.cli.studies import planned_study
from kdstudy.errors import InputError
from kdstudy.models.layers import CUT
from kdstudy.records import System

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan
    from kdstudy.stage import Stage


def models(
    study: StudyPath, store: StorePath = STORE, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List a study's models: accuracy, size, method, teacher, seed, and where each one lies."""
    planned, opened = planned_study(study, store, data_dir)
    rows = [_facts(system, planned, opened) for system in planned.systems]
    if as_json:
        print_json(rows)
    else:
        _print(rows)
        at = "" if store == STORE else f" --store {store}"
        note(
            f"\nnext: kdstudy export {study} SYSTEM --out DIR{at} writes one as a folder for others"
        )


class Precision(StrEnum):
    """Type of a whole model's weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def export(
    study: StudyPath,
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="As `kdstudy models` names it.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, no adapter.")
    ] = False,
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Type of a whole model's weights; else the one it was evaluated in."),
    ] = None,
    store: StorePath = STORE,
    data_dir: DataDir = None,
) -> None:
    """Write one trained model with tokenizer, generation settings, and a card of its numbers."""
    from kdstudy.cli.exporting import hand_over, new_folder, trained
    from kdstudy.cli.options import quiet_libraries

    quiet_libraries()
    out = out.expanduser()
    planned, opened = planned_study(study, store, data_dir)
    chosen = _chosen(system, planned)
    if chosen.label not in planned.trained:
        raise InputError(
            f"{chosen.label}: was not trained here; {_origin(chosen, planned)}",
            remedy="`kdstudy models` says where it lies",
        )
    model = trained(planned, opened, chosen)
    if model is None:
        raise InputError(
            f"{chosen.label}: is not trained yet", remedy=f"kdstudy run {study} trains it"
        )
    if dtype is not None and not merge and model.folder.name == "adapter":
        raise InputError(
            "--dtype: an adapter keeps the type that it was trained in", remedy="add --merge"
        )
    with new_folder(out) as fresh:
        measured = [r for r in _measured(chosen, planned, opened) if r["benchmark"] != "average"]
        said = hand_over(
            model,
            fresh,
            out.name,
            merge=merge,
            precision=dtype and dtype.value,
            store=opened,
            measured=measured,
        )
    note(said or "no texts of it are in the store: nothing was compared")
    typer.echo(str(out))


def _chosen(name: str, planned: "Plan") -> System:
    """Return the system that a label, or the beginning of one, means.

    Raises:
        InputError: None, or several.
    """
    known = {s.label: s for s in planned.systems}
    if name in known:
        return known[name]
    found = [label for label in known if label.startswith(name)]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise InputError(
            f"SYSTEM {name}: means {len(found)} models: {', '.join(found)}",
            remedy="name one of them",
        )
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known)
    raise InputError(
        f"SYSTEM {name}: the study has no such model",
        remedy=f"`kdstudy models` lists them; did you mean {' or '.join(near)}?",
    )


def _facts(system: System, planned: "Plan", store: "Store") -> dict[str, Any]:
    """Return what is known of a system so far."""
    rows = _measured(system, planned, store)
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
        "origin": "" if label in planned.trained else _origin(system, planned),
    }


def _measured(system: System, planned: "Plan", store: "Store") -> list[dict[str, Any]]:
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


def _parameters(
    system: System, planned: "Plan", store: "Store", finished: Path | None
) -> int | None:
    from kdstudy.evaluation.stages import MODEL

    if finished is not None:
        file = "training.json" if system.label in planned.trained else CUT
        return json.loads((finished / file).read_text())["parameters"]
    for role, key in planned.stages[planned.scored[system.label]].inputs.items():
        folder = store.get(key) if role.startswith("generations:") else None
        if folder is not None:
            return json.loads((folder / MODEL).read_text())["parameters"]
    return None


def _answering(system: System, planned: "Plan") -> "Stage":
    inputs = planned.stages[planned.scored[system.label]].inputs
    key = next(key for role, key in inputs.items() if role.startswith("generations:"))
    return planned.stages[key]


def _cut(system: System, planned: "Plan", store: "Store") -> Path | None:
    """Return the finished stage that cut a system out of another model, if one did."""
    key = _answering(system, planned).inputs.get("cut:model")
    return None if key is None else store.get(key)


def _origin(system: System, planned: "Plan") -> str:
    """Say where a model that the study uses as it is comes from."""
    stage, cut = _answering(system, planned), ""
    if (key := stage.inputs.get("cut:model")) is not None:
        stage = planned.stages[key]
        cut = f"\ncut to {_kept(stage.config)}"
    (local,) = stage.local["models"].values()
    adapter = f"\nwith the adapter {_near(local['adapter'])}" if local["adapter"] else ""
    if local["hub_id"]:
        return f"it is {local['hub_id']} on the Hub, at {local['revision']}{adapter}{cut}"
    return f"it is the model in {_near(local['folder'])}{adapter}{cut}"


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


def _near(path: str) -> str:
    """Return a path from here, if it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _print(rows: list[dict[str, Any]]) -> None:
    width = max(6, *(len(r["system"]) for r in rows))
    methods = max(6, *(len(r["method"] or "-") for r in rows))
    texts = any(r["rouge_l"] is not None for r in rows)
    head = "  ROUGE-L" if texts else ""
    typer.echo(f"{'system':<{width}}  {'size':>6}  accuracy{head}  {'method':<{methods}}  seed")
    for row in rows:
        size, seed = _size(row["parameters"]), "-" if row["seed"] is None else row["seed"]
        accuracy = _percent(row["accuracy"])
        rouge = f"  {_percent(row['rouge_l']):>7}" if texts else ""
        typer.echo(
            inert(
                f"{row['system']:<{width}}  {size:>6}  {accuracy:>8}{rouge}  "
                f"{row['method'] or '-':<{methods}}  {seed:>4}"
            )
        )
        for detail in _details(row):
            typer.echo(inert(f"    {detail}"))


def _details(row: dict[str, Any]) -> list[str]:
    found = []
    if row["teacher"]:
        found.append(f"teacher {row['teacher']}")
    parts = [f"{name} {_percent(r['value'])}" for name, r in row["benchmarks"].items()]
    for start in range(0, len(parts), 4):
        found.append(", ".join(parts[start : start + 4]))
    if not parts:
        found.append("not measured yet")
    if row["path"]:
        found.append(_near(row["path"]))
    else:
        found += (row["origin"] or "not trained yet").split("\n")
    return found


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "-"
    for unit, many in (("B", 1e9), ("M", 1e6)):
        if parameters >= many / 10:
            return f"{parameters / many:.2f}{unit}"
    return f"{parameters / 1e3:.0f}K"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
