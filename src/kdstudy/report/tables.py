"""The report's tables: the paper's Tables 1-5 and 7 for this study, and what goes beside them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.stats import Test, format_p, points
from kdstudy.report.views import (
    groups_in_order,
    lookup,
    scope_order,
    short,
    shown,
    with_sft,
)

PAPER_TITLES = {
    "1": "Table 1 of the paper, for this study: do students gain, and do methods differ?",
    "2": "Table 2: gain against teacher accuracy",
    "3": "Table 3: gain against student size",
    "4": "Table 4: gain against agreement with the teacher",
    "5": "Table 5: gain against fidelity to the teacher",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One printed table: text cells, ready for HTML, Markdown, LaTeX and CSV.

    Attributes:
        name: File stem.
        title: What it shows.
        frame: Text cells; the first `labels` columns are row labels.
        note: One sentence under the table.
        labels: Number of label columns.
    """

    name: str
    title: str
    frame: pd.DataFrame
    note: str = ""
    labels: int = 1

    def save(self, folder: Path) -> None:
        """Write the table as `name.csv`, `name.md` and `name.tex` (booktabs)."""
        self.frame.to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self._markdown(), encoding="utf-8")
        latex = self.frame.to_latex(
            index=False,
            escape=True,
            caption=self.title,
            label=f"tab:{self.name}",
            column_format="l" * self.labels + "r" * (self.frame.shape[1] - self.labels),
        )
        (folder / f"{self.name}.tex").write_text(latex, encoding="utf-8")

    def _markdown(self) -> str:
        cells = [list(self.frame.columns), *self.frame.to_numpy().tolist()]
        lines = ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in cells]
        align = [":--"] * self.labels + ["--:"] * (self.frame.shape[1] - self.labels)
        body = "\n".join([lines[0], "|" + "|".join(align) + "|", *lines[1:]])
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def all_sheets(
    table: pd.DataFrame, tests: Sequence[Test], seconds: Mapping[str, float] | None = None
) -> dict[str, Sheet]:
    """Return every table the study has data for, by name."""
    sheets = [
        systems_sheet(table, tests, seconds or {}),
        accuracy_sheet(table),
        *(paper_sheet(tests, number) for number in PAPER_TITLES),
        within_sheet(tests),
        paired_sheet(tests),
        methods_sheet(tests),
        pairs_sheet(table),
    ]
    return {s.name: s for s in sheets if len(s.frame)}


def systems_sheet(
    table: pd.DataFrame, tests: Sequence[Test], seconds: Mapping[str, float]
) -> Sheet:
    """Return the short table of systems, means over benchmarks, best first within each kind."""
    adjusted = {t.subject: t for t in tests if t.table == "paired" and t.scope == AVERAGE}
    mean = table[(table.benchmark == AVERAGE) & (table.ablation == "")]
    order = {"distilled": 0, "sft": 1, "teacher": 2, "base": 3}
    accuracy = mean[mean.metric == "accuracy"].copy()
    accuracy["rank"] = accuracy.kind.map(order)
    rows = []
    for r in accuracy.sort_values(["rank", "value"], ascending=[True, False]).itertuples():
        own = mean[mean.system == r.system]
        test = adjusted.get(r.system)
        teacher = r.teacher or _only_reference(own)
        rows.append(
            {
                "System": r.system,
                "Parameters": _parameters(r.parameters),
                "Accuracy": interval("accuracy", r.value, r.low, r.high),
                "Gain over SFT": _cell(own, "gain", ""),
                "Holm p": format_p(test.p_adjusted) if test else "–",
                "Agrees": _cell(own, "agreement", teacher, bare=True),
                "Possible": _possible(own, teacher),
                "BLEU": _cell(own, "bleu_corpus", teacher, bare=True),
                "Parsed": _cell(own, "parse_rate", "", bare=True),
                "s/1,000": f"{seconds[r.system]:.1f}" if r.system in seconds else "–",
            }
        )
    note = (
        "Means over benchmarks, 95% intervals in brackets; gains in points. Holm p: exact McNemar "
        "on all items, corrected over the main grid. Agrees and BLEU: with the teacher; possible: "
        "the agreement that the two accuracies force and allow. Parsed: answers found. s/1,000: "
        "seconds to generate 1,000 items."
    )
    return Sheet(name="systems", title="Systems", frame=pd.DataFrame(rows), note=note)


def accuracy_sheet(table: pd.DataFrame) -> Sheet:
    """Return accuracy by teacher, student and method, in percent (paper, Tables 7 and 8)."""
    rows = with_sft(table, "accuracy")
    names = scope_order(rows.benchmark)
    if rows.empty:
        return Sheet(name="table7", title="", frame=pd.DataFrame())
    others = table[table.kind.isin(["teacher", "base"]) & (table.metric == "accuracy")]
    sft = rows[rows.kind == "sft"].drop_duplicates(["student", "seed", "benchmark"])
    printed = [_accuracy_row("–", r, "base", part) for r, part in _by(others, "base", "model")]
    printed += [_accuracy_row("–", r, "SFT", p) for r, p in _by(others, "teacher", "model")]
    printed += [_accuracy_row("–", r, "SFT", part) for r, part in _by(sft, "sft", "student")]
    distilled = rows[rows.kind == "distilled"]
    for teacher in sorted(distilled.teacher.unique()):
        for group in groups_in_order(distilled[distilled.teacher == teacher]):
            part = distilled[(distilled.teacher == teacher) & (distilled.group == group)]
            for line in dict.fromkeys(part.line):
                student = part.student.iloc[0]
                run = part[part.line == line]
                printed.append(_accuracy_row(short(teacher), student, line, run))
    frame = pd.DataFrame(printed).reindex(columns=["Teacher", "Student", "Method", *names])
    title = "Accuracy in percent, by teacher, student and method (the paper's Table 7)"
    return Sheet(name="table7", title=title, frame=frame.fillna("–"), labels=3)


def paper_sheet(tests: Sequence[Test], number: str) -> Sheet:
    """Return one of the paper's Tables 1-5: a statistic and its p in every cell."""
    found = [t for t in tests if t.table == number]
    frame = _crossed(found, lambda t: f"{t.name}, {t.subject}")
    unfit = sorted({t.sentence for t in found if math.isnan(t.statistic)})
    note = "Statistic (p). One row per student, teacher and method; n and intervals in the CSV."
    return Sheet(
        name=f"table{number}",
        title=PAPER_TITLES[number],
        frame=frame,
        note=" ".join([note, *unfit[:1]]),
    )


def within_sheet(tests: Sequence[Test]) -> Sheet:
    """Return the correlations inside students, beside the paper's pooled ones."""
    found = [t for t in tests if t.table == "within"]
    title = "The same correlations inside students (repeated measures)"
    return Sheet(name="within", title=title, frame=_crossed(found, lambda t: t.subject))


def paired_sheet(tests: Sequence[Test]) -> Sheet:
    """Return every distilled system against its own SFT run, benchmark by benchmark."""
    rows = [
        {
            "System": t.subject,
            "Benchmark": t.scope,
            "Gain": points(t.estimate),
            "95% interval": f"{points(t.low)} to {points(t.high)}",
            "Items that changed": "–" if math.isnan(t.statistic) else f"{t.statistic:.0f}",
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Items": str(t.n),
        }
        for t in tests
        if t.table == "paired"
    ]
    title = "Gain over the student's own SFT run in points: exact McNemar, paired by item"
    return Sheet(name="paired", title=title, frame=pd.DataFrame(rows), labels=2)


def methods_sheet(tests: Sequence[Test]) -> Sheet:
    """Return the paired differences between methods."""
    rows = [
        {
            "Difference": t.subject,
            "Benchmark": t.scope,
            "Points": points(t.estimate),
            "95% interval": f"{points(t.low)} to {points(t.high)}",
            "p": format_p(t.p),
            "Holm p": format_p(t.p_adjusted),
            "Items": str(t.n),
        }
        for t in tests
        if t.table == "methods"
    ]
    title = "Differences between methods in points, paired by item over matched runs"
    return Sheet(name="methods", title=title, frame=pd.DataFrame(rows), labels=2)


def pairs_sheet(table: pd.DataFrame) -> Sheet:
    """Return agreement and fidelity of every compared pair of systems."""
    rows = table[table.metric == "agreement"]
    values = {
        name: lookup(table, name, pair=True)
        for name in ("kappa", "agreement_both_wrong", "bleu_corpus", "bleu_sentence")
    }
    bounds = [lookup(table, f"agreement_{b}_bound", pair=True) for b in ("lower", "upper")]
    printed = []
    for r in rows.itertuples():
        key = (r.system, r.reference, r.benchmark)
        low, high = (shown("agreement", b.get(key, math.nan)) for b in bounds)
        cells = {name: shown(name, found.get(key, math.nan)) for name, found in values.items()}
        printed.append(
            {
                "System": r.system,
                "Against": r.reference,
                "Benchmark": r.benchmark,
                "Agreement": interval("agreement", r.value, r.low, r.high),
                "Possible": f"{low} to {high}",
                "Kappa": cells["kappa"],
                "Where both wrong": cells["agreement_both_wrong"],
                "Corpus BLEU": cells["bleu_corpus"],
                "Sentence BLEU": cells["bleu_sentence"],
            }
        )
    title = "Agreement and fidelity of every compared pair"
    return Sheet(name="pairs", title=title, frame=pd.DataFrame(printed), labels=3)


def interval(metric: str, value: float, low: float, high: float) -> str:
    """Return a value with its interval, such as `58.0% (54.9 to 61.0)`."""
    text = shown(metric, value)
    if math.isnan(low):
        return text
    return f"{text} ({shown(metric, low).rstrip('%')} to {shown(metric, high).rstrip('%')})"


def _cell(own: pd.DataFrame, metric: str, reference: str, bare: bool = False) -> str:
    rows = own[own.metric == metric]
    rows = rows[rows.reference == reference] if metric != "gain" else rows
    if rows.empty or (metric in ("agreement", "bleu_corpus") and not reference):
        return "–"
    r = rows.iloc[0]
    return shown(metric, r.value) if bare else interval(metric, r.value, r.low, r.high)


def _only_reference(own: pd.DataFrame) -> str:
    """Return the teacher an SFT run was compared with, where there was one."""
    found = own[own.metric == "agreement"].reference.unique()
    return str(found[0]) if len(found) == 1 else ""


def _possible(own: pd.DataFrame, reference: str) -> str:
    rows = own[(own.reference == reference) & own.metric.str.endswith("_bound")]
    if not reference or len(rows) < 2:
        return "–"
    low, high = sorted(rows.value)
    return f"{100 * low:.0f} to {100 * high:.0f}%"


def _parameters(count: object) -> str:
    if pd.isna(count):
        return "–"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if int(count) >= size:
            return f"{int(count) / size:.3g}{unit}"
    return str(count)


def _by(rows: pd.DataFrame, kind: str, name: str) -> list[tuple[str, pd.DataFrame]]:
    part = rows[rows.kind == kind]
    return [(n, g) for (_, n), g in part.groupby(["parameters", name], dropna=False)]


def _accuracy_row(teacher: str, student: str, method: str, run: pd.DataFrame) -> dict[str, str]:
    cells = {b: f"{100 * v:.1f}" for b, v in zip(run.benchmark, run.value, strict=True)}
    return {"Teacher": teacher, "Student": student, "Method": method, **cells}


def _crossed(found: Sequence[Test], label) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {}
    for t in found:
        number = "–" if math.isnan(t.statistic) else f"{t.statistic:.2f}".replace("-", "−")
        cell = number if math.isnan(t.p) else f"{number} ({format_p(t.p)})"
        rows.setdefault(label(t), {"Test": label(t)})[t.scope] = cell
    frame = pd.DataFrame(list(rows.values()))
    scopes = scope_order([t.scope for t in found])
    return frame.reindex(columns=["Test", *scopes]).fillna("–") if rows else frame
