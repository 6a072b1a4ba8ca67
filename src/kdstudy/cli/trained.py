"""The verbs for what a study trained: where it lies, and one model of it as a folder."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.api import studies, systems
from kdstudy.api.studies import STORE
from kdstudy.api.systems import from_here
from kdstudy.cli.options import (
    AsJson,
    DataDir,
    StorePath,
    StudyPath,
    note,
    print_json,
    sanitize,
)
from kdstudy.cli.studies import planned_study
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan
    from kdstudy.records import System


def models(
    study: StudyPath, store: StorePath = STORE, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List a study's models: accuracy, size, method, teacher, seed, and where each one lies."""
    planned, opened = planned_study(study, store, data_dir)
    rows = [systems.facts(system, planned, opened) for system in planned.systems]
    if as_json:
        print_json(rows)
    else:
        _print(rows)
        at = "" if store == STORE else f" --store {store}"
        note(
            f"\nnext: kdstudy export {study} SYSTEM --out DIR{at} writes one as a folder for others"
        )


def statement(
    study: StudyPath,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM", help="One student, or a seed of one; may be repeated. Else all."
        ),
    ] = None,
    elsewhere: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BENCHMARK",
            help="One that nobody trained for; may be repeated. Else by domain.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write.")
    ] = None,
    store: StorePath = STORE,
    data_dir: DataDir = None,
) -> None:
    """Write what each student kept of its teacher and what it lost: HTML, Markdown and CSV."""
    from kdstudy.report import statement as page
    from kdstudy.report.stages import data_from_store

    planned, opened = planned_study(study, store, data_dir)
    data = data_from_store(planned, opened, elsewhere=elsewhere or ())
    if system:
        students = tuple(_student(name, data.seeds.names) for name in system)
        data = dataclasses.replace(data, students=students)
    if out is None:
        studies.claim(planned, study, opened)
    folder = out or opened.output(planned.study.name) / "statement"
    path = page.write(folder, data, planned.study.name)
    for told in page.summaries(data):
        note(told)
    typer.echo(str(path))


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
    from kdstudy.api.building import quiet_libraries
    from kdstudy.cli.exporting import hand_over, new_folder, trained

    quiet_libraries()
    out = out.expanduser()
    planned, opened = planned_study(study, store, data_dir)
    known = {s.label: s for s in planned.systems}
    found = known[systems.chosen(system, list(known))]
    if found.label not in planned.trained:
        raise InputError(
            f"{found.label}: was not trained here; {systems.origin(found, planned)}",
            remedy="`kdstudy models` says where it lies",
        )
    model = trained(planned, opened, found)
    if model is None:
        raise InputError(
            f"{found.label}: is not trained yet", remedy=f"kdstudy run {study} trains it"
        )
    if dtype is not None and not (merge or model.finished.whole):
        raise InputError(
            "--dtype: an adapter keeps the type that it was trained in", remedy="add --merge"
        )
    with new_folder(out) as fresh:
        rows = systems.measured(found, planned, opened)
        said = hand_over(
            model,
            fresh,
            out.name,
            merge=merge,
            precision=dtype and dtype.value,
            store=opened,
            measured=[r for r in rows if r["benchmark"] != "average"],
            statement=_statement(planned, opened, found),
        )
    note(said or "no texts of it are in the store: nothing was compared")
    typer.echo(str(out))


def _student(name: str, names: Mapping[str, str]) -> str:
    """Return the system that a name means, or the run where no system's name begins so."""
    whole = [*dict.fromkeys(names.values())]
    return systems.chosen(name, whole if any(s.startswith(name) for s in whole) else [*names])


def _statement(planned: "Plan", store: "Store", system: "System") -> str:
    """Return the loss statement of one run for its card; "" of an unfinished study."""
    from kdstudy.report import statement as page
    from kdstudy.report.stages import data_from_store

    if system.kind != "distilled" or store.get(planned.results) is None:
        return ""
    data = data_from_store(planned, store, students=(system.label,))
    return "" if data.losses.empty else page.markdown(data)


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
            sanitize(
                f"{row['system']:<{width}}  {size:>6}  {accuracy:>8}{rouge}  "
                f"{row['method'] or '-':<{methods}}  {seed:>4}"
            )
        )
        for detail in _details(row):
            typer.echo(sanitize(f"    {detail}"))


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
        found.append(from_here(row["path"]))
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
