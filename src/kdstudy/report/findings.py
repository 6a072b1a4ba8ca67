"""The report's sentences and warnings, each made from the numbers and honest about them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.stats import EQUIVALENCE_MARGIN, Test, format_p, points
from kdstudy.records import System
from kdstudy.report.tables import interval
from kdstudy.report.views import ablation_rows, shown

FEW_ITEMS = 200
HIGH_TRUNCATION = 0.10
LOW_PARSE_RATE = 0.80
POWER_FACTOR = 2.80
"""z(0.975) + z(0.80): standard errors that an effect needs to be found four times in five."""


def best(table: pd.DataFrame) -> pd.Series | None:
    """Return the accuracy row of the best distilled system of the main grid, or None."""
    rows = _ranked(table)
    return None if rows.empty else rows.iloc[0]


def answer(table: pd.DataFrame, tests: Sequence[Test]) -> str:
    """Say which student to ship, what it gained over SFT and what it lost against the teacher."""
    ranked = _ranked(table)
    if ranked.empty:
        return "No distilled student has been measured yet, so there is nothing to recommend."
    top = ranked.iloc[0]
    text = _best_without_a_teacher(table, top)
    text += f" {top.system}: {interval('accuracy', top.value, top.low, top.high)} mean accuracy"
    gain = _value(table, top.system, "gain")
    if gain is not None:
        test = next((t for t in tests if t.table == "paired" and _is(t, top.system)), None)
        p = f", Holm p = {format_p(test.p_adjusted)}" if test else ""
        change = f"{points(gain.value)} points over its own SFT run"
        text += f", {change} (95% interval {points(gain.low)} to {points(gain.high)}{p})"
        if gain.low <= 0 <= gain.high:
            text += ", which this many items cannot tell from no change"
    teacher = _value(table, top.teacher, "accuracy")
    if teacher is not None:
        gap = teacher.value - top.value
        side = "below" if gap >= 0 else "above"
        size = _share_of_size(table, top)
        text += f"; it stays {points(abs(gap), sign=False)} points {side} its teacher{size}"
    return text + "." + _runner_up(ranked)


def _best_without_a_teacher(table: pd.DataFrame, top: pd.Series) -> str:
    """Open the answer; plain fine-tuning that beats every distilled student comes first."""
    rows = table[(table.kind == "sft") & (table.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values("value", ascending=False)
    if rows.empty or rows.iloc[0].value <= top.value:
        return "The best student is"
    sft = rows.iloc[0]
    return (
        f"The best student is {sft.system}, fine-tuned without a teacher: "
        f"{interval('accuracy', sft.value, sft.low, sft.high)} mean accuracy. "
        "The best distilled one is"
    )


def generalization(table: pd.DataFrame, tests: Sequence[Test]) -> str:
    """Say how many runs gained and how much."""
    rows = _main(table, "gain")
    if rows.empty:
        return "No distilled run can be compared with its SFT run yet."
    up, down = int((rows.low > 0).sum()), int((rows.high < 0).sum())
    text = (
        f"Taken one by one, {up} of {len(rows)} distilled runs beat their student's SFT run on "
        f"the mean of benchmarks, {down} fell below it, and {len(rows) - up - down} cannot be "
        "told apart from it with this many items"
    )
    test = _first(tests, "1", "one-sample t-test", "all methods")
    if test and not math.isnan(test.p):
        text += (
            f"; the mean gain is {points(test.estimate)} points (95% interval "
            f"{points(test.low)} to {points(test.high)} over {test.n} runs of "
            f"{test.clusters} students)"
        )
    return text + "."


def fidelity(table: pd.DataFrame) -> str:
    """Say how agreement and fidelity moved, and what of the agreement the accuracies force."""
    top = best(table)
    after = None if top is None else _value(table, top.system, "agreement", top.teacher)
    if after is None:
        return "No student has been compared with its teacher yet."
    baseline = table[(table.kind == "sft") & (table.model == top.model)].system.unique()
    before = _value(table, baseline[0], "agreement", top.teacher) if len(baseline) else None
    low = _value(table, top.system, "agreement_lower_bound", top.teacher).value
    high = _value(table, top.system, "agreement_upper_bound", top.teacher).value
    text = f"{top.system} gives its teacher's answer on {_printed(after)} of items"
    if before is not None:
        text += f", its SFT run did on {_printed(before)}"
    text += f"; its accuracy alone forces {100 * low:.0f}% and allows {100 * high:.0f}%"
    bleu = _value(table, top.system, "bleu_corpus", top.teacher)
    old = _value(table, baseline[0], "bleu_corpus", top.teacher) if len(baseline) else None
    if bleu is not None and old is not None:
        text += (
            f". Corpus BLEU with the teacher's text went from {_printed(old)} to {_printed(bleu)}"
        )
    return text + "."


def depends(tests: Sequence[Test]) -> str:
    """Say what the gain goes with, pooled and inside students."""
    pooled = [t for t in tests if t.table in "2345" and t.scope == AVERAGE]
    known = [t for t in pooled if not math.isnan(t.p)]
    if not known:
        return "Too few runs to say what the gain depends on." + (
            f" {pooled[0].sentence}" if pooled else ""
        )
    strongest = min(known, key=lambda t: t.p)
    text = f"Strongest: {strongest.sentence[0].lower()}{strongest.sentence[1:-1]}"
    if not math.isnan(strongest.low):
        text += (
            f" (95% interval {_r(strongest.low)} to {_r(strongest.high)}, runs as if independent)"
        )
    inside = [t for t in tests if t.table == "within" and t.scope == AVERAGE]
    turned = [
        (t, w)
        for t in known
        for w in inside
        if w.subject == t.subject and not math.isnan(w.p) and t.estimate * w.estimate < 0
    ]
    if turned:
        t, w = turned[0]
        text += (
            f". Mind the pooling: gain against {t.subject} is {_r(t.estimate)} over all runs but "
            f"{_r(w.estimate)} (p = {format_p(w.p)}) inside students"
        )
    unknown = [t.subject for t in pooled if math.isnan(t.p)]
    if unknown:
        text += f". Not estimable here: {', '.join(unknown)}"
    return text + "."


def methods(tests: Sequence[Test]) -> str:
    """Say which methods differ, which are equivalent and where one cannot tell."""
    found = [t for t in tests if t.table == "methods" and t.scope == AVERAGE]
    if not found:
        return "Fewer than two methods share a student and a teacher, so none can be compared."
    told = [t for t in found if " is better than " in t.sentence]
    same = [t for t in found if "are equivalent" in t.sentence]
    text = (
        f"Of {len(found)} pairs of methods these items tell {len(told)} apart, show {len(same)} to "
        f"be equivalent within {100 * EQUIVALENCE_MARGIN:g} points and leave "
        f"{len(found) - len(told) - len(same)} undecided. "
    )
    widest = max(found, key=lambda t: abs(t.estimate) if not math.isnan(t.estimate) else -1)
    return text + f"The largest difference: {widest.sentence}"


def ablations(table: pd.DataFrame) -> list[str]:
    """Say, for each ablation there is, what its far end did to mean accuracy."""
    return [s for a in ("temperature", "noise", "base_teacher") if (s := _ablation(table, a))]


def warnings(
    table: pd.DataFrame, systems: Sequence[System], provenance: Mapping[str, Any]
) -> list[str]:
    """Return what a reader must know before believing a number, most serious first."""
    return [
        *_unfinished(table, systems),
        *_collapsed(table),
        *_teachers(table),
        *_thin_evidence(table),
        *_dropped(provenance),
    ]


def _unfinished(table: pd.DataFrame, systems: Sequence[System]) -> list[str]:
    missing = [s.label for s in systems if s.label not in set(table.system)]
    if not missing:
        return []
    some = ", ".join(missing[:4]) + (" and others" if len(missing) > 4 else "")
    return [f"{len(systems) - len(missing)} of {len(systems)} runs finished; missing: {some}."]


def _collapsed(table: pd.DataFrame) -> list[str]:
    rows = table[(table.benchmark == AVERAGE) & (table.kind != "base")]
    found = []
    for metric, bad, text in (
        ("parse_rate", lambda v: v < LOW_PARSE_RATE, "gave an answer that can be read on only"),
        ("truncated_rate", lambda v: v > HIGH_TRUNCATION, "ran into the length limit on"),
    ):
        for r in rows[rows.metric == metric].itertuples():
            if bad(r.value):
                found.append(
                    f"{r.system} {text} {shown(metric, r.value)} of items: it may have collapsed, "
                    "and its accuracy says little else."
                )
    return found


def _teachers(table: pd.DataFrame) -> list[str]:
    found = []
    for row in _main(table, "accuracy").drop_duplicates("teacher").itertuples():
        teacher = _value(table, row.teacher, "accuracy")
        if teacher is None:
            continue
        before = table[(table.kind == "base") & (table.model == teacher.model)]
        before = before[(before.metric == "accuracy") & (before.benchmark == AVERAGE)]
        if len(before) and before.iloc[0].value > teacher.value:
            word = "worse" if before.iloc[0].low > teacher.high else "not better"
            found.append(
                f"The teacher {row.teacher} is {word} after fine-tuning: {_printed(teacher)}, "
                f"and {_printed(before.iloc[0])} before."
            )
    sft = table[(table.kind == "sft") & (table.metric == "accuracy")]
    for s in sft[sft.benchmark == AVERAGE].itertuples():
        for name in _main(table, "accuracy").query("student == @s.student").teacher.unique():
            teacher = _value(table, name, "accuracy")
            if teacher is not None and teacher.value <= s.value:
                found.append(
                    f"The teacher {name} ({_printed(teacher)}) is no better than the SFT student "
                    f"{s.system} ({shown('accuracy', s.value)}): there is nothing to distil."
                )
    return found


def _thin_evidence(table: pd.DataFrame) -> list[str]:
    found = []
    trained = table[table.kind == "distilled"]
    if len(trained) and trained[trained.ablation == ""].seed.nunique() == 1:
        found.append(
            "One training seed: no interval here shows how much another seed would change."
        )
    sizes = table[(table.metric == "accuracy") & (table.benchmark != AVERAGE)]
    small = sizes[sizes.n < FEW_ITEMS].benchmark.unique()
    if len(small):
        names = ", ".join(sorted(small))
        found.append(f"Few items: {names} hold fewer than {FEW_ITEMS}; read their intervals.")
    gains = _main(table, "gain")
    if len(gains):
        error = float(((gains.high - gains.low) / 3.92).median())
        smallest = points(POWER_FACTOR * error, sign=False)
        found.append(
            f"A gain under about {smallest} points on the mean of benchmarks would be missed more "
            "than one time in five with these items."
        )
    return found


def _dropped(provenance: Mapping[str, Any]) -> list[str]:
    corpus = provenance.get("corpus") or {}
    found = []
    lost = {k: n for k, n in (corpus.get("dropped") or {}).items() if n}
    if lost:
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in lost.items())
        read = f" of {corpus['read']:,}" if corpus.get("read") else ""
        found.append(f"{sum(lost.values()):,}{read} training rows were dropped: {reasons}.")
    if corpus.get("truncated"):
        found.append(f"{corpus['truncated']:,} training rows were cut at the maximum length.")
    return found


def _ablation(table: pd.DataFrame, ablation: str) -> str:
    rows = ablation_rows(table, ablation)
    if rows.empty:
        return ""
    rows = rows[(rows.metric == "accuracy") & (rows.benchmark == AVERAGE)]
    plain, changed = (rows[(rows.ablation == a)] for a in ("", ablation))
    if plain.empty or changed.empty:
        return ""
    if ablation == "base_teacher":
        return _unaware(plain, changed)
    far = changed[changed[ablation] == changed[ablation].max()]
    worst = far.sort_values("value").iloc[0]
    same = plain[(plain.student == worst.student) & (plain.method == worst.method)].iloc[0]
    symbol = "τ" if ablation == "temperature" else "σ"
    top = rows[(rows.student == worst.student) & (rows.method == worst.method)]
    top = top.sort_values("value").iloc[-1]
    name = f"{ablation.capitalize()}: {worst.method} on {worst.student}"
    if worst.value >= same.value:
        return f"{name} keeps {_printed(worst)} at {symbol} = {worst[ablation]:g}."
    change = (
        f"from {_printed(same)} at {symbol} = {same[ablation]:g} to {_printed(worst)} at "
        f"{symbol} = {worst[ablation]:g}"
    )
    if worst.high > same.low:
        return f"{name} goes {change}: the intervals overlap, so no trend is shown."
    return f"{name} falls {change}; its best point is {symbol} = {top[ablation]:g}."


def _unaware(plain: pd.DataFrame, changed: pd.DataFrame) -> str:
    both = plain.merge(changed, on=["student", "method"], suffixes=("", "_changed"))
    both = both.assign(change=both.value_changed - both.value).sort_values("change")
    if both.empty:
        return ""
    r = both.iloc[0]
    after = interval("accuracy", r.value_changed, r.low_changed, r.high_changed)
    before = interval("accuracy", r.value, r.low, r.high)
    return (
        f"Task-unaware teacher: {r.method} on {r.student} reaches {after} instead of {before}, "
        f"the largest change of {len(both)} ({points(r.change)} points)."
    )


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    return _main(table, "accuracy").sort_values(["value", "system"], ascending=[False, True])


def _runner_up(ranked: pd.DataFrame) -> str:
    if len(ranked) < 2:
        return ""
    top, second = ranked.iloc[0], ranked.iloc[1]
    close = ", too close to call" if second.value > top.low else ""
    return f" Next is {second.system} at {shown('accuracy', second.value)}{close}."


def _main(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = table[(table.kind == "distilled") & (table.ablation == "")]
    return rows[(rows.metric == metric) & (rows.benchmark == AVERAGE)]


def _value(table: pd.DataFrame, system: str, metric: str, reference: str = "") -> Any:
    rows = table[(table.system == system) & (table.metric == metric)]
    rows = rows[rows.benchmark == AVERAGE]
    if metric != "gain":
        rows = rows[rows.reference == reference]
    return rows.iloc[0] if len(rows) else None


def _first(tests: Sequence[Test], table: str, name: str, subject: str) -> Test | None:
    fits = (t for t in tests if (t.table, t.name, t.subject) == (table, name, subject))
    return next((t for t in fits if t.scope == AVERAGE), None)


def _is(test: Test, system: str) -> bool:
    return test.subject == system and test.scope == AVERAGE


def _printed(row: Any) -> str:
    return interval(row.metric, row.value, row.low, row.high)


def _share_of_size(table: pd.DataFrame, top: pd.Series) -> str:
    sizes = table[table.system == top.teacher].parameters.dropna()
    if not len(sizes) or pd.isna(top.parameters):
        return ""
    return f", with {100 * int(top.parameters) / int(sizes.iloc[0]):.0f}% of its parameters"


def _r(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−")
