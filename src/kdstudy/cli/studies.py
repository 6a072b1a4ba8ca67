"""The verbs around a study file and its store."""

import itertools
import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.api import studies
from kdstudy.api.studies import STORE
from kdstudy.cli.building import shown
from kdstudy.cli.options import (
    AsJson,
    DataDir,
    StorePath,
    StudyPath,
    note,
    print_notes,
    room_for_a_line,
    sanitize,
)
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.engine.execute import Executor
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan

_DEMO = Path(__file__).parents[1] / "studies" / "demo.yaml"


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the store.")
    ] = STORE,
) -> None:
    """Run the shipped study on the shipped tiny models: offline, two cores, minutes."""
    run(_DEMO, store=out, data_dir=None, jobs=min(2, len(os.sched_getaffinity(0))))


class ExecutorName(StrEnum):
    """Where stages run."""

    inline = "inline"
    ray = "ray"


def run(
    study: StudyPath,
    store: StorePath = STORE,
    data_dir: DataDir = None,
    executor: Annotated[ExecutorName, typer.Option(help="Where stages run.")] = ExecutorName.inline,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR", help="Ray cluster: auto or host:port; else Ray on this machine."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(metavar="N", help="Processes that share the stages (small models on a CPU)."),
    ] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every byte of what is finished first.")
    ] = False,
) -> None:
    """Run or resume a study; what is finished is not done again."""
    if address is not None and executor is not ExecutorName.ray:
        raise InputError("--address: says where Ray is", remedy="add --executor ray")
    if jobs != 1 and executor is ExecutorName.ray:
        raise InputError("--jobs: Ray decides how many stages run", remedy="leave out --jobs")
    from kdstudy.engine.jobs import Jobs

    plan, opened = planned_study(study, store, data_dir)
    builds = _on_ray(plan, address) if executor is ExecutorName.ray else Jobs(jobs)
    seen = {"show": shown(plan.study.name), "tell": note}
    if not studies.run(plan, opened, study, builds, verify=verify, **seen):
        note(f"{plan.study.name}: {_finished(plan, opened)}")
    folder = studies.shown(plan, opened)
    _print_summary(folder)
    at = "" if store == STORE else f" --store {store}"
    note(f"\nnext: kdstudy models {study}{at} lists the trained models and their folders")
    typer.echo(str(folder / "report.html"))


def plan(
    study: StudyPath, store: StorePath = STORE, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show the stages, which are finished, and why the others are not. Runs nothing."""
    from kdstudy.engine.execute import missing, reason

    planned, opened = planned_study(study, store, data_dir, unreached={})
    floating = _unpinned(planned)
    studies.require_trackers(planned)
    todo = {s.key for s in missing(planned.stages, [planned.report], opened)[0]}
    rows = []
    for key, stage in planned.stages.items():
        status = "miss" if key in todo else "hit" if opened.get(key) else "not needed"
        status = "unpinned" if key in floating else status
        why = reason(stage, opened, planned.stages) if status == "miss" else ""
        rows.append(
            {"kind": stage.kind, "label": stage.label, "key": key, "status": status, "why": why}
        )
    if as_json:
        typer.echo(json.dumps(_plan_document(planned, rows), indent=1))
        return
    _print_plan(planned, rows)
    if todo:
        at = "" if store == STORE else f" --store {store}"
        note(f"next: kdstudy doctor {study}{at} looks for faults, kdstudy run {study}{at} runs it")


def report(
    study: StudyPath,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="A second study, to set beside it.")
    ] = None,
    store: StorePath = STORE,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write.")
    ] = None,
) -> None:
    """Write the report again from what the store holds, or set two studies side by side."""
    from kdstudy.report.compare.page import compare_from_store
    from kdstudy.report.stages import report_from_store

    planned, opened = planned_study(study, store, data_dir)
    if other is None:
        if out is None:
            studies.claim(planned, study, opened)
        folder = out or opened.output(planned.study.name)
        report_from_store(planned, opened, folder)
        typer.echo(str(folder / "report.html"))
        return
    second, _ = planned_study(other, store, data_dir)
    folder = out or opened.output(f"{planned.study.name}-vs-{second.study.name}")
    typer.echo(str(compare_from_store(planned, second, opened, folder)))


class Kind(StrEnum):
    """What `ls` can list."""

    models = "models"
    methods = "methods"
    benchmarks = "benchmarks"
    corpora = "corpora"
    runs = "runs"


def ls(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    store: StorePath = STORE,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what there is: models, methods, benchmarks, corpora, or the runs in the store."""
    from kdstudy.cli.listing import listing

    rows = listing(kind.value, store, data_dir)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for line in _lines_of(rows):
        typer.echo(sanitize(line))
    if not rows:
        typer.echo(f"no {kind.value} in {store}", err=True)


def _lines_of(rows: list[dict[str, str]]) -> list[str]:
    """Return a table; what is wider than the terminal goes below its row, with its names."""
    columns = [c for c in rows[0] if any(str(r[c]) for r in rows)] if rows else []
    headed = len(rows[0]) > 4 if rows else False
    heads = [dict(zip(columns, columns, strict=True))] if headed else []
    widths = {c: max(len(str(r[c])) for r in (*heads, *rows)) for c in columns}
    ends = itertools.accumulate(widths[c] + 2 for c in columns)
    beside = [c for c, end in zip(columns, ends, strict=True) if end - 2 <= room_for_a_line()]
    below = columns[len(beside) :]
    lines = []
    for row in (*heads, *rows):
        lines.append("  ".join(str(row[c]).ljust(widths[c]) for c in beside).rstrip())
        if below and row not in heads:
            lines.append("    " + ", ".join(f"{c} {row[c]}" for c in below if str(row[c])))
    return lines


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The same as tables to read: docs/study.md.")
    ] = False,
) -> None:
    """Print every field of a study file: as JSON Schema for editors, or as tables."""
    from kdstudy.config import describe
    from kdstudy.config.schema import Study

    if markdown:
        typer.echo(describe.markdown(), nl=False)
        return
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Study.model_json_schema(),
    }
    typer.echo(json.dumps(document, indent=1))


def planned_study(
    study: Path, store: Path, data_dir: Path | None, unreached: dict[str, str] | None = None
) -> tuple["Plan", "Store"]:
    """Return a study file's plan and store, and print what is to be known of them."""
    planned, opened = studies.planned(study, store, data_dir, unreached)
    print_notes(planned)
    return planned, opened


def _on_ray(planned: "Plan", address: str | None) -> "Executor":
    from kdstudy.engine.cluster import RayExecutor

    return RayExecutor(planned.study.resources, address, note)


def _finished(planned: "Plan", store: "Store") -> str:
    """Say how many stages are finished; what nothing needs was never built, or removed since."""
    there = sum(store.get(key) is not None for key in planned.stages)
    if there == len(planned.stages):
        return f"all {there} stages are finished"
    return f"{there} of {len(planned.stages)} stages are finished, the others are not needed"


def _unpinned(planned: "Plan") -> set[str]:
    """Return the keys of stages that hang on a model that is not pinned: not their last."""
    from kdstudy.models.hub import is_pinned

    found: set[str] = set()
    for key, stage in planned.stages.items():
        models = (v for v in stage.config.values() if isinstance(v, dict) and "fingerprint" in v)
        above = (*stage.inputs.values(), *stage.aids.values())
        if not all(is_pinned(m["fingerprint"]) for m in models) or not found.isdisjoint(above):
            found.add(key)
    return found


_MEANING = {
    "hit": "hit: finished",
    "miss": "miss: to be built",
    "not needed": "not needed: nothing missing reads it",
    "unpinned": "unpinned: its model could not be asked for its commit",
}


def _print_plan(planned: "Plan", rows: list[dict[str, str]]) -> None:
    """Print a line per stage: with its key and reason where the terminal is wide enough."""
    from kdstudy.config.protocols import differences
    from kdstudy.plan.grid import budgets

    widths = {c: max(len(r[c]) for r in rows) for c in ("kind", "label")}
    room = room_for_a_line()
    for row in rows:
        line = f"{row['status']:<10} {row['kind']:<{widths['kind']}} {row['label']}"
        whole = f"{line:<{sum(widths.values()) + 12}}  {row['key'][:12]}  {row['why']}".rstrip()
        # What was never built is what one expects of a stage to be built.
        short = f"{line}  {row['why']}" if row["why"] not in ("", "never built") else line
        typer.echo(sanitize(whole if len(whole) <= room else short))
    statuses = ("hit", "miss", "not needed", "unpinned")
    counts = {s: sum(r["status"] == s for r in rows) for s in statuses}
    typer.echo(", ".join(f"{n} {s}" for s, n in counts.items() if n) + f" of {len(rows)} stages")
    typer.echo("; ".join(_MEANING[s] for s, n in counts.items() if n))
    for name, template in planned.prompts.items():
        typer.echo(sanitize(f"prompts of {name}: {template}"))
    for method, said in budgets(planned.study).items():
        typer.echo(f"{method}: {said}")
    for model, why in planned.unreached.items():
        said = why.removeprefix(f"{model}: ")
        typer.echo(sanitize(f"unpinned: {model}: {said}; `run` refuses until it is"))
    for d in differences(planned.study):
        typer.echo(
            f"differs from corrected: {d['field']} = {d['value']} "
            f"(not {d['corrected']}): {d['why']}"
        )


def _plan_document(planned: "Plan", rows: list[dict[str, str]]) -> dict[str, Any]:
    from kdstudy.config.protocols import differences
    from kdstudy.plan.grid import budgets

    return {
        "study": planned.study.model_dump(mode="json"),
        "protocol_differences": differences(planned.study),
        "prompts": dict(planned.prompts),
        "epochs": budgets(planned.study),
        "unpinned": dict(planned.unreached),
        "notes": list(planned.notes),
        "stages": rows,
    }


def _print_summary(folder: Path) -> None:
    """Print accuracy, gain and agreement of every system: the few numbers that matter."""
    lines = (folder / "summary.txt").read_text(encoding="utf-8").splitlines()
    if max(map(len, lines), default=0) > room_for_a_line():
        lines = _names_above(lines)
    for line in ("", *lines):
        note(line)


def _names_above(lines: list[str]) -> list[str]:
    """Return the table with each system's name on a line of its own, its numbers below it."""
    names = [re.split(" {2,}", line)[0] for line in lines]
    rest = [line[max(map(len, names)) :].removeprefix("  ") for line in lines]
    head, *others = zip(names, rest, strict=True)
    return [f"    {head[1]}", *(part for name, cells in others for part in (name, f"    {cells}"))]
