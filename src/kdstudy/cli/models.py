"""The verbs for one model and no study file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kdstudy.api import evaluating, studies
from kdstudy.api.studies import STORE
from kdstudy.cli import benchmark_options
from kdstudy.cli.building import build, shown
from kdstudy.cli.options import (
    AsJson,
    Columns,
    DataDir,
    RougeName,
    RougeTokenizer,
    StorePath,
    corpus_fields,
    note,
    part,
    print_json,
)
from kdstudy.errors import InputError

Template = Annotated[
    str,
    typer.Option(help="auto (the tokenizer's own, else alpaca), alpaca, chat, reference, a text."),
]
TemplateArguments = Annotated[
    str, typer.Option(metavar="JSON", help="For chat templates: '{\"enable_thinking\": false}'.")
]


def distill(
    student: Annotated[str, typer.Option(help="Model to train: Hub id, folder or zoo name.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="JSON(L), CSV, Parquet, a folder of them, or a Hub data set."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the adapter or model goes.")],
    teacher: Annotated[str | None, typer.Option(help="Model to learn from; used as it is.")] = None,
    method: Annotated[str, typer.Option(help="`kdstudy ls methods` names them.")] = "word_kd",
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 4,
    start: Annotated[
        str | None,
        typer.Option(
            help="`base`, or `sft`: train on from the student's own sft run; offline_opd: `seqkd` "
            "or `sft`. The method's own if left out."
        ),
    ] = None,
    start_epochs: Annotated[
        float | None, typer.Option(help="Passes of that sft run; --epochs if left out.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 16,
    max_length: Annotated[int, typer.Option(help="Tokens per row.")] = 256,
    validation_rows: Annotated[
        int | None,
        typer.Option(help="Rows that choose the checkpoint; a tenth, 500 at most, if left out."),
    ] = None,
    columns: Columns = None,
    seed: Annotated[int, typer.Option(help="Training seed.")] = 0,
    template: Template = "auto",
    template_arguments: TemplateArguments = "{}",
    loss_turns: Annotated[
        str, typer.Option(help="Of a conversation, learn `all` answers or the `last`.")
    ] = "all",
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, no adapter.")
    ] = False,
    store: StorePath = STORE,
) -> None:
    """Distil one student without a study file; the result loads in peft or transformers."""
    from kdstudy import methods
    from kdstudy.cli.exporting import hand_over, new_folder, require_new, trained

    out = out.expanduser()
    if method == "sft" and teacher:
        raise InputError("--method sft learns from the data alone", remedy="leave --teacher out")
    if method != "sft" and not teacher:
        raise InputError(f"--method {method} needs a --teacher", remedy="or choose --method sft")
    require_new(out)
    begin = _start(start, start_epochs)
    if method == "sft" and begin not in (None, "base"):
        raise InputError("--start: sft is what other methods start from", remedy="leave it out")
    own = [] if method == "sft" else [{"type": method} | ({"start": begin} if begin else {})]
    known = methods.METHODS.get(method)
    writes = known is not None and known().recipe().written_before
    study = studies.single(
        teachers=[{"model": teacher, "finetune": False}] if teacher else [],
        students=[student],
        corpus=corpus_fields("--data", data, columns) | {"validation_rows": validation_rows},
        methods=["sft", *own],
        seeds=[seed],
        # Only who writes text to learn from answers anything: no other budget has to fit a model.
        generation={} if writes else {"max_new_tokens": 1},
        train={
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "max_length": max_length,
            "loss_turns": loss_turns,
        },
        template=template,
        template_arguments=_arguments(template_arguments),
    )
    planned, opened = studies.planned(study, store, None)
    kind = "distilled" if own else "sft"
    (system,) = (s for s in planned.systems if s.kind == kind)
    build(f"{method} {student}", planned, planned.trained[system.label], opened)
    with new_folder(out) as fresh:
        hand_over(trained(planned, opened, system), fresh, out.name, merge=merge)
    typer.echo(str(out))


def evaluate(
    model: Annotated[str, typer.Option(help="Model: Hub id, folder or zoo name.")],
    benchmark: benchmark_options.Names = None,
    kind: benchmark_options.Kind = None,
    labels: benchmark_options.Labels = None,
    study: benchmark_options.OfStudy = None,
    scoring: benchmark_options.Scoring = None,
    shots: benchmark_options.Shots = None,
    exemplars: benchmark_options.Exemplars = None,
    shots_as: benchmark_options.ShotsAs = None,
    stop: benchmark_options.Stop = None,
    thinking: benchmark_options.Thinking = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="DIR", help="PEFT adapter to put on the model.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items per benchmark, a seeded choice.")] = None,
    template: Template = "auto",
    template_arguments: TemplateArguments = "{}",
    max_new_tokens: Annotated[int, typer.Option(help="Token budget of an answer.")] = 256,
    rule: Annotated[str, typer.Option(help="Extraction: corrected or reference.")] = "corrected",
    rouge_tokenizer: RougeTokenizer = RougeName.published,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for scores.parquet and eval.json.")
    ] = None,
    data_dir: DataDir = None,
    store: StorePath = STORE,
    as_json: AsJson = False,
) -> None:
    """Generate a model's answers and score them; answers made before are not made again."""
    asked = benchmark_options.chosen(
        benchmark, kind, labels, study, scoring, shots=shots, stop=stop, thinking=thinking,
        exemplars=exemplars and str(exemplars.expanduser().absolute()),
        shots_as=shots_as and shots_as.value,
    )  # fmt: skip
    if not asked:
        benchmark_options.missing()
    single = evaluating.single_study(
        model,
        asked,
        adapter=adapter,
        limit=limit,
        template=template,
        template_arguments=_arguments(template_arguments),
        max_new_tokens=max_new_tokens,
        rule=rule,
        rouge_tokenizer=rouge_tokenizer.value,
    )
    planned, opened = studies.planned(single, store, data_dir)
    for line in studies.edited(planned):
        note(f"note: {line}")
    title = f"eval {planned.systems[0].label}"
    found = evaluating.scored(planned, opened, show=shown(title), tell=note)
    if out is not None:
        found.save(out)
    if as_json:
        print_json(found.document)
    else:
        _print_measured(found.metrics)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model as one GGUF file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
) -> None:
    """Write a GGUF file's model as a Hugging Face folder, its weights as float32."""
    from kdstudy.api.building import quiet_libraries
    from kdstudy.cli.exporting import new_folder
    from kdstudy.models import gguf_file

    quiet_libraries()
    file, out = file.expanduser(), out.expanduser()
    gguf_file.require_gguf(file)
    with new_folder(out) as fresh:
        from kdstudy.models import from_gguf

        mark = from_gguf.write(file, fresh, gguf_file.sha256(file))
    note(gguf_file.origin({gguf_file.MARK: mark}))
    typer.echo(str(out))


def _start(start: str | None, epochs: float | None) -> Any:
    if epochs is None:
        return start
    if start != "sft":
        raise InputError(
            "--start-epochs is the length of an sft run to start from", remedy="add --start sft"
        )
    return {"sft": epochs}


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as e:
        raise InputError(f"--template-arguments: is not JSON ({e})") from e
    if not isinstance(found, dict):
        raise InputError("--template-arguments: is no JSON object", remedy='write {"name": value}')
    return found


def _print_measured(found: Mapping[str, Mapping[str, Any]]) -> None:
    width = max(9, *map(len, found))
    parts = {name: part(row["n"], row["of"]) for name, row in found.items()}
    room = max(5, *map(len, parts.values()))
    typer.echo(
        f"{'benchmark':<{width}}  {'items':>{room}}  measure    value  95% interval   parsed   "
        "cut  chance"
    )
    for name, row in found.items():
        text = "rouge_l" in row
        measure, value = ("ROUGE-L", "rouge_l") if text else ("accuracy", "accuracy")
        low, high = (100 * row[k] for k in ("low", "high"))
        shares = {k: f"{100 * row[k]:.0f}%" for k in ("parse_rate", "truncated_rate") if k in row}
        parsed, cut = (shares.get(k, "") for k in ("parse_rate", "truncated_rate"))
        chance = "" if text else f"{100 * row['chance']:.0f}%"
        typer.echo(
            f"{name:<{width}}  {parts[name]:>{room}}  {measure:<8}  {100 * row[value]:>6.1f}  "
            f"[{low:5.1f}, {high:5.1f}] {parsed:>7}  {cut:>4}  {chance:>6}"
        )
        for other, share in row.get("by_filter", {}).items():
            typer.echo(f"{'':<{width}}  {'':>{room}}  {other:<9} {100 * share:>6.1f}")
        for other in (k for k in ("acc_norm", "acc_bytes") if k in row):
            typer.echo(f"{'':<{width}}  {'':>{room}}  {other:<9} {100 * row[other]:>6.1f}")
