"""The loss statement as a page of its own, and as Markdown for a model card."""

from pathlib import Path

import pandas as pd

from kdstudy.analysis.losses import COLUMNS
from kdstudy.analysis.results import write_csv
from kdstudy.errors import InputError
from kdstudy.report.blocks import Block, Listed, Section, Text, write_page
from kdstudy.report.data import ReportData
from kdstudy.report.sections import robustness, statement

TITLE = "What was kept and what was lost"


def write(out: Path, data: ReportData, name: str) -> Path:
    """Write `statement.html`, `statement.md`, `statement.csv`, `tables/` and `figures/`.

    Args:
        out: Folder to write into; made when it is not there.
        data: The study.
        name: What it is called.

    Returns:
        The path of `statement.html`.

    Raises:
        InputError: Nothing was measured of them beside their teachers.
    """
    told = statement.statements(data)
    if not told:
        raise InputError(
            f"{name}: no distilled student has been measured beside its teacher yet",
            remedy="kdstudy run finishes the study; kdstudy models lists what is there",
        )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(data.losses[COLUMNS], out / "statement.csv")
    (out / "statement.md").write_text(markdown(data), encoding="utf-8")
    path = out / "statement.html"
    write_page(
        path,
        [section.filled() for section in _sections(data)],
        title=f"{name} · {TITLE.lower()}",
        heading=name,
        kicker="Distillation loss statement",
        skip="the statement",
        facts=_facts(data),
    )
    return path


def summaries(data: ReportData) -> list[str]:
    """Return the sentence that sums up each student, the best first."""
    return [told[0] for told in statement.statements(data).values()]


def markdown(data: ReportData, level: int = 2) -> str:
    """Return the statement as Markdown.

    Args:
        data: The study.
        level: Of its heading.
    """
    head = "#" * level
    parts = [f"{head} {TITLE}"]
    for (system, teacher), (finding, *more) in statement.statements(data).items():
        rows = _of(data.losses, system, teacher)
        parts += [f"{head}# {system}", finding, "\n".join(f"- {line}" for line in more)]
        parts.append(statement.sheet(rows, data).markdown().rstrip())
    notes = "\n".join(f"- {note}" for note in [statement.READ, *statement.notes(data)])
    if not data.robustness.empty:
        parts += [robustness.sheet(data).markdown().rstrip(), robustness.taken(data)]
    return "\n\n".join([*parts, f"{head}# What each measure is, and what it cannot tell", notes])


def _sections(data: ReportData) -> list[Section]:
    told, findings = statement.statements(data), summaries(data)
    figure = statement.figure(data)
    first: list[Block | None] = [*map(Text, findings)] if len(told) == 1 else [Listed(findings)]
    sure = Text(next(iter(told.values()))[-1], style="note")
    found = [Section("sum", TITLE, [*first, sure, figure], short="In a sentence each")]
    for i, ((system, teacher), (_, *more)) in enumerate(told.items()):
        rows = _of(data.losses, system, teacher)
        blocks = [Listed(more), statement.sheet(rows, data, name=f"statement-{i}", open=True)]
        found.append(Section(f"student-{i}", system, blocks))
    notes = [Text(statement.READ, style=""), Listed(statement.notes(data))]
    about = Section("measures", "What each measure is, and what it cannot tell", notes, "Measures")
    changed = robustness.blocks(data)
    apart = [Section("robustness", "Changed items", changed)] if changed else []
    return [*found, *apart, about]


def _facts(data: ReportData) -> list[tuple[str, str]]:
    corpus = (data.made.get("corpus") or {}).get("name", "")
    versions = data.made.get("versions") or {}
    return [
        ("teachers", ", ".join(dict.fromkeys(data.losses.teacher))),
        ("students", str(data.losses.system.nunique())),
        ("benchmarks", ", ".join(data.benchmarks)),
        *([("corpus", corpus)] if corpus else []),
        *([("kdstudy", str(versions["kdstudy"]))] if "kdstudy" in versions else []),
    ]


def _of(losses: pd.DataFrame, system: str, teacher: str) -> pd.DataFrame:
    return losses[(losses.system == system) & (losses.teacher == teacher)]
