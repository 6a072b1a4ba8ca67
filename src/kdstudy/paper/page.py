"""One self-contained HTML page: the published study, replayed."""

import collections
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from kdstudy.analysis.verdict import format_p
from kdstudy.errors import InputError
from kdstudy.paper import published
from kdstudy.paper.claims import claims as judge
from kdstudy.paper.evidence import FALLS, IN_PART, STANDS, UNKNOWN, Claim, Evidence
from kdstudy.paper.pictures import pictures
from kdstudy.paper.replay import DIFFERS, FLIPS, LOST, MATCH, TWICE, name
from kdstudy.report.plot import Figure

_TITLES = {
    "1": "Is there a gain, and do methods differ? t-tests and one-way ANOVA",
    "2": "Gain and teacher accuracy",
    "3": "Gain and student size",
    "4": "Gain and agreement with the teacher",
    "5": "Gain and fidelity to the teacher",
}
_MARKS = {MATCH: "same", TWICE: "p twice rounded", DIFFERS: "differs", FLIPS: "flips", LOST: "lost"}
_TONES = {STANDS: "good", IN_PART: "part", FALLS: "bad", UNKNOWN: "open"}


def html(path: Path) -> Path:
    """Write the page about the published study and return its path.

    Raises:
        InputError: The file cannot be written.
    """
    evidence = Evidence()
    text = page(evidence.replays, judge(evidence), pictures(evidence))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}", why=str(error.strerror)) from error
    return path


def page(
    replays: Mapping[str, Mapping[str, Any]],
    claims: Sequence[Claim],
    figures: Sequence[Figure] = (),
) -> str:
    """Return the page as text.

    Args:
        replays: `replay.replay` per aggregation: max, tau1 and printed.
        claims: From `claims.claims`.
        figures: From `pictures.pictures`.
    """
    ours = importlib.resources.files("kdstudy.paper")
    shared = importlib.resources.files("kdstudy.report") / "page"
    style = (shared / "report.css").read_text("utf-8") + (ours / "paper.css").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader({"paper.html": (ours / "paper.html").read_text("utf-8")}),
    )
    environment.filters["tone"] = _TONES.__getitem__
    counts = collections.Counter(c.verdict for c in claims)
    return environment.get_template("paper.html").render(
        style=markupsafe.Markup(style),
        replays=replays,
        claims=claims,
        counts=[(verdict, counts[verdict]) for verdict in _TONES],
        figures={f.name: (f, markupsafe.Markup(f.svg())) for f in figures},
        tables=_tables(replays["max"]["cells"]),
        flips=_flips(replays),
        undeclared=list(published.undeclared_temperatures().itertuples()),
    )


def _tables(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each printed table's panels as rows of cells."""
    panels: dict[tuple[str, str], list] = {}
    for cell in cells:
        panels.setdefault((cell["table"], cell["panel"]), []).append(cell)
    found = []
    for (table, panel), own in panels.items():
        rows: dict[str, list] = {}
        for cell in own:
            rows.setdefault(cell["row"], []).append(_shown(cell))
        found.append(
            {
                "name": f"Table {table}{panel}",
                "title": f"{_TITLES[table]}, {published.BENCHMARKS[panel]}",
                "tasks": [c["task"] for c in next(iter(rows.values()))],
                "rows": rows,
                "notes": [f"{c['row']}, {c['task']}: {c['note']}" for c in own if "note" in c],
                "same": sum(c["verdict"] == MATCH for c in own),
                "of": len(own),
            }
        )
    return found


def _shown(cell: Mapping[str, Any]) -> dict[str, Any]:
    printed, found = cell["printed"], cell["recomputed"]
    lost = found["statistic"] is None
    return {
        "task": cell["task"],
        "printed": f"{printed['statistic']:.2f} ({printed['p']:.1f})".replace("-", "−"),
        "printed_bold": printed["significant"],
        "found": "–" if lost else _number(found),
        "found_bold": bool(found["significant"]),
        "verdict": cell["verdict"],
        "mark": _MARKS[cell["verdict"]],
        "tone": "good" if cell["verdict"] == MATCH else "open" if lost else "part",
    }


def _number(found: Mapping[str, Any]) -> str:
    return f"{found['statistic']:.2f} ({format_p(found['p'])})".replace("-", "−")


def _flips(replays: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the cells whose conclusion at 5% another aggregation turns, with its numbers."""
    others = [a for a in replays if a != "max"]
    together = zip(*(replays[a]["cells"] for a in others), strict=True)
    found = []
    for cells in together:
        if any(c["verdict"] == FLIPS for c in cells):
            row = {"name": name(cells[0]), "printed": _shown(cells[0])["printed"]}
            row["was"] = "significant" if cells[0]["printed"]["significant"] else "not"
            for aggregation, cell in zip(others, cells, strict=True):
                row[f"{aggregation}_found"] = _number(cell["recomputed"])
                row[f"{aggregation}_mark"] = "flips" if cell["verdict"] == FLIPS else "holds"
            found.append(row)
    return found
