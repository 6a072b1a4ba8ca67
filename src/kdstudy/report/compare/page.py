"""Two studies side by side as one page, with its tables and figures beside it."""

import importlib.resources
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import markupsafe

from kdstudy.analysis.results import read_csv, write_csv
from kdstudy.analysis.stages import results
from kdstudy.artifacts import EACH_GENERATIONS, EACH_LIKELIHOODS, Answers, Results
from kdstudy.report.compare import words
from kdstudy.report.compare.differences import compare, systems_only
from kdstudy.report.compare.figures import FIGURES, all_figures
from kdstudy.report.compare.match import PAIR, StudyRows, study_differences, unmatched
from kdstudy.stage import KINDS, Work

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan

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
    answered = [s for s in plan.stages.values() if issubclass(KINDS[s.kind].writes, Answers)]
    used = [s.config["model"] for s in answered]
    return StudyRows(
        name=name,
        study=plan.study.model_dump(mode="json"),
        systems=plan.systems,
        table=table,
        items=items,
        runs=_runs(plan),
        models={m["name"]: m["fingerprint"] for m in used},
        pairs=pairs,
    )


def write(out: Path, a: StudyRows, b: StudyRows) -> Path:
    """Write `compare.html`, `compare.csv`, `tables/` and `figures/`; return the page's path.

    Raises:
        InputError: Nothing was measured in both studies.
    """
    table = compare(a, b)
    shown = systems_only(table)
    differs, alone = study_differences(a, b), unmatched(a, b)
    for name, stems in (("tables", words.SHEETS), ("figures", FIGURES)):
        (out / name).mkdir(parents=True, exist_ok=True)
        # A table of an earlier comparison that this one lacks would look like this one's.
        for path in (out / name).iterdir():
            if path.stem in stems:
                path.unlink()
    write_csv(table, out / "compare.csv")
    sheets = words.all_sheets(table, differs, alone)
    for sheet in sheets.values():
        sheet.save(out / "tables")
    figures = all_figures(table, a)
    drawn = {f.name: (f, markupsafe.Markup(f.save(out / "figures"))) for f in figures}
    page = _render(
        a=a.name,
        b=b.name,
        said=words.findings(shown),
        cautions=words.cautions(a, b, shown),
        differs_in=words.differs(differs),
        left_out=words.left_out(alone),
        facts=words.facts(a, b, shown),
        sheets=sheets,
        figures=drawn,
    )
    path = out / "compare.html"
    path.write_text(page, encoding="utf-8")
    return path


def _runs(plan: "Plan") -> dict[tuple[str, str], str]:
    found = {}
    for label, key in plan.scored.items():
        stage = plan.stages[key]
        answered = EACH_GENERATIONS.find(stage.inputs) | EACH_LIKELIHOODS.find(stage.inputs)
        for benchmark, key in answered.items():
            found[label, benchmark] = f"{key}|{stage.config['rule']}"
    return found


def _render(**context: Any) -> str:
    folder = importlib.resources.files("kdstudy.report") / "page"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({"compare.html": (folder / "compare.html").read_text("utf-8")}),
    )
    style = markupsafe.Markup((folder / "report.css").read_text("utf-8"))
    return environment.get_template("compare.html").render(**context, style=style)
