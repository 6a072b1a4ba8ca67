"""The report's sentences on systems, tests and ablations, each made from the numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdstudy.analyze.analysis import lead
from kdstudy.analyze.cells import ALL
from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.stats import EQUIVALENCE_MARGIN, Test, format_p, points
from kdstudy.analyze.verdict import signed
from kdstudy.report.views import Numbers, ablation_rows, interval, main_rows, printed, shown

FACTORS_OF_PAPER = ("2", "3", "4", "5")


def best(table: pd.DataFrame) -> pd.Series | None:
    """Return the accuracy row of the best distilled system of the main grid, or None."""
    rows = _ranked(table)
    return None if rows.empty else rows.iloc[0]


def answer(
    table: pd.DataFrame,
    tests: Sequence[Test],
    kept: pd.DataFrame | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Say which student to ship, what it gained, lost against the teacher, and costs.

    Args:
        table: From `results.collect`.
        tests: From `stats.study_tests`.
        kept: From `items.against_teacher`.
        seconds: Seconds to generate 1,000 items, by system.
    """
    ranked = _ranked(table)
    if ranked.empty:
        return "No distilled student has been measured yet, so there is nothing to recommend."
    top, numbers = ranked.iloc[0], Numbers(table[table.benchmark == AVERAGE])
    text = f"{_best_without_a_teacher(table, top)} {top.system}: {printed(top)} mean accuracy"
    text += _gain(numbers, tests, top) + _gap(numbers, top) + "."
    return text + _kept(numbers, top, kept) + _cost(top, seconds or {}) + _runner_up(ranked)


def generalization(table: pd.DataFrame, tests: Sequence[Test]) -> str:
    """Say what distillation gained over students, then run by run, then as the paper tests it."""
    rows = main_rows(table, "gain")
    if rows.empty:
        return "No distilled run can be compared with its SFT run yet."
    up, down = int((rows.low > 0).sum()), int((rows.high < 0).sum())
    text = ""
    if any(t.table == "gain" for t in tests):
        text = lead(tests).sentence + " "
    text += (
        f"Taken one by one, {up} of {len(rows)} distilled runs beat their student's SFT run on "
        f"the mean of benchmarks, {down} fell below it, and {len(rows) - up - down} cannot be "
        "told apart from it with this many items."
    )
    test = _one(tests, "1", "one-sample t-test", ALL)
    if test and not math.isnan(test.p):
        text += (
            f" The paper's test, which takes the {test.n} runs as independent, has one-sided "
            f"p = {format_p(test.p)}."
        )
    return text


def depends(tests: Sequence[Test]) -> str:
    """Say what the gain goes with, pooled and inside students."""
    pooled = [t for t in tests if t.table in FACTORS_OF_PAPER and t.scope == AVERAGE]
    known = [t for t in pooled if not math.isnan(t.p)]
    if not known:
        return "Too few runs to say what the gain depends on." + (
            f" {pooled[0].sentence}" if pooled else ""
        )
    strongest = min(known, key=lambda t: t.p)
    inside = {
        t.subject: t
        for t in tests
        if t.name == "within-student correlation" and t.scope == AVERAGE and not math.isnan(t.p)
    }
    text = f"Strongest over all runs: {_lower(strongest.sentence)[:-1]}"
    if not math.isnan(strongest.low):
        ends = f"{signed(strongest.low)} to {signed(strongest.high)}"
        text += f" (95% interval {ends}, runs as if independent)"
    text += _inside(inside.get(strongest.subject))
    turned = [t for t in known if t.subject in inside and t is not strongest]
    turned = [t for t in turned if t.estimate * inside[t.subject].estimate < 0]
    if turned:
        t, w = turned[0], inside[turned[0].subject]
        text += (
            f" Mind the pooling: gain against {t.subject} is {signed(t.estimate)} over all runs "
            f"but {signed(w.estimate)} (p = {format_p(w.p)}) inside students."
        )
    change = _one(tests, "correlation", "Spearman rank correlation", "change of agreement over SFT")
    if change and not math.isnan(change.p):
        text += f" Change on change: {_lower(change.sentence)}"
    unknown = [t.subject for t in pooled if math.isnan(t.p)]
    return text + (f" Not estimable here: {', '.join(unknown)}." if unknown else "")


def methods(tests: Sequence[Test]) -> str:
    """Say which methods differ, which are equivalent and where one cannot tell."""
    found = [t for t in tests if t.table == "methods" and t.scope == AVERAGE]
    over_students = _over_students(tests)
    if not found:
        text = "Fewer than two methods share a student and a teacher, so none can be compared."
        return over_students.lstrip() or text
    told = [t for t in found if " is better than " in t.sentence]
    same = [t for t in found if "are equivalent" in t.sentence]
    text = (
        f"Of {len(found)} pairs of methods these items tell {len(told)} apart, show {len(same)} to "
        f"be equivalent within {100 * EQUIVALENCE_MARGIN:g} points and leave "
        f"{len(found) - len(told) - len(same)} undecided. "
    )
    widest = max(found, key=lambda t: abs(t.estimate) if not math.isnan(t.estimate) else -1)
    return text + f"The largest difference: {widest.sentence}" + over_students


def instruction(table: pd.DataFrame) -> str:
    """Say how many runs write texts closer to the references than SFT does; "" without texts."""
    scores = table[(table.metric == "rouge_l") & (table.benchmark == AVERAGE)]
    if scores.empty:
        return ""
    top = scores.sort_values(["value", "system"], ascending=[False, True]).iloc[0]
    text = (
        f"The texts closest to the references are those of {top.system}: mean ROUGE-L "
        f"{printed(top)} over {top.n:,} items."
    )
    gains = main_rows(table, "rouge_l_gain")
    if len(gains):
        up, down = int((gains.low > 0).sum()), int((gains.high < 0).sum())
        text += (
            f" {up} of {len(gains)} distilled runs come closer than their SFT run, {down} fall "
            f"behind it; the mean change is {points(gains.value.mean())} points."
        )
    return text


def contamination(table: pd.DataFrame, overlaps: pd.DataFrame) -> str:
    """Say how many test items the corpus holds and what the gain is on the others."""
    if overlaps.empty:
        return "No benchmark was searched for in the corpus, so 0 items are known to be in it."
    total = int(overlaps["items"].sum())
    held, masked = int((overlaps.exact + overlaps.normalised).sum()), int(overlaps.masked.sum())
    text = (
        f"Of {total:,} test items the training corpus holds {held:,} and another {masked:,} with "
        "other numbers."
    )
    main = table[(table.kind == "distilled") & (table.ablation == "")]
    main = main[main.benchmark.isin(overlaps.index)]
    key = ["system", "benchmark"]
    clean, all_items = (main[main.metric == m][[*key, "value"]] for m in ("gain_clean", "gain"))
    both = all_items.merge(clean, on=key, suffixes=("", "_clean"))
    if (held or masked) and len(both):
        text += (
            f" On the clean items of these benchmarks the mean gain over SFT of "
            f"{both.system.nunique()} runs is {points(both.value_clean.mean())} points, on all "
            f"their items {points(both.value.mean())}."
        )
    return text


def ablations(table: pd.DataFrame) -> list[str]:
    """Say, for each ablation there is, what its far end did to mean accuracy."""
    return [s for a in ("temperature", "noise", "base_teacher") if (s := _ablation(table, a))]


def _best_without_a_teacher(table: pd.DataFrame, top: pd.Series) -> str:
    """Open the answer; plain fine-tuning that beats every distilled student comes first."""
    rows = table[(table.kind == "sft") & (table.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values("value", ascending=False)
    if rows.empty or rows.iloc[0].value <= top.value:
        return "The best student is"
    sft = rows.iloc[0]
    return (
        f"The best student is {sft.system}, fine-tuned without a teacher: "
        f"{printed(sft)} mean accuracy. The best distilled one is"
    )


def _gain(numbers: Numbers, tests: Sequence[Test], top: Any) -> str:
    gain = numbers.row(top.system, "gain")
    if gain is None:
        return ""
    test = _one(tests, "paired", "gain over SFT, exact McNemar", top.system)
    p = f", Holm p = {format_p(test.p_adjusted)}" if test else ""
    text = (
        f", {points(gain.value)} points over its own SFT run "
        f"(95% interval {points(gain.low)} to {points(gain.high)}{p})"
    )
    if gain.low <= 0 <= gain.high:
        text += ", which this many items cannot tell from no change"
    return text


def _gap(numbers: Numbers, top: Any) -> str:
    teacher = numbers.row(top.teacher, "accuracy")
    if teacher is None:
        return ""
    gap = teacher.value - top.value
    side = "below" if gap >= 0 else "above"
    size = ""
    if not pd.isna(teacher.parameters) and not pd.isna(top.parameters):
        share = 100 * int(top.parameters) / int(teacher.parameters)
        size = f", with {share:.0f}% of its parameters"
    return f"; it stays {points(abs(gap), sign=False)} points {side} its teacher{size}"


def _kept(numbers: Numbers, top: Any, kept: pd.DataFrame | None) -> str:
    found = [] if kept is None else [r for r in kept.itertuples() if r.system == top.system]
    parts = []
    if found and found[0].kept + found[0].lost:
        r = found[0]
        parts.append(
            f"keeps {100 * r.kept / (r.kept + r.lost):.1f}% of the {r.kept + r.lost:,} items its "
            f"teacher gets right ({r.lost:,} lost, {r.gained:,} others gained)"
        )
    steps = numbers.row(top.system, "fidelity_steps", AVERAGE, top.teacher)
    if steps is not None:
        parts.append(f"shares {printed(steps)} of its teacher's steps of reasoning")
    return f" It {' and '.join(parts)}." if parts else ""


def _cost(top: Any, seconds: Mapping[str, float]) -> str:
    if top.system not in seconds:
        return ""
    text = f" 1,000 items take it {seconds[top.system]:.1f} s"
    if top.teacher in seconds:
        text += f", its teacher {seconds[top.teacher]:.1f} s"
    return text + "."


def _runner_up(ranked: pd.DataFrame) -> str:
    if len(ranked) < 2:
        return ""
    top, second = ranked.iloc[0], ranked.iloc[1]
    close = ", too close to call" if second.value > top.low else ""
    return f" Next is {second.system} at {shown('accuracy', second.value)}{close}."


def _inside(test: Test | None) -> str:
    if test is None:
        return "; inside students it cannot be told."
    return f"; inside students it is {signed(test.estimate)} (p = {format_p(test.p)})."


def _over_students(tests: Sequence[Test]) -> str:
    """Say what the tests whose unit is the student make of the methods."""
    found = [t for t in tests if t.table == "matched" and t.scope == AVERAGE]
    pairs = [t for t in found if t.name == "matched difference" and not math.isnan(t.p)]
    equal = [t for t in found if t.name == "equivalence (TOST)" and not math.isnan(t.p)]
    if not pairs:
        return ""
    differ = sum(t.p_adjusted < 0.05 for t in pairs)
    same = sum(t.p < 0.05 for t in equal)
    return (
        f" With the {pairs[0].clusters} students as units, {differ} of {len(pairs)} pairs differ "
        f"(Holm) and {same} are equivalent within {100 * EQUIVALENCE_MARGIN:g} points (TOST)."
    )


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
        return f"{name} keeps {printed(worst)} at {symbol} = {worst[ablation]:g}."
    change = (
        f"from {printed(same)} at {symbol} = {same[ablation]:g} to {printed(worst)} at "
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
    return main_rows(table, "accuracy").sort_values(["value", "system"], ascending=[False, True])


def _one(tests: Sequence[Test], table: str, name: str, subject: str) -> Test | None:
    fits = (t for t in tests if (t.table, t.name, t.subject) == (table, name, subject))
    return next((t for t in fits if t.scope == AVERAGE), None)


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
