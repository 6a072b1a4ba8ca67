"""The verbs for one model and no study file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.cli.options import STORE, StorePath, quiet_libraries
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.study.store import Store


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
    store: StorePath = STORE,
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
    quiet_libraries()
    with StudyView(f"{method} {student}", len(todo), 0) as view:
        execute(todo, opened, view, damaged=damaged)
    _export(planned.stages[key], opened, out, merge)
    typer.echo(str(out))


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
