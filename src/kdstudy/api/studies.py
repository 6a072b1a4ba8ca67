"""A study planned, run, and its results as tables."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kdstudy.api import systems
from kdstudy.api.building import Show, build, unseen
from kdstudy.errors import InputError, KdstudyError, StageError

if TYPE_CHECKING:
    import pandas as pd

    from kdstudy.analysis.verdict import Test
    from kdstudy.config.schema import Study
    from kdstudy.engine.execute import Executor
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan

STORE = Path("kdstudy-store")
"""Where finished stages live unless told otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StudyResult:
    """What a finished study says.

    Attributes:
        name: The study's name.
        report: Its `report.html`; tables and figures as files lie beside it.
        results: The table `results.csv`: a row per system, benchmark and measure, rates as
            fractions with their 95% intervals.
        items: A row per graded answer: benchmark, example_id, sample, completion, extracted, rule,
            outcome, quality, tokens, system, overlap with the corpus, question, gold.
        tests: Every test of the study; `pandas.DataFrame(result.tests)` is a table of them.
        systems: A row per model, by its label: kind, method, teacher, seed, parameters, mean
            accuracy and ROUGE-L, and the folder it lies in (`path`) or where it is from (`origin`).
        notes: What is to be known beside the numbers, in sentences.
    """

    name: str
    report: Path
    results: "pd.DataFrame" = dataclasses.field(repr=False)
    items: "pd.DataFrame" = dataclasses.field(repr=False)
    tests: tuple["Test", ...] = dataclasses.field(repr=False)
    systems: "pd.DataFrame" = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    def model_path(self, system: str) -> Path:
        """Return the folder of a model that the study made: a PEFT adapter, or a whole model.

        Args:
            system: Its label, such as `zoo-s/word_kd/zoo-l`, or a beginning that no other has.

        Raises:
            InputError: There is no such system, several begin so, or the study uses it as it is.
        """
        label = systems.chosen(system, list(self.systems.index))
        path, origin = self.systems.loc[label, ["path", "origin"]]
        if path is None:
            raise InputError(f"{label}: was not trained here; {origin}")
        return Path(path)


def run_study(
    study: "str | Path | Mapping[str, Any] | Study",
    *,
    store: str | Path | None = None,
    data_dir: str | Path | None = None,
    jobs: int = 1,
    verify: bool = False,
) -> StudyResult:
    """Run or resume a study, as `kdstudy run` does; what is finished is not done again.

    Nothing is printed: `kdstudy ls runs` shows from a terminal how a run stands. With several jobs
    a script needs the usual `if __name__ == "__main__":`.

    Args:
        study: A study file, its fields as a mapping, or a checked `Study`. Without a file relative
            paths start from the working directory.
        store: Where finished stages live; `KDSTUDY_STORE`, or `kdstudy-store`, if left out.
        data_dir: Folder of benchmark and corpus files; `KDSTUDY_DATA` if left out.
        jobs: Processes of this machine that share the stages.
        verify: Check every byte of what is finished first.

    Raises:
        InputError: A field is wrong, or a model, corpus or benchmark cannot be used.
        StageError: A stage failed; what is finished is kept, and the same call goes on.
    """
    from kdstudy.engine.jobs import Jobs

    if os.environ.get("WORLD_SIZE", "1") != "1" and "LOCAL_RANK" in os.environ:
        raise InputError(
            "run_study: a launcher has started this script in several processes",
            remedy="accelerate launch -m kdstudy run STUDY trains each model on all devices",
        )
    plan, opened = planned(study, given(store, "KDSTUDY_STORE", STORE), _data(data_dir))
    run(plan, opened, _file(study), Jobs(jobs), verify=verify)
    return result(plan, opened)


def planned(
    study: "str | Path | Mapping[str, Any] | Study",
    store: Path,
    data_dir: Path | None,
    unreached: dict[str, str] | None = None,
) -> tuple["Plan", "Store"]:
    """Return a study's plan and the store it is for, which keeps what was pinned.

    Args:
        study: As `run_study` takes it.
        store: The store's folder.
        data_dir: Folder of benchmark and corpus files, or None.
        unreached: As `plan.make_plan` takes it.

    Raises:
        InputError: A field is wrong, or a model, corpus or benchmark cannot be used.
    """
    from kdstudy.config.read import read_study, study_of
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import make_plan

    file = _file(study)
    if file is not None:
        parsed = read_study(file)
    else:
        parsed = study_of(study) if isinstance(study, Mapping) else study
    opened = Store(store)
    pins = opened.pins()
    base = file.absolute().parent if file else Path.cwd()
    try:
        plan = make_plan(parsed, base, data_dir, pins, unreached)
    except InputError as e:
        e.what = f"{file}: {e.what}" if file else e.what
        raise
    opened.remember(pins)
    return plan, opened


def edited(plan: "Plan") -> list[str]:
    """Return sentences that name every benchmark file that is not the published one."""
    from kdstudy.evaluation import benchmarks
    from kdstudy.evaluation.kinds import BenchmarkConfig

    stages = [s for s in plan.stages.values() if s.kind == "benchmark" and "data_dir" in s.local]
    return [
        f"{c.name}: its file is not the published one: scores on it compare with nobody's "
        "(docs/data.md)"
        for c in (BenchmarkConfig.of(stage.config) for stage in stages)
        if benchmarks.published(c.name, c.fingerprint) is False
    ]


def notes(plan: "Plan") -> list[str]:
    """Return what is to be known of a plan beside its stages, in sentences."""
    return [*edited(plan), *plan.notes]


def single(**fields: Any) -> "Study":
    """Return a study of one run; a study must have a benchmark, and this one is never built.

    Raises:
        InputError: A field is wrong.
    """
    from pydantic import ValidationError

    from kdstudy.config.read import as_written
    from kdstudy.config.schema import Study

    try:
        return Study.model_validate({"name": "distill", "benchmarks": ["synth_addsub"], **fields})
    except ValidationError as e:
        error = e.errors()[0]
        field = ".".join(map(str, as_written(error["loc"])))
        raise InputError(
            f"{field}: {error['msg'].removeprefix('Value error, ')}".lstrip(": ")
        ) from e


def run(
    plan: "Plan",
    store: "Store",
    file: Path | None,
    executor: "Executor",
    *,
    verify: bool = False,
    show: Show = unseen,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Build a study's report and all that it needs; return how many stages that was.

    Args:
        plan: From `planned`.
        store: As the plan's.
        file: The study file, or None.
        executor: What builds.
        verify: Check every byte of what is finished first.
        show: What is seen of it.
        tell: Told of each damaged file.

    Raises:
        InputError: Another study file has that name here, or a tracker is not installed.
        StageError: A stage failed.
    """
    claim(plan, file, store)
    require_trackers(plan)
    return build(
        plan, plan.report, store, executor=executor, verify=verify, show=show, tell=tell
    )  # fmt: skip


def claim(plan: "Plan", file: Path | None, store: "Store") -> None:
    """Refuse to write where another study file of the same name has its report."""
    from kdstudy.config.read import read_study

    def still(other: Path) -> bool:
        try:
            return read_study(other).name == plan.study.name
        except KdstudyError:
            return False

    store.claim(plan.study.name, file, still)


def require_trackers(plan: "Plan") -> None:
    """Refuse trackers that are not here; a report of what is finished needs none."""
    from kdstudy.distill.trackers import require_installed

    require_installed(plan.study.train.report_to, "train.report_to")


def shown(plan: "Plan", store: "Store") -> Path:
    """Return the study's output folder, with its finished report copied into it.

    Raises:
        StageError: The report is not in the store, or the folder cannot be written.
    """
    report = store.get(plan.report)
    if report is None:
        raise StageError(
            "the report is not in the store any more",
            remedy="run again: what is missing or damaged is built first",
        )
    return store.show(plan.study.name, report)


def result(plan: "Plan", store: "Store") -> StudyResult:
    """Return what a finished study says."""
    import pandas as pd

    from kdstudy.analysis.results import read_csv
    from kdstudy.analysis.verdict import Test
    from kdstudy.artifacts import Results

    folder, source = shown(plan, store), store.get(plan.results)
    if source is None:
        raise StageError("the results are not in the store any more", remedy="run again")
    found = Results(source)
    models = [systems.facts(system, plan, store) for system in plan.systems]
    table = pd.DataFrame(models, dtype=object).drop(columns="benchmarks").set_index("system")
    numbers = dict.fromkeys(("accuracy", "rouge_l"), "float64")
    return StudyResult(
        name=plan.study.name,
        report=folder / "report.html",
        results=read_csv(found.table),
        items=found.items.read(),
        tests=tuple(Test(**test) for test in found.tests.read()),
        systems=table.astype(numbers | dict.fromkeys(("seed", "parameters"), "Int64")),
        notes=tuple(notes(plan)),
    )


@overload
def given(path: str | Path | None, variable: str, default: Path) -> Path: ...
@overload
def given(path: str | Path | None, variable: str, default: None) -> Path | None: ...
def given(path: str | Path | None, variable: str, default: Path | None) -> Path | None:
    """Return a folder as it is given, else that of an environment variable, else the default."""
    chosen = path if path is not None else os.environ.get(variable) or default
    return None if chosen is None else Path(chosen).expanduser()


def _data(path: str | Path | None) -> Path | None:
    return given(path, "KDSTUDY_DATA", None)


def _file(study: Any) -> Path | None:
    return Path(study).expanduser() if isinstance(study, str | Path) else None
