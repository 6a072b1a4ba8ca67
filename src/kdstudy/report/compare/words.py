"""The sentences and tables of two studies side by side, each made from the numbers."""

import math

import pandas as pd

from kdstudy.analysis.results import AVERAGE, with_teacher
from kdstudy.analysis.verdict import format_p, points
from kdstudy.report.compare.cells import AS_IT_IS, PAIRED, SAME_RUN
from kdstudy.report.compare.differences import PLAIN, TESTED, systems_only
from kdstudy.report.compare.match import StudyRows, other_models
from kdstudy.report.sheet import Cell, Sheet
from kdstudy.report.views import shown, spread

LEVEL = 0.05
SHEETS = ("averages", "benchmarks", "seeds", "same-answer", "measures", "study-files", "unmatched")
"""Names of the tables that a comparison can have."""

_STYLE = "long-labels"
_NAMES = {
    "accuracy": "accuracy",
    "rouge_l": "ROUGE-L of free texts",
    "parse_rate": "Answers found",
    "agreement": "Same answer",
    "bleu_corpus": "Corpus BLEU",
}


def decided(rows: pd.DataFrame) -> pd.Series:
    """Return whether a row's difference is more than chance: Holm's p, else the interval."""
    apart = (rows.low > 0) | (rows.high < 0)
    return (rows.p_holm < LEVEL).where(rows.p_holm.notna(), apart & rows.p.isna())


def findings(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return one sentence per kind of result: `tested` means, `benchmarks`, `plain` measures.

    Args:
        table: From `differences.systems_only`.
    """
    mean = table.benchmark == AVERAGE
    own = (table.metric != "agreement") | (table.how == AS_IT_IS)
    found = {
        "tested": [_changes(table[mean], m, f"mean {_NAMES[m]}", "system") for m in TESTED],
        "benchmarks": [
            _changes(table[~mean], m, _NAMES[m], "pair of system and benchmark") for m in TESTED
        ],
        "plain": [
            _agreement(table[mean & ~own]),
            *(_span(table[mean & own & (table.metric == metric)], metric) for metric in PLAIN),
        ],
    }
    return {kind: [sentence for sentence in said if sentence] for kind, said in found.items()}


def cautions(a: StudyRows, b: StudyRows, table: pd.DataFrame) -> list[str]:
    """Return what a reader must know before relying on the differences."""
    found = []
    for study in (a, b):
        if len(study.measured) < len(study.systems):
            found.append(
                f"{study.name} is not finished: {len(study.measured)} of {len(study.systems)} "
                "systems are measured."
            )
    for model in other_models(a, b):
        found.append(f"{model} stands for other files in the two studies: other weights.")
    rules = [study.study.get("extraction") for study in (a, b)]
    if rules[0] != rules[1]:
        found.append(
            f"Answers are read by other rules ({rules[0]} in A, {rules[1]} in B): part of a "
            "difference can be the reading."
        )
    if (table.how == "unpaired").any():
        found.append(
            "Some benchmarks have no item in common; there the two accuracies are of different "
            "questions, the interval is unpaired and there is no p."
        )
    return [*found, _seeds(table)]


def differs(fields: pd.DataFrame) -> str:
    """Say in how many fields the study files differ, and name the first."""
    if fields.empty:
        return "The two study files say the same, defaults included."
    named = ", ".join(fields.field.head(4)) + (" and more" if len(fields) > 4 else "")
    many = "fields" if len(fields) > 1 else "field"
    return f"The study files differ in {len(fields)} {many}, defaults included: {named}."


def left_out(alone: pd.DataFrame) -> str:
    """Say how much could not be set side by side."""
    if alone.empty:
        return "Every system, benchmark and item of one study has its match in the other."
    counts = alone.what.value_counts()
    parts = {"system": "system", "benchmark": "benchmark", "items": "group of items"}
    said = [_count(int(counts[k]), v) for k, v in parts.items() if k in counts]
    text = "they are left out of every difference in accuracy and ROUGE-L above."
    return f"Without a match: {', '.join(said)}; {text}"


def facts(a: StudyRows, b: StudyRows, table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the line of small facts under the heading."""
    names = sorted(set(table.benchmark) - {AVERAGE})
    same = table[table.how == SAME_RUN]
    found = [
        ("A", a.name),
        ("B", b.name),
        ("systems in both", str(table.system_a.nunique())),
        ("benchmarks in both", ", ".join(names)),
    ]
    runs = same[same.benchmark != AVERAGE].groupby("system_a").ngroups
    return [*found, ("same run in both", str(runs))] if runs else found


def all_sheets(table: pd.DataFrame, fields: pd.DataFrame, alone: pd.DataFrame) -> dict[str, Sheet]:
    """Return every table, with rows or without, by name."""
    systems, single = systems_only(table), table[table.draw_of != ""]
    tested = systems[systems.metric.isin(TESTED)]
    mean = tested.benchmark == AVERAGE
    by_item = (systems.metric == "agreement") & (systems.how != AS_IT_IS)
    averages = single.metric.isin(TESTED) & (single.benchmark == AVERAGE)
    sheets = [
        _tested_sheet(tested[mean], "averages", "Means over common benchmarks"),
        _tested_sheet(tested[~mean], "benchmarks", "Benchmark by benchmark"),
        _tested_sheet(single[averages], "seeds", "Seed by seed, means over common benchmarks"),
        _tested_sheet(systems[by_item], "same-answer", "Same answer, over the same items"),
        _plain_sheet(systems[systems.metric.isin(PLAIN) & ~by_item]),
        _fields_sheet(fields),
        _alone_sheet(alone),
    ]
    return {s.name: s for s in sheets}


def _changes(table: pd.DataFrame, metric: str, measure: str, unit: str) -> str:
    """Count what rose and what fell, and name the largest of each."""
    rows = table[table.metric == metric]
    new = rows[rows.how != SAME_RUN]
    if rows.empty:
        return ""
    if new.empty:
        return (
            f"Every {unit} that both studies have is one and the same finished run in both, so "
            f"every difference in {measure} is 0 by construction."
        )
    sure = decided(new)
    up, down = int((sure & (new.difference > 0)).sum()), int((sure & (new.difference < 0)).sum())
    text = (
        f"Of {_count(len(new), unit)} with a run of its own in each study, {up} had a higher "
        f"{measure} in B and {down} a lower one ({_criterion(new)}); {len(new) - up - down} cannot "
        "be told apart with these items."
    )
    if (new.difference > 0).any():
        text += f" Largest rise: {_change(new.loc[new.difference.idxmax()])}."
    if (new.difference < 0).any():
        text += f" Largest fall: {_change(new.loc[new.difference.idxmin()])}."
    return text


def _agreement(rows: pd.DataFrame) -> str:
    """Count where student and teacher came closer in their answers, over the same items."""
    rows = rows[(rows.kind == "sft") | with_teacher(rows)]
    return _changes(rows, "agreement", "agreement with the teacher", "system")


def _criterion(rows: pd.DataFrame) -> str:
    """Say what `decided` goes by: McNemar has no p for unmatched items, draws and texts."""
    without = rows.p.isna() & (rows.better.isna() | (rows.how != PAIRED))
    if not without.any():
        return f"Holm's p below {LEVEL}"
    alone = "95% interval without 0, uncorrected"
    return alone if rows.p.isna().all() else f"Holm's p below {LEVEL}; where there is no p, {alone}"


def _change(row: pd.Series) -> str:
    p = "" if math.isnan(row.p) else f", Holm p = {format_p(row.p_holm)}"
    where = "" if row.benchmark == AVERAGE else f" on {row.benchmark}"
    return (
        f"{row.system_a}{where}, {shown(row.metric, row.a)} to {shown(row.metric, row.b)}, "
        f"{points(row.difference)} points (95% interval {_interval(row)}{p})"
    )


def _span(rows: pd.DataFrame, metric: str) -> str:
    """Say how far a measure without a test moved, with the teacher where it is of a pair."""
    rows = rows[(rows.kind != "base") & rows.difference.notna()]
    if metric != "parse_rate":
        rows = rows[(rows.kind == "sft") | with_teacher(rows)]
    if rows.empty:
        return ""
    subject = {
        "parse_rate": "The share of answers found",
        "agreement": "The share of items with the teacher's answer",
        "bleu_corpus": "Corpus BLEU with the teacher's text",
    }[metric]
    most = rows.loc[rows.difference.abs().idxmax()]
    ends = rows.difference.min(), rows.difference.max()
    if not any(ends):
        return f"{subject} is the same in both studies for every fine-tuned system."
    low, high = (_step(metric, x) for x in ends)
    unit = "" if metric == "bleu_corpus" else " points"
    return (
        f"{subject} changed by {low} to {high}{unit}, most for {most.system_a} "
        f"({shown(metric, most.a)} to {shown(metric, most.b)}); this has no interval."
    )


def _seeds(table: pd.DataFrame) -> str:
    trained = table[table.kind.isin(["sft", "distilled"])]
    most = int(trained.seeds.max()) if len(trained) else 1
    if most < 2:
        return (
            "The intervals say what other test items could have shown, not what another training "
            "seed would have given."
        )
    text = (
        f"Numbers of a trained system are means over the up to {most} training seeds that both "
        "studies have; its interval and p are for other test items and other seeds"
    )
    one = int((trained.drop_duplicates("system_a").seeds == 1).sum())
    alone = f" ({one} systems have one seed, where they are for other items alone)" if one else ""
    return f"{text}{alone}."


def _tested_sheet(rows: pd.DataFrame, name: str, title: str) -> Sheet:
    texts = rows.metric.nunique() > 1
    pairs = (rows.reference != "").any()
    several = (rows.seeds > 1).any()
    by_benchmark = name in ("benchmarks", "same-answer")
    printed = [
        {
            "System": _system(r),
            **({"Against": r.reference} if pairs else {}),
            **({"Benchmark": r.benchmark} if by_benchmark else {}),
            **({"Measure": _NAMES[r.metric]} if texts else {}),
            **({"Seeds": str(r.seeds)} if several else {}),
            "A": _valued(shown(r.metric, r.a), r.metric, r.sd_a),
            "B": _valued(shown(r.metric, r.b), r.metric, r.sd_b),
            "B − A": _valued(points(r.difference), r.metric, r.sd),
            "95% interval": _interval(r),
            "p": format_p(r.p),
            "Holm p": format_p(r.p_holm),
            "Items": _items(r),
            "Compared": r.how,
        }
        for r in rows.itertuples()
    ]
    note = (
        "Differences in points. Paired: bootstrap interval and exact McNemar p over the items that "
        "both studies have; 40 of 50, 60 means 40 matched items of A's 50 and B's 60. Same run: "
        "one finished measurement that both studies hold."
    )
    if several:
        note += " With several seeds, interval and p are for other items and other seeds."
    labels = 1 + pairs + by_benchmark + texts
    page = {"open": name == "averages", "style": _STYLE}
    return Sheet.of(name, title, printed, note=note, labels=labels, **page)


def _valued(text: str, metric: str, sd: float) -> Cell:
    return Cell(text, sd="" if math.isnan(sd) else spread(metric, sd))


def _plain_sheet(rows: pd.DataFrame) -> Sheet:
    printed = [
        {
            "System": _system(r),
            "Measure": _NAMES[r.metric],
            "Against": r.reference or "–",
            "Benchmark": r.benchmark,
            "A": _valued(shown(r.metric, r.a), r.metric, r.sd_a),
            "B": _valued(shown(r.metric, r.b), r.metric, r.sd_b),
            "B − A": _valued(_step(r.metric, r.difference), r.metric, r.sd),
        }
        for r in rows.itertuples()
    ]
    title = "Answers found, agreement and BLEU as each study has them"
    note = "Each over its own study's items, without interval or test; BLEU is 0-100."
    return Sheet.of("measures", title, printed, note=note, labels=4, style=_STYLE)


def _fields_sheet(fields: pd.DataFrame) -> Sheet:
    frame = fields.replace("", "–").set_axis(["Field", "A", "B"], axis=1)
    title = "What differs in the study files"
    rows = frame.to_dict("records")
    return Sheet.of("study-files", title, rows, labels=3, open=True, style=_STYLE)


def _alone_sheet(alone: pd.DataFrame) -> Sheet:
    frame = alone.assign(study=alone.study.replace({"a": "A", "b": "B"}))
    frame = frame[["name", "what", "study", "why"]].set_axis(
        ["Name", "What", "Study", "Why"], axis=1
    )
    rows = frame.to_dict("records")
    return Sheet.of("unmatched", "What has no match, and why", rows, labels=4, style=_STYLE)


def _system(row) -> str:
    same = row.system_a == row.system_b
    return row.system_a if same else f"{row.system_a} (in B {row.system_b})"


def _items(row) -> str:
    if row.n == row.n_a == row.n_b:
        return f"{row.n:,}"
    return f"{row.n:,} of {row.n_a:,}, {row.n_b:,}"


def _interval(row) -> str:
    return "–" if math.isnan(row.low) else f"{points(row.low)} to {points(row.high)}"


def _step(metric: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return points(value / 100 if metric == "bleu_corpus" else value)


def _count(n: int, what: str) -> str:
    plural = {"pair of system and benchmark": "pairs of system and benchmark"}
    plural |= {"group of items": "groups of items"}
    return f"{n:,} {what if n == 1 else plural.get(what, what + 's')}"
