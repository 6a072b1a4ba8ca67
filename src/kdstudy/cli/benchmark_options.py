"""Which benchmarks a verb means: names, files of one's own, those of a study; one way for all."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.cli.options import note
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.config.refs import BenchmarkRef
    from kdstudy.evaluation.benchmarks import Benchmark, Source


class KindName(StrEnum):
    """What a benchmark's answers are."""

    number = "number"
    choice = "choice"
    text = "text"


Names = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        "--benchmarks",
        metavar="NAMES",
        help="`kdstudy ls benchmarks` names them; or files of your own with --kind; or tasks of "
        "lm-evaluation-harness as harness:NAME or FILE.yaml; or names of those of --study. Several "
        "with commas between.",
    ),
]
Kind = Annotated[
    KindName | None, typer.Option(help="Of files of your own: what their answers are.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Of choices in files: what an answer may be; letters if left out."
    ),
]
Scoring = Annotated[
    str | None,
    typer.Option(
        metavar="GRADER",
        help="likelihood: choose among the options by their log-probabilities (docs/scoring.md). "
        "What is usual with the answers' kind if left out.",
    ),
]
Shots = Annotated[
    int | None, typer.Option(help="Exemplars, with their answers, before every item.")
]
Exemplars = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Rows that exemplars are taken from, the first ones."),
]


class ShotsAsName(StrEnum):
    """How exemplars stand in a prompt."""

    turns = "turns"
    text = "text"
    bare = "bare"


ShotsAs = Annotated[
    ShotsAsName | None,
    typer.Option(help="Exemplars as turns, as text in the prompt, or as text without a prompt."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A text that ends an answer; may be given several times."),
]
Thinking = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="What ends a thought, such as `</think>`: no answer before."),
]
OfStudy = Annotated[
    Path | None, typer.Option("--study", metavar="FILE", help="A study, whose benchmarks to use.")
]

# What is not JSON is refused by its reader, with what to give instead.
_TASK = "harness:"
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".zst", ".yaml", ".yml")


def chosen(
    names: str | None,
    kind: KindName | None,
    labels: str | None,
    study: Path | None,
    scoring: str | None = None,
    **more: Any,
) -> list["BenchmarkRef"]:
    """Return the benchmarks that a verb's options name, with absolute paths, each once.

    Args:
        names: `--benchmark`; None for all of the study's, or none.
        kind: `--kind`.
        labels: `--labels`.
        study: `--study`.
        scoring: `--scoring`; None for what the study says.
        more: Other fields of a benchmark; None, or an empty list, for what the study says.

    Raises:
        InputError: A name or a file is not there, or options contradict each other.
    """
    if study is not None:
        if kind is not None or labels is not None:
            raise InputError("--kind and --labels: a study says them of its own files",
                             remedy="leave them out, or leave --study out")  # fmt: skip
        return _with(_of_study(study, names), scoring=scoring, **more)
    asked = _parts(names)
    tasks = [part for part in asked if _task_of(part)]
    files = [part for part in asked if _is_file(part) and part not in tasks]
    if not files and (kind is not None or labels is not None):
        raise InputError(
            f"--{'kind' if kind else 'labels'}: is for a file of your own, and "
            f"{names or 'no benchmark'} is none",
            remedy="leave it out, or give --benchmark FILE.jsonl",
        )
    others = (p for p in asked if p not in files and p not in tasks)
    found = {ref.name: ref for ref in [*map(_named, others), *map(_of_harness, tasks)]}
    return _with([*found.values(), *_own(files, kind, labels)], scoring=scoring, **more)


def _with(references: list["BenchmarkRef"], **fields: Any) -> list["BenchmarkRef"]:
    """Return benchmarks with what options say of them.

    Raises:
        InputError: They contradict each other or the study.
    """
    given = {name: value for name, value in fields.items() if value not in (None, [])}
    if not given:
        return references
    from pydantic import ValidationError

    try:
        return [
            type(r).model_validate(r.model_dump(exclude_unset=True) | given) for r in references
        ]
    except ValidationError as e:
        error = e.errors()[0]
        where = "".join(f"--{str(name).replace('_', '-')}: " for name in error["loc"][:1])
        raise InputError(where + error["msg"].removeprefix("Value error, ")) from e


def one(references: Sequence["BenchmarkRef"], study: Path | None) -> "BenchmarkRef":
    """Return the only benchmark of some; refuse none and several, with an InputError."""
    if len(references) == 1:
        return references[0]
    if not references:
        missing()
    names = ", ".join(r.name for r in references)
    raise InputError(
        f"--benchmark: one at a time, and {f'{study} has' if study else 'these are'} "
        f"{len(references)}: {names}",
        remedy=f"name one, such as --benchmark {references[0].name}",
    )


def missing() -> None:
    """Refuse that no benchmark was named."""
    raise InputError(
        "Missing option '--benchmark'",
        remedy="name one of `kdstudy ls benchmarks`; or give a file of your own and --kind number, "
        "choice or text; or --study STUDY.yaml",
    )


def load(reference: "BenchmarkRef", data_dir: Path | None) -> "Benchmark":
    """Return a benchmark's items, with a note where its file is not the published one."""
    from kdstudy.evaluation import benchmarks

    return items_of(benchmarks.meant(reference), data_dir)


def items_of(source: "Source", data_dir: Path | None) -> "Benchmark":
    """Return what `load` does, of what `benchmarks.meant` found."""
    from kdstudy.evaluation import benchmarks

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", benchmarks.EditedBenchmark)
        loaded = source.load(data_dir)
    for warning in heard:
        note(f"note: {warning.message}")
    return loaded


def _of_study(study: Path, names: str | None) -> list["BenchmarkRef"]:
    from kdstudy.config.read import read_study

    base = study.absolute().parent
    have = {}
    for ref in read_study(study).benchmarks:
        task = ref.harness if Path(ref.harness or "").suffix in (".yaml", ".yml") else None
        given = {"path": ref.path, "exemplars": ref.exemplars, "harness": task}
        found = {
            field: os.path.abspath(base / Path(path).expanduser())
            for field, path in given.items()
            if path is not None
        }
        have[_bare(ref.name)] = ref.model_copy(update=found)
    if names is None:
        return list(have.values())
    asked = _parts(names)
    strange = [name for name in asked if _bare(name) not in have]
    if strange:
        raise InputError(
            f"--benchmark {strange[0]}: {study} has no such benchmark",
            remedy=f"it has {', '.join(ref.name for ref in have.values())}",
        )
    return [have[bare] for bare in dict.fromkeys(map(_bare, asked))]


def _bare(name: str) -> str:
    """Return what names are compared by: the registered name, else the text but for its case."""
    from kdstudy.evaluation import benchmarks

    try:
        return benchmarks.canonical(name)
    except InputError:
        return re.sub(r"[-_\s]", "", name.casefold())


def _named(name: str) -> "BenchmarkRef":
    from kdstudy.config.refs import BenchmarkRef
    from kdstudy.evaluation import benchmarks

    return BenchmarkRef(name=benchmarks.canonical(name))


def _task_of(part: str) -> str:
    """Return the task of the harness that a part names: `harness:NAME`, or a YAML file."""
    if part.startswith(_TASK):
        return part.removeprefix(_TASK)
    return part if part.lower().endswith((".yaml", ".yml")) else ""


def _of_harness(part: str) -> "BenchmarkRef":
    from kdstudy.config.refs import BenchmarkRef

    task = _task_of(part)
    is_file = Path(task).suffix in (".yaml", ".yml")
    whole = os.path.abspath(Path(task).expanduser()) if is_file else task
    return BenchmarkRef.model_validate({"harness": whole})


def _own(files: list[str], kind: KindName | None, labels: str | None) -> list["BenchmarkRef"]:
    from kdstudy.config.refs import BenchmarkRef
    from kdstudy.evaluation import benchmarks

    if not files:
        return []
    if kind is None:
        raise InputError(
            f"--benchmark {files[0]}: a file of your own needs --kind",
            why="its answers do not say how they are to be read and graded",
            remedy="add --kind number, choice or text",
        )
    if labels is not None and kind is not KindName.choice:
        raise InputError(f"--labels: are for --kind choice, and --kind is {kind.value}")
    split = [part.strip().lower() for part in (labels or "").split(",") if part.strip()]
    paths = {file: Path(os.path.abspath(Path(file).expanduser())) for file in files}
    found = []
    for file, name in zip(files, _own_names(list(paths.values())), strict=True):
        benchmarks.from_file(name, paths[file], kind.value, split)  # refuses labels that cannot be
        found.append(BenchmarkRef(name=name, path=str(paths[file]), kind=kind.value, labels=split))
    return found


def _own_names(paths: Sequence[Path]) -> list[str]:
    """Return what reports call files: the stem, or more of the path where that is taken."""
    stems = Counter(path.stem for path in paths)
    found = []
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}-{path.stem}"
        # `gsm8k` and `average` are taken, and scores under one name must be of one set.
        name = path.name if _known(name) else name
        found.append(re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "own")
    return found


def _known(name: str) -> bool:
    from kdstudy.evaluation import benchmarks

    try:
        benchmarks.canonical(name)
    except InputError:
        return name.casefold() == "average"
    return True


def _parts(names: str | None) -> list[str]:
    """Return what stands between commas; a file's name may itself hold some."""
    if names is None:
        return []
    if _is_file(names) and os.path.isfile(os.path.expanduser(names)):
        return [names]
    found = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
    if not found:
        raise InputError("--benchmark: names none", remedy="name some, or leave it out")
    return found


def _is_file(text: str) -> bool:
    """Whether a text is meant as a file, there or not: `gsm8k` is a name, whatever lies here."""
    path = Path(text)
    return path.suffix.lower() in _FILES or len(path.parts) > 1 or text.startswith("~")
