"""How the study was made: corpus, benchmarks, versions, stages, losses while training."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import markupsafe
import pandas as pd

from kdstudy.report.blocks import Group, Html, Section, Text
from kdstudy.report.data import ReportData
from kdstudy.report.plot import INK, ROWS, Figure
from kdstudy.report.sheet import Sheet
from kdstudy.report.views import measured

_FILES = (
    "Beside this file: results.csv (every number here, one row each), items.parquet (every text), "
    "tables/ and figures/. To make it again: <code>kdstudy run</code> with the study file above; "
    "finished stages are kept."
)
_SIZES = ("Data set", "Train", "Validation", "Test")


def section(data: ReportData) -> Section:
    """Return what is finished, sizes, the study file, versions, stages and losses."""
    curves = training(data.made.get("training") or [], data.seeds.names)
    blocks = [
        Text(sentence(data)),
        sizes_sheet(data),
        Html.of("provenance.html", made=data.made),
        Group([curves], title="Training curves"),
        Text(markupsafe.Markup(_FILES), style="note"),
    ]
    return Section("made", "How it was made", blocks, short="How")


def sentence(data: ReportData) -> str:
    """Say how much is finished, how long it took, and which seeds it has."""
    table, finished = data.table, len(measured(data.table))
    planned = max(len(data.systems), finished)
    text = f"{finished} of {planned} systems are finished and measured"
    stages = data.made.get("stages") or []
    if stages:
        ran = [s["seconds"] for s in stages if s.get("seconds") is not None]
        text += f", {sum(ran) / 60:,.1f} minutes of work over {len(ran)} stages"
    seeds = sorted(set(table[table.kind == "distilled"].seed.dropna().astype(int)))
    if seeds:
        text += f", training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return text + "."


def sizes_sheet(data: ReportData) -> Sheet:
    """Return the sizes of all data sets."""
    rows = []
    for corpus in filter(None, (data.made.get("corpus"), data.made.get("replay"))):
        kept = [corpus.get("train", corpus.get("kept")), corpus.get("validation")]
        cells = [f"{n:,}" if n is not None else "–" for n in kept]
        rows.append([str(corpus.get("name", "corpus")), *cells, "–"])
    tested = data.graded_rows
    known = {name: b.get("n") for name, b in (data.made.get("benchmarks") or {}).items()}
    known = dict(zip(tested.benchmark, tested.n.astype(int), strict=True)) | known
    rows += [[b, "–", "–", f"{n:,}"] for b, n in sorted(known.items()) if n is not None]
    lines = [dict(zip(_SIZES, row, strict=True)) for row in rows]
    title = "Rows to learn from, to validate on and to test on"
    return Sheet.of("table6", title, lines, paper="Table 6")


def training(runs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Figure | None:
    """Draw the losses of every run over its steps, one small multiple per system.

    Args:
        runs: Each run's `training.json`, with its label as `system`.
        names: The system that a run is a draw of, by its label (`results.names_of`).
    """
    rows = pd.DataFrame(
        [
            {
                "system": names.get(r["system"], r["system"]),
                "run": r["system"],
                "step": p["step"],
                "kind": kind,
                "value": p.get(key),
            }
            for r in runs
            for p in r.get("curve") or ()
            for key, kind in (("loss", "training"), ("eval_loss", "validation"))
        ]
    )
    if rows.empty or rows.value.isna().all():
        return None
    rows = rows.dropna(subset="value")
    chart = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.6, color=INK)
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(tickCount=3, grid=False, title=None)),
            y=alt.Y("value:Q", axis=alt.Axis(tickCount=3, domain=False, title=None)),
            strokeDash=alt.StrokeDash("kind:N", legend=alt.Legend(title=None, orient="top")),
            opacity=alt.Opacity(
                "kind:N", scale=alt.Scale(domain=["training", "validation"], range=[0.45, 1])
            ),
            detail="run:N",
        )
        .properties(width=180, height=70)
        .facet(alt.Facet("system:N", header=alt.Header(title=None)), columns=4, spacing=18)
        .resolve_scale(y="independent")
    )
    last = rows[rows.kind == "validation"].groupby("run").value.last()
    text = "; ".join(f"{run}: {value:.3f}" for run, value in last.items())
    lines = ", a line per seed" if rows.run.nunique() > rows.system.nunique() else ""
    title = f"Loss over optimizer steps{lines} (nats per token; its scale differs between methods)"
    return Figure(name="training", title=title, description=text, chart=chart, data={"rows": rows})
