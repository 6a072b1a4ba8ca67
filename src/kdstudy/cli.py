"""The verbs. Nothing heavy is imported until one needs it: `--help` and refusals are quick."""

import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kdstudy.errors import InputError, KdstudyError

if TYPE_CHECKING:
    from kdstudy.study.plan import Plan
    from kdstudy.study.store import Store

app = typer.Typer(
    name="kdstudy",
    help="Distil language models and learn what the student kept: a study file in, a report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (YAML).")]
StorePath = Annotated[
    Path,
    typer.Option(
        "--store", envvar="KDSTUDY_STORE", metavar="DIR", help="Where finished stages live."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="KDSTUDY_DATA", metavar="DIR", help="Benchmarks and corpora."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_STORE = Path("kdstudy-store")
_INTERRUPTED = 130
_DEMO = Path(__file__).parent / "studies" / "demo.yaml"


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the store.")
    ] = _STORE,
) -> None:
    """Run the shipped study on the shipped tiny models: offline, two cores, minutes."""
    run(_DEMO, store=out, data_dir=None)


class ExecutorName(StrEnum):
    """Where stages run."""

    inline = "inline"


@app.command()
def run(
    study: StudyPath,
    store: StorePath = _STORE,
    data_dir: DataDir = None,
    executor: Annotated[ExecutorName, typer.Option(help="Where stages run.")] = ExecutorName.inline,
) -> None:
    """Run or resume a study; what is finished is not done again."""
    from kdstudy.study.execute import execute, missing
    from kdstudy.study.view import StudyView

    plan, opened = _plan(study, store, data_dir)
    todo, damaged = missing(plan.stages, [plan.report], opened)
    for key in damaged:
        name = f"{plan.stages[key].kind} {plan.stages[key].label}"
        typer.echo(
            f"damaged: {name}: {opened.damage(key)} is not as published; building it again",
            err=True,
        )
    if todo:
        _quiet_libraries()
        with StudyView(plan.study.name, len(todo), len(plan.stages) - len(todo)) as view:
            execute(todo, opened, view, damaged=damaged)
    else:
        typer.echo(f"{plan.study.name}: all {len(plan.stages)} stages are finished", err=True)
    folder = _show(plan, opened)
    _print_summary(folder)
    typer.echo(str(folder / "report.html"))


@app.command()
def plan(
    study: StudyPath, store: StorePath = _STORE, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show the stages, which are finished, and why the others are not. Runs nothing."""
    from kdstudy.study.execute import missing, reason

    planned, opened = _plan(study, store, data_dir)
    todo = {s.key for s in missing(planned.stages, [planned.report], opened)[0]}
    rows = []
    for key, stage in planned.stages.items():
        status = "miss" if key in todo else "hit" if opened.get(key) else "not needed"
        why = reason(stage, opened, planned.stages) if status == "miss" else ""
        rows.append(
            {"kind": stage.kind, "label": stage.label, "key": key, "status": status, "why": why}
        )
    if as_json:
        typer.echo(json.dumps(_plan_document(planned, rows), indent=1))
    else:
        _print_plan(planned, rows)


@app.command()
def report(
    study: StudyPath,
    store: StorePath = _STORE,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write.")
    ] = None,
) -> None:
    """Write the report again from what the store holds, finished or not."""
    from kdstudy.analyze.stages import report_from_store

    planned, opened = _plan(study, store, data_dir)
    folder = out or opened.output(planned.study.name)
    report_from_store(planned, opened, folder)
    typer.echo(str(folder / "report.html"))


@app.command()
def distill(
    student: Annotated[str, typer.Option(help="Model to train: Hub id, folder or zoo name.")],
    data: Annotated[Path, typer.Option(help="JSON or JSONL of prompt/completion rows.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the adapter or model goes.")],
    teacher: Annotated[str | None, typer.Option(help="Model to learn from; used as it is.")] = None,
    method: Annotated[str, typer.Option(help="`kdstudy ls methods` names them.")] = "word_kd",
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 16,
    max_length: Annotated[int, typer.Option(help="Tokens per row.")] = 256,
    validation_rows: Annotated[int, typer.Option(help="Rows that choose the checkpoint.")] = 100,
    seed: Annotated[int, typer.Option(help="Training seed.")] = 0,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, no adapter.")
    ] = False,
    store: StorePath = _STORE,
) -> None:
    """Distil one student without a study file; the result loads in peft or transformers."""
    from kdstudy.study.execute import execute, missing
    from kdstudy.study.plan import make_plan
    from kdstudy.study.store import Store
    from kdstudy.study.view import StudyView

    if method == "sft" and teacher:
        raise InputError("--method sft learns from the data alone", remedy="leave --teacher out")
    if method != "sft" and not teacher:
        raise InputError(f"--method {method} needs a --teacher", remedy="or choose --method sft")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty", remedy="give a new folder")
    study = _single_study(
        teachers=[{"model": teacher, "finetune": False}] if teacher else [],
        students=[student],
        corpus={"path": str(data.absolute()), "validation_rows": validation_rows},
        methods=["sft"] if method == "sft" else ["sft", method],
        seeds=[seed],
        train={
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "max_length": max_length,
        },
    )
    opened = Store(store)
    pins = opened.pins()
    planned = make_plan(study, Path.cwd(), None, pins)
    opened.remember(pins)
    key = next(k for label, k in planned.trained.items() if label.split("/")[1] == method)
    todo, damaged = missing(planned.stages, [key], opened)
    _quiet_libraries()
    with StudyView(f"{method} {student}", len(todo), 0) as view:
        execute(todo, opened, view, damaged=damaged)
    _export(planned.stages[key], opened, out, merge)
    typer.echo(str(out))


class Kind(StrEnum):
    """What `ls` can list."""

    models = "models"
    methods = "methods"
    benchmarks = "benchmarks"
    corpora = "corpora"
    runs = "runs"


@app.command()
def ls(kind: Kind, store: StorePath = _STORE, as_json: AsJson = False) -> None:
    """List what there is: models, methods, benchmarks, corpora, or the runs in the store."""
    from kdstudy.study.listing import listing

    rows = listing(kind.value, store)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    widths = {c: max(len(str(r[c])) for r in rows) for c in rows[0]} if rows else {}
    for row in rows:
        typer.echo("  ".join(str(v).ljust(widths[c]) for c, v in row.items()).rstrip())
    if not rows:
        typer.echo(f"no {kind.value} in {store}", err=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors."""
    from kdstudy.study.schema import Study

    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Study.model_json_schema(),
    }
    typer.echo(json.dumps(document, indent=1))


def main() -> NoReturn:
    """Run the command line; exit with 0 (done), 1 (failed while running) or 2 (wrong input)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Typer turns Ctrl-C into an exit code of its own, or into Abort in older versions.
        if app(standalone_mode=False) == _INTERRUPTED:
            raise KeyboardInterrupt
    except KdstudyError as e:
        _leave(str(e), e.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted: finished stages are kept; run the same command again to go on", 1)
    except Exception as e:
        if hasattr(e, "format_message") and hasattr(e, "exit_code"):  # click's usage errors
            _leave(e.format_message(), 2)
        raise
    sys.exit(0)


def _terminate(*_: Any) -> NoReturn:
    # The way Ctrl-C takes: whatever is open closes, and the next run resumes.
    raise KeyboardInterrupt


def _leave(message: str, code: int) -> NoReturn:
    print(f"kdstudy: {message}", file=sys.stderr)
    sys.exit(code)


def _quiet_libraries() -> None:
    """One voice: the view speaks, the libraries' own bars and advice do not."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _plan(study: Path, store: Path, data_dir: Path | None) -> tuple["Plan", "Store"]:
    from kdstudy.study.plan import make_plan
    from kdstudy.study.read import read_study
    from kdstudy.study.store import Store

    parsed = read_study(study)
    opened = Store(store)
    pins = opened.pins()
    try:
        planned = make_plan(parsed, study.absolute().parent, data_dir, pins)
    except InputError as e:
        e.what = f"{study}: {e.what}"
        raise
    opened.remember(pins)
    return planned, opened


def _single_study(**fields: Any) -> Any:
    """Return a study of one run; a study must have a benchmark, and this one is never built."""
    from pydantic import ValidationError

    from kdstudy.study.schema import Study

    try:
        return Study.model_validate({"name": "distill", "benchmarks": ["synth_addsub"], **fields})
    except ValidationError as e:
        error = e.errors()[0]
        field = ".".join(map(str, error["loc"]))
        raise InputError(
            f"{field}: {error['msg'].removeprefix('Value error, ')}".lstrip(": ")
        ) from e


def _export(stage: Any, store: "Store", out: Path, merge: bool) -> None:
    import shutil

    trained = store.get(stage.key)
    assert trained is not None
    source = next(p for p in (trained / "adapter", trained / "model") if p.is_dir())
    if merge and source.name == "adapter":
        from kdstudy.models.load import load_model, load_tokenizer
        from kdstudy.models.resolve import fetch

        local = stage.local["models"][stage.config["student"]["name"]]
        base = fetch(local)
        load_model(base, adapter=source).merge_and_unload().save_pretrained(out)
        load_tokenizer(base).save_pretrained(out)
    else:
        shutil.copytree(source, out, dirs_exist_ok=True)


def _show(planned: "Plan", store: "Store") -> Path:
    report = store.get(planned.report)
    assert report is not None
    shown = store.output(planned.study.name)
    marker = shown / "manifest.json"
    if marker.is_file() and json.loads(marker.read_text())["key"] == planned.report:
        return shown
    return store.show(planned.study.name, report)


def _print_plan(planned: "Plan", rows: list[dict[str, str]]) -> None:
    for row in rows:
        why = f"  {row['why']}" if row["why"] else ""
        typer.echo(
            f"{row['status']:<10} {row['kind']:<13} {row['label']:<40} {row['key'][:12]}{why}"
        )
    counts = {s: sum(r["status"] == s for r in rows) for s in ("hit", "miss", "not needed")}
    typer.echo(", ".join(f"{n} {s}" for s, n in counts.items() if n) + f" of {len(rows)} stages")
    from kdstudy.study.protocols import differences

    for d in differences(planned.study):
        typer.echo(
            f"differs from corrected: {d['field']} = {d['value']} "
            f"(not {d['corrected']}): {d['why']}"
        )


def _plan_document(planned: "Plan", rows: list[dict[str, str]]) -> dict[str, Any]:
    from kdstudy.study.protocols import differences

    return {
        "study": planned.study.model_dump(mode="json"),
        "protocol_differences": differences(planned.study),
        "stages": rows,
    }


def _print_summary(folder: Path) -> None:
    """Print accuracy, gain and agreement of every system: the few numbers that matter."""
    import csv

    with (folder / "results.csv").open(newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["benchmark"] == "average" and not r["ablation"]]
    accuracy = {r["system"]: r for r in rows if r["metric"] == "accuracy"}
    agreement = {
        r["system"]: r
        for r in rows
        if r["metric"] == "agreement" and r["reference"] == r["teacher"]
    }
    width = max(map(len, accuracy), default=0)
    typer.echo(f"\n{'system':<{width}}  accuracy  95% interval   agrees with teacher", err=True)
    for label, row in accuracy.items():
        value, low, high = (100 * float(row[k]) for k in ("value", "low", "high"))
        pair = agreement.get(label)
        agree = f"{100 * float(pair['value']):5.1f}%" if pair else ""
        typer.echo(
            f"{label:<{width}}  {value:7.1f}%  [{low:4.1f}, {high:4.1f}]   {agree}".rstrip(),
            err=True,
        )


if __name__ == "__main__":
    main()
