"""Write the report: one self-contained HTML file, and its tables, figures and rows beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import pandas as pd
import yaml

from kdstudy.analysis.results import write_csv
from kdstudy.analysis.stats import Test
from kdstudy.records import System
from kdstudy.report import sections
from kdstudy.report.blocks import write_page
from kdstudy.report.browse import MAX_ITEMS, rows_data, safe_json
from kdstudy.report.data import ITEM_COLUMNS, ReportData
from kdstudy.report.terminal import summary
from kdstudy.report.views import measured

_SCRIPTS = ("report.js", "tables.js", "items.js", "texts.js", "options.js", "rows.js")


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
    **measured: Any,
) -> Path:
    """Write `report.html`, `summary.txt`, `results.csv`, `items.parquet`, `tables/`, `figures/`.

    Model texts are embedded as JSON and shown as text.

    Args:
        out_dir: Folder to write into; made when it is not there.
        table: This and the following are those of `data.ReportData`.
        items: Graded texts.
        pairs: Pair scores.
        systems: Every planned system.
        tests: Every test.
        provenance: How the study was made, there called `made`.
        title: Heading; the study's name when empty.
        max_items: Most items per benchmark in the browser.
        measured: `tokens`, `responses`, `variants`, `probes`, `prompts` of `data.ReportData`.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: The items or the pairs lack a column.
    """
    made = dict(provenance or {})
    given = {"items": items, "pairs": pairs}
    data = ReportData(
        table=table,
        systems=systems,
        tests=tests,
        made=made,
        max_items=max_items,
        **measured,
        **{name: frame for name, frame in given.items() if frame is not None},
    )
    if data.study and not made.get("study_text"):
        made["study_text"] = yaml.safe_dump(dict(data.study), sort_keys=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_csv(table, out_dir / "results.csv")
    data.items[ITEM_COLUMNS].to_parquet(out_dir / "items.parquet", index=False)
    (out_dir / "summary.txt").write_text(summary(data.seeds), encoding="utf-8")
    heading = title or _name(data)
    path = out_dir / "report.html"
    write_page(
        path,
        sections.shown(data),
        scripts=_SCRIPTS,
        title=f"{heading} · distillation study",
        heading=heading,
        kicker="Distillation study",
        skip="the answer",
        facts=facts(data),
        data=markupsafe.Markup(
            safe_json(data.browser | {"rows": rows_data(table, data.seeds.names)})
        ),
    )
    return path


def facts(data: ReportData) -> list[tuple[str, str]]:
    """Return the line of small facts under the heading."""
    table, done = data.table, len(measured(data.table))
    kinds = table.drop_duplicates("system").kind.value_counts()
    students = table[table.student != ""].student.nunique()
    methods = sorted(set(table[table.kind == "distilled"].method))
    epochs = "; ".join(f"{m}: {said}" for m, said in (data.made.get("epochs") or {}).items())
    return [
        ("teachers", str(kinds.get("teacher", 0))),
        ("students", str(students)),
        ("methods", ", ".join(methods) or "none yet"),
        ("benchmarks", ", ".join(data.benchmarks) or "none yet"),
        ("runs", f"{done} of {max(len(data.systems), done)}"),
        ("protocol", str(data.study.get("protocol", "not recorded"))),
        *([("epochs", epochs)] if epochs else []),
    ]


def _name(data: ReportData) -> str:
    table = data.table
    return str(table.study.iloc[0]) if len(table) else str(data.study.get("name", "study"))
