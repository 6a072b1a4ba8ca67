"""Two studies side by side as one page, with its tables and figures beside it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kdstudy.analysis.results import read_csv, write_csv
from kdstudy.analysis.stages import results
from kdstudy.artifacts import EACH_GENERATIONS, EACH_LIKELIHOODS, Answers, Results
from kdstudy.evaluation.kinds import ScoreConfig
from kdstudy.models.kinds import named_in
from kdstudy.report.blocks import Group, Listed, Section, Text, write_page
from kdstudy.report.compare import words
from kdstudy.report.compare.differences import compare, systems_only
from kdstudy.report.compare.figures import FIGURES, all_figures
from kdstudy.report.compare.match import PAIR, StudyRows, study_differences, unmatched
from kdstudy.stage import Work, kinds

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan

_MATCHING = (
    "A run is the same in both studies when kind, model, teacher, method, ablation and its "
    "setting, temperature, noise and seed are; everything else may differ. Runs that differ by "
    "seed alone are draws of one system. A benchmark is the same by name, an item by its question "
    "and its gold answer."
)
_FILES = "Beside this file: compare.csv (every number here, one row each), tables/ and figures/."
_READ = ["system", "benchmark", "example_id", "sample", "quality", "rule", "gold"]


def compare_from_store(a: "Plan", b: "Plan", store: "Store", out: Path) -> Path:
    """Write study B beside study A from what the store holds of both, finished or not.

    Returns:
        The path of `compare.html`.

    Raises:
        InputError: The store holds nothing that was measured in both.
    """
    names = [plan.study.name for plan in (a, b)]
    if names[0] == names[1]:
        names = [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]
    rows = [rows_from_store(p, store, n) for p, n in zip((a, b), names, strict=True)]
    return write(out, *rows)


def rows_from_store(plan: "Plan", store: "Store", name: str) -> StudyRows:
    """Return what the store holds of a study, under the name it goes by beside another one."""
    stage = plan.stages[plan.results]
    there = {role: folder for role, key in stage.inputs.items() if (folder := store.get(key))}
    with tempfile.TemporaryDirectory() as scratch:
        folder = store.get(plan.results)
        if folder is None:
            folder = Path(scratch)
            results(Work(config=stage.config, inputs=there, local={"partial": True}, out=folder))
        found = Results(folder)
        table, items = read_csv(found.table), found.items.read(_READ)
        pairs = found.pairs.read(PAIR)
    answered = [s for s in plan.stages.values() if issubclass(kinds()[s.kind].writes, Answers)]
    used = [m for s in answered for m in named_in(s)]
    return StudyRows(
        name=name,
        study=plan.study.model_dump(mode="json"),
        systems=plan.systems,
        table=table,
        items=items,
        runs=_runs(plan),
        models={m.name: m.fingerprint for m in used},
        pairs=pairs,
    )


def write(out: Path, a: StudyRows, b: StudyRows) -> Path:
    """Write `compare.html`, `compare.csv`, `tables/` and `figures/`; return the page's path.

    Raises:
        InputError: Nothing was measured in both studies.
    """
    table = compare(a, b)
    for name, stems in (("tables", words.SHEETS), ("figures", FIGURES)):
        (out / name).mkdir(parents=True, exist_ok=True)
        # A table of an earlier comparison that this one lacks would look like this one's.
        for path in (out / name).iterdir():
            if path.stem in stems:
                path.unlink()
    write_csv(table, out / "compare.csv")
    path = out / "compare.html"
    write_page(
        path,
        [section.filled() for section in _sections(table, a, b)],
        title=f"{a.name} and {b.name} · two distillation studies",
        heading=f"{a.name} and {b.name}",
        kicker="Two distillation studies side by side",
        skip="what changed",
        facts=words.facts(a, b, systems_only(table)),
    )
    return path


def _sections(table: pd.DataFrame, a: StudyRows, b: StudyRows) -> list[Section]:
    shown, differs, alone = systems_only(table), study_differences(a, b), unmatched(a, b)
    sheets, said = words.all_sheets(table, differs, alone), words.findings(shown)
    figures = {f.name: f for f in all_figures(table, a)}
    changes = [
        *map(Text, said["tested"]),
        Listed(words.cautions(a, b, shown), heading="Before you rely on this"),
        Group([figures.get("accuracy-averages"), figures.get("rouge-l-averages")]),
        *(sheets["averages"], sheets["seeds"]),
    ]
    benchmarks = [
        *map(Text, said["benchmarks"]),
        *(figures.get("accuracy-benchmarks"), figures.get("rouge-l-benchmarks")),
        sheets["benchmarks"],
    ]
    measures = [
        *map(Text, said["plain"] or ["Neither was measured in both studies."]),
        *(sheets["same-answer"], sheets["measures"]),
    ]
    left_out = [
        Text(words.left_out(alone)),
        Text(_MATCHING, style=""),
        sheets["unmatched"],
        Text(_FILES, style="note"),
    ]
    files = [Text(words.differs(differs)), sheets["study-files"]]
    return [
        Section("changes", "What changed from A to B", changes, short="What changed"),
        Section("benchmarks", "Benchmark by benchmark", benchmarks, short="Benchmarks"),
        Section("measures", "Answers found, agreement and BLEU", measures, short="Other measures"),
        Section("files", "What the study files say", files, short="Study files"),
        Section("unmatched", "What has no match", left_out, short="No match"),
    ]


def _runs(plan: "Plan") -> dict[tuple[str, str], str]:
    found = {}
    for label, key in plan.scored.items():
        stage = plan.stages[key]
        answered = EACH_GENERATIONS.find(stage.inputs) | EACH_LIKELIHOODS.find(stage.inputs)
        for benchmark, key in answered.items():
            found[label, benchmark] = f"{key}|{ScoreConfig.of(stage.config).rule}"
    return found
