"""Write the report: one self-contained HTML file, and its tables, figures and rows beside it."""

import base64
import dataclasses
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd
import yaml

from kdstudy.analysis.results import AVERAGE, write_csv
from kdstudy.analysis.stats import Test
from kdstudy.errors import InputError
from kdstudy.records import System
from kdstudy.report import alarms, curves, figures, findings, likeness, tables
from kdstudy.report.browse import MAX_ITEMS, browser_data, rows_data, safe_json
from kdstudy.report.items import against_teacher, overlap_counts, telling_items
from kdstudy.report.plot import Figure
from kdstudy.report.seeds import Seeds
from kdstudy.report.sheet import OF_PAPER
from kdstudy.report.terminal import summary
from kdstudy.report.views import Numbers, graded, measured, texts

ITEM_COLUMNS = [
    *("system", "benchmark", "example_id", "sample", "question", "gold", "overlap"),
    *("completion", "extracted", "outcome", "quality", "tokens"),
]
PAIR_COLUMNS = [
    *("system", "reference", "benchmark", "example_id", "sample"),
    *("agree", "bleu", "rouge_l", "steps"),
]


_SCRIPTS = ("report.js", "items.js", "texts.js", "rows.js")


def write(
    out_dir: Path,
    *,
    table: pd.DataFrame,
    items: pd.DataFrame | None = None,
    pairs: pd.DataFrame | None = None,
    systems: Sequence[System] = (),
    tests: Sequence[Test] = (),
    provenance: Mapping[str, Any] | None = None,
    title: str = "",
    max_items: int = MAX_ITEMS,
) -> Path:
    """Write `report.html`, `summary.txt`, `results.csv`, `items.parquet`, `tables/`, `figures/`.

    The HTML file needs nothing else: it makes no request, and its only script is its own (a
    content security policy names it by hash). Model texts are embedded as JSON and shown as text.

    Args:
        out_dir: Folder to write into; made when it is not there.
        table: From `results.collect`.
        items: Graded texts, columns `ITEM_COLUMNS`; without them there is no item browser.
        pairs: Pair scores, columns `PAIR_COLUMNS`.
        systems: Every system that the study plans, finished or not.
        tests: From `stats.study_tests`.
        provenance: How the study was made; every entry is optional.
        title: Heading; the study's name when empty.
        max_items: Most items per benchmark in the browser.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: The table, the items or the pairs lack a column.
    """
    items = _frame(items, ITEM_COLUMNS, "items")
    pairs = _frame(pairs, PAIR_COLUMNS, "pairs")
    made = dict(provenance or {})
    if _study(made) and not made.get("study_text"):
        made["study_text"] = yaml.safe_dump(dict(_study(made)), sort_keys=False)
    for folder in (out_dir, out_dir / "tables", out_dir / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    write_csv(table, out_dir / "results.csv")
    items.to_parquet(out_dir / "items.parquet", index=False)
    seen = _look(table, tests, items, systems, made)
    top, teacher = _first(seen.seeds)
    data = browser_data(items, pairs, systems, first=top, max_items=max_items)
    sheets = tables.all_sheets(
        table,
        tests,
        kept=seen.kept,
        made=made,
        seconds=seen.seconds,
        examples=telling_items(items, pairs, top, teacher) if top else [],
        overlaps=seen.overlaps,
        runs={run["run"] for run in data["runs"]},
    )
    for sheet in sheets.values():
        sheet.save(out_dir / "tables")
    page = _render(
        title=title or _name(table, made),
        said=_sentences(table, tests, systems, made, seen),
        warnings=alarms.warnings(table, systems, made, seen.raised, seen.overlaps, tests),
        sheets=sheets,
        figures=_draw(table, tests, made, seen.seeds.names, out_dir / "figures"),
        of_paper=OF_PAPER,
        made=made,
        facts=_facts(table, systems, made),
        data=data | {"rows": rows_data(table, seen.seeds.names)},
    )
    path = out_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    (out_dir / "summary.txt").write_text(summary(seen.seeds), encoding="utf-8")
    return path


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What several parts of the page are told from."""

    seeds: Seeds
    kept: pd.DataFrame
    overlaps: pd.DataFrame
    seconds: Mapping[str, float]
    raised: Sequence[alarms.Alarm]


def _look(
    table: pd.DataFrame,
    tests: Sequence[Test],
    items: pd.DataFrame,
    systems: Sequence[System],
    made: Mapping[str, Any],
) -> _Seen:
    return _Seen(
        seeds=Seeds(table, tests),
        kept=against_teacher(items, systems, graded(table)),
        overlaps=overlap_counts(items),
        seconds=_seconds(made, table),
        raised=alarms.alarms(table, Numbers(table), made.get("training") or ()),
    )


def _first(seeds: Seeds) -> tuple[str, str]:
    """Return the run whose texts are shown first, and its teacher: a seed of the best system.

    The first of its seeds, whatever it scored: a seed is drawn, not chosen.
    """
    best = findings.best(seeds.means)
    if best is None:
        return "", ""
    names = seeds.names
    runs = seeds.runs[[names[s] == best.system for s in seeds.runs.system]]
    return str(runs.sort_values("seed", kind="stable").system.iloc[0]), str(best.teacher)


def _draw(
    table: pd.DataFrame,
    tests: Sequence[Test],
    made: Mapping[str, Any],
    names: Mapping[str, str],
    folder: Path,
) -> dict[str, tuple[Figure, markupsafe.Markup]]:
    """Write every figure and return it with its SVG."""
    benchmarks = made.get("benchmarks") or {}
    chance = {name: b["chance"] for name, b in benchmarks.items() if "chance" in b}
    drawn = figures.all_figures(table, tests, chance)
    if figure := curves.training(made.get("training") or [], names):
        drawn[figure.name] = figure
    return {name: (f, markupsafe.Markup(f.save(folder))) for name, f in drawn.items()}


def _render(data: dict[str, Any], **context: Any) -> str:
    folder = importlib.resources.files("kdstudy.report") / "page"
    style = (folder / "report.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({"report.html": (folder / "report.html").read_text("utf-8")}),
    )
    return environment.get_template("report.html").render(
        **context,
        browser=data,
        data=markupsafe.Markup(safe_json(data)),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        script_hash=digest,
    )


def _frame(frame: pd.DataFrame | None, columns: list[str], name: str) -> pd.DataFrame:
    if frame is None:
        return pd.DataFrame({c: pd.Series(dtype=object) for c in columns})
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise InputError(f"{name}: column {missing[0]} is missing", remedy=f"give {columns}")
    return frame[columns]


def _name(table: pd.DataFrame, made: Mapping[str, Any]) -> str:
    return str(table.study.iloc[0]) if len(table) else str(_study(made).get("name", "study"))


def _study(made: Mapping[str, Any]) -> Mapping[str, Any]:
    study = made.get("study")
    return study if isinstance(study, Mapping) else {}


def _sentences(
    table: pd.DataFrame,
    tests: Sequence[Test],
    systems: Sequence[System],
    made: Mapping[str, Any],
    seen: _Seen,
) -> dict[str, Any]:
    means = seen.seeds.means
    return {
        "answer": findings.answer(table, tests, seen.kept, seen.seconds),
        "generalization": findings.generalization(table, tests),
        "fidelity": likeness.fidelity(table, tests),
        "depends": findings.depends(tests),
        "methods": findings.methods(tests),
        "instruct": findings.instruction(means),
        "ablations": findings.ablations(means),
        "collapse": alarms.collapse(table, tests, seen.raised),
        "measures": findings.measures(means),
        "contamination": findings.contamination(means, seen.overlaps),
        "made": _made(table, systems, made),
    }


def _made(table: pd.DataFrame, systems: Sequence[System], made: Mapping[str, Any]) -> str:
    finished = len(measured(table))
    planned = max(len(systems), finished)
    text = f"{finished} of {planned} systems are finished and measured"
    stages = made.get("stages") or []
    if stages:
        ran = [s["seconds"] for s in stages if s.get("seconds") is not None]
        text += f", {sum(ran) / 60:,.1f} minutes of work over {len(ran)} stages"
    seeds = sorted(set(table[table.kind == "distilled"].seed.dropna().astype(int)))
    if seeds:
        text += f", training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return text + "."


def _facts(
    table: pd.DataFrame, systems: Sequence[System], made: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the line of small facts under the heading."""
    kinds = table.drop_duplicates("system").kind.value_counts()
    students = table[table.student != ""].student.nunique()
    benchmarks = [*graded(table), *texts(table)]
    methods = sorted(set(table[table.kind == "distilled"].method))
    epochs = "; ".join(f"{m}: {said}" for m, said in (made.get("epochs") or {}).items())
    return [
        ("teachers", str(kinds.get("teacher", 0))),
        ("students", str(students)),
        ("methods", ", ".join(methods) or "none yet"),
        ("benchmarks", ", ".join(benchmarks) or "none yet"),
        ("runs", f"{len(measured(table))} of {max(len(systems), len(measured(table)))}"),
        ("protocol", str(_study(made).get("protocol", "not recorded"))),
        *([("epochs", epochs)] if epochs else []),
    ]


def _seconds(made: Mapping[str, Any], table: pd.DataFrame) -> dict[str, float]:
    """Return generation seconds per 1,000 items of the systems whose every benchmark was timed.

    A stage `generate` is labelled `<system> on <benchmark>`. Its `pace` leaves out the start-up,
    which the first stage of a process alone has to bear; of a stage that is given
    without one the whole time counts, and of an empty one nothing is known.
    """
    stages = [s for s in made.get("stages") or [] if s["kind"] == "generate"]
    timed = {s["label"]: s for s in stages if s.get("seconds") is not None}
    draws = (_study(made).get("generation") or {}, _study(made).get("text_generation") or {})
    own = table[table.metric.isin(["accuracy", "rouge_l"]) & (table.benchmark != AVERAGE)]
    found = {}
    for system, rows in own.groupby("system"):
        times = [
            _seconds_of(timed.get(f"{system} on {r.benchmark}"), r.n, draws[r.metric == "rouge_l"])
            for r in rows.itertuples()
        ]
        if None not in times:
            found[str(system)] = 1000 * sum(times) / int(rows.n.sum())
    return found


def _seconds_of(
    stage: Mapping[str, Any] | None, items: int, settings: Mapping[str, Any]
) -> float | None:
    """Return the seconds that a stage `generate` takes for its items, by its pace if it has one."""
    if stage is None:
        return None
    pace = stage.get("pace")
    if pace is None:
        return stage["seconds"]
    if not pace:  # of an older version, or resumed with a single batch left
        return None
    return pace["seconds"] / pace["done"] * items * settings.get("samples", 1)
