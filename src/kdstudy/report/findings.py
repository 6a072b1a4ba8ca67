"""The report's sentences on systems, tests and ablations, each made from the numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from kdstudy.analysis.analysis import leads
from kdstudy.analysis.cells import ALL
from kdstudy.analysis.methods import NAME
from kdstudy.analysis.results import AVERAGE, names_of
from kdstudy.analysis.stats import EQUIVALENCE_MARGIN, Test, format_p, points
from kdstudy.analysis.verdict import signed
from kdstudy.report.seeds import over_seeds
from kdstudy.report.tables_of_data import further
from kdstudy.report.views import (
    NAMED,
    Numbers,
    ablation_rows,
    main_rows,
    printed,
    settings,
    shown,
    varied,
)

FACTORS_OF_PAPER = ("2", "3", "4", "5")


def best(table: pd.DataFrame) -> pd.Series | None:
    """Return the accuracy row of the best distilled system of the main grid, or None.

    Of a table with a row per run it is a run, and so a seed: give `seeds.over_seeds` of it.
    """
    rows = _ranked(table)
    return None if rows.empty else rows.iloc[0]


def answer(
    table: pd.DataFrame,
    tests: Sequence[Test],
    kept: pd.DataFrame | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Say what was gained, which student is ahead, what it lost against the teacher, and costs.

    Of one student the gain comes first, from the tests of `methods.student_tests`. Systems are
    means over their seeds: a seed is drawn, not chosen.

    Args:
        table: From `results.collect`.
        tests: From `stats.study_tests`.
        kept: From `items.against_teacher`.
        seconds: Seconds to generate 1,000 items, by system.
    """
    means, names = over_seeds(table, tests), names_of(table)
    ranked = _ranked(means)
    if ranked.empty:
        return "No distilled student has been measured yet, so there is nothing to recommend."
    top, numbers = ranked.iloc[0], Numbers(means[means.benchmark == AVERAGE])
    alone = _of_one_student(tests) if ranked.student.nunique() == 1 else ""
    text = f"{alone} {_opening(means, ranked)} {_level(top)}".lstrip()
    text += ("" if alone else _gain(numbers, tests, top)) + _gap(numbers, top) + "."
    own = {run: name for run, name in names.items() if name in (top.system, top.teacher)}
    text += _kept(numbers, top, kept, own) + _cost(top, seconds or {}, own)
    return text + _runner_up(ranked)


def generalization(table: pd.DataFrame, tests: Sequence[Test]) -> str:
    """Say what distillation gained over students, then run by run, then as the paper tests it.

    With one student it is what each method gained on it, over items and seeds.
    """
    rows = main_rows(over_seeds(table, tests), "gain")
    if rows.empty:
        return "No distilled run can be compared with its SFT run yet."
    up, down = int((rows.low > 0).sum()), int((rows.high < 0).sum())
    text = _of_one_student(tests)
    if not text and any(t.table == "gain" for t in tests):
        text = leads(tests)[0].sentence
    text = f"{text} " if text else ""
    text += (
        f"Taken one by one, {up} of {len(rows)} distilled {_units(rows)} beat their student's SFT "
        f"run on the mean of benchmarks, {down} fell below it, and {len(rows) - up - down} cannot "
        f"be told apart from it with this many items{' and seeds' * (_units(rows) == 'systems')}."
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
        f"Of {len(found)} pairs of methods, SFT among them, these items tell {len(told)} apart, "
        f"show {len(same)} to be equivalent within {100 * EQUIVALENCE_MARGIN:g} points and leave "
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
            f" {up} of {len(gains)} distilled {_units(gains)} come closer than their SFT run, "
            f"{down} fall behind it; the mean change is {points(gains.value.mean())} points."
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
        units = _units(main)
        number = both.system.nunique()
        number = f"one {units.removesuffix('s')}" if number == 1 else f"{number} {units}"
        where = "this benchmark" if both.benchmark.nunique() == 1 else "these benchmarks"
        text += (
            f" On the clean items of {where} the mean gain over SFT of {number} is "
            f"{points(both.value_clean.mean())} points, on all items of {where} "
            f"{points(both.value.mean())}."
        )
    return text


def ablations(table: pd.DataFrame) -> list[str]:
    """Say, for each ablation there is, what its far end did to mean accuracy."""
    named = [s for a in NAMED if (s := _ablation(table, a))]
    return named + [s for field in varied(table) if (s := _varied(table, field))]


def measures(table: pd.DataFrame) -> list[str]:
    """Say, for each measure without a section of its own, between what trained systems lie."""
    said = []
    for measure in further(table):
        rows = main_rows(table, measure.name)
        if rows.empty:
            continue
        least, most = rows.loc[rows.value.idxmin()], rows.loc[rows.value.idxmax()]
        said.append(
            f"{measure.column}: from {printed(least)} ({least.system}) to {printed(most)} "
            f"({most.system})."
        )
    return said


def _units(rows: pd.DataFrame) -> str:
    """Return what rows are called: systems, where seeds are averaged in some, else runs."""
    return "systems" if "seeds" in rows and (rows.seeds > 1).any() else "runs"


def _of_one_student(tests: Sequence[Test]) -> str:
    """Return each method's difference from SFT where there is one student, else ""."""
    if not any(t.table in ("gain", "student") for t in tests):
        return ""
    found = [t for t in leads(tests) if t.table == "student"]
    text = " ".join(t.sentence for t in found)
    known = [t for t in found if not math.isnan(t.p_adjusted)]
    if len(known) > 1:
        each = ", ".join(f"{t.subject} {format_p(t.p_adjusted)}" for t in known)
        text += f" Holm's p over these {len(known)}: {each}."
    return text


def _opening(means: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """Open the answer; plain fine-tuning that beats every distilled student comes first."""
    rows = means[(means.kind == "sft") & (means.metric == "accuracy")]
    rows = rows[rows.benchmark == AVERAGE].sort_values("value", ascending=False)
    behind = len(rows) and rows.iloc[0].value > ranked.iloc[0].value
    if ranked.student.nunique() > 1:
        if not behind:
            return "The best student is"
        sft = f"The best student is {_level(rows.iloc[0], ', fine-tuned without a teacher')}."
        return f"{sft} The best distilled one is"
    sft = f"SFT alone is ahead: {_level(rows.iloc[0])}. " if behind else ""
    if len(ranked) == 1:
        return f"{sft}Distilled, it is"
    return f"{sft}Of {len(ranked)} distilled systems of this student the most accurate is"


def _level(row: pd.Series, more: str = "") -> str:
    """Return a system with its mean accuracy (`printed` tells the spread over seeds)."""
    return f"{row.system}{more}: {printed(row)} mean accuracy"


def _gain(numbers: Numbers, tests: Sequence[Test], top: Any) -> str:
    gain = _one(tests, "student", NAME, top.system) or numbers.row(top.system, "gain")
    if gain is None:
        return ""
    value, p = (gain.estimate, gain.p_adjusted) if isinstance(gain, Test) else (gain.value, None)
    text = (
        f", {points(value)} points over its own SFT run "
        f"(95% interval {points(gain.low)} to {points(gain.high)}"
        f"{'' if p is None else f', Holm p = {format_p(p)}'})"
    )
    if gain.low <= 0 <= gain.high:
        several = getattr(numbers.row(top.system, "gain"), "seeds", 1) > 1
        units = "items and seeds" if several else "items"
        text += f", which this many {units} cannot tell from no change"
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


def _kept(numbers: Numbers, top: Any, kept: pd.DataFrame | None, names: Mapping[str, str]) -> str:
    rows = pd.DataFrame(columns=["system"]) if kept is None else kept
    own = rows[[names.get(s) == top.system for s in rows.system]]
    parts = []
    if len(own) and (own.kept + own.lost).sum():
        right = own.kept + own.lost
        size = f"{right.min():,}" if right.nunique() == 1 else f"{right.min():,} to {right.max():,}"
        digits = ",.1f" if len(own) > 1 else ",.0f"
        lost, gained = (format(x.mean(), digits) for x in (own.lost, own.gained))
        mean = f", mean of {len(own)} seeds" if len(own) > 1 else ""
        parts.append(
            f"keeps {100 * own.kept.sum() / right.sum():.1f}% of the {size} items its teacher gets "
            f"right ({lost} lost, {gained} others gained{mean})"
        )
    steps = numbers.row(top.system, "fidelity_steps", AVERAGE, top.teacher)
    if steps is not None:
        parts.append(f"shares {printed(steps)} of its teacher's steps of reasoning")
    return f" It {' and '.join(parts)}." if parts else ""


def _cost(top: Any, seconds: Mapping[str, float], names: Mapping[str, str]) -> str:
    def mean(system: str) -> float:
        own = [s for run, s in seconds.items() if names.get(run, run) == system]
        return sum(own) / len(own) if own else math.nan

    student, teacher = mean(top.system), mean(top.teacher)
    if math.isnan(student):
        return ""
    text = f" 1,000 items take it {student:.1f} s"
    if not math.isnan(teacher):
        text += f", its teacher {teacher:.1f} s"
    return text + "."


def _runner_up(ranked: pd.DataFrame) -> str:
    if len(ranked) < 2:
        return ""
    top, second = ranked.iloc[0], ranked.iloc[1]
    close = ", too close to call" if second.value > top.low else ""
    return (
        f" Next is {second.system} at {shown('accuracy', second.value)}{close}. Who is ahead of "
        f"{len(ranked)} was seen on these test items, so its lead is partly luck."
    )


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
        return f"{name} goes {change}: the intervals over items overlap, so no trend is shown."
    if _seeds_overlap(worst, same):
        return f"{name} goes {change}: seeds differ by as much, so no trend is shown."
    return f"{name} falls {change}; its best point is {symbol} = {top[ablation]:g}."


def _varied(table: pd.DataFrame, field: str) -> str:
    """Say how far the method that a field moves most is moved, from the study's own value."""
    rows = ablation_rows(table, field)
    rows = rows[(rows.metric == "accuracy") & (rows.benchmark == AVERAGE)]
    rows = rows.assign(said=settings(rows, field))
    plain, changed = rows[rows.ablation == ""], rows[rows.ablation == field]
    both = plain.merge(changed, on=["student", "method", "teacher"], suffixes=("", "_changed"))
    if both.empty:
        return ""
    apart = (both.value_changed - both.value).abs()
    pair = both.loc[apart.idxmax()]
    same = plain[plain.system == pair.system].iloc[0]
    other = changed[changed.system == pair.system_changed].iloc[0]
    change = (
        f"{field}: {same.method} on {same.student} goes from {printed(same)} at {same.said} to "
        f"{printed(other)} at {other.said}"
    )
    if len(both) > 1:
        change += f", the largest change of {len(both)}"
    if other.low <= same.high and same.low <= other.high:
        return f"{change}: the intervals over items overlap, so no trend is shown."
    if _seeds_overlap(other, same):
        return f"{change}: seeds differ by as much, so no trend is shown."
    return f"{change}."


def _seeds_overlap(worst: pd.Series, same: pd.Series) -> bool:
    """Return whether Welch's t-test over seeds, on these items, leaves 0 open at 5%."""
    if getattr(worst, "seeds", 1) < 2 or getattr(same, "seeds", 1) < 2:
        return False
    ends = (x for row in (same, worst) for x in (row.value, row.sd, row.seeds))
    return not stats.ttest_ind_from_stats(*ends, equal_var=False).pvalue < 0.05


def _unaware(plain: pd.DataFrame, changed: pd.DataFrame) -> str:
    both = plain.merge(changed, on=["student", "method"], suffixes=("", "_changed"))
    both = both.assign(change=both.value_changed - both.value).sort_values(
        "change", key=lambda change: -change.abs(), kind="stable"
    )
    if both.empty:
        return ""
    r = both.iloc[0]
    parts = [c for c in ("metric", "value", "low", "high", "sd", "seeds") if c in both]
    before, after = (
        printed(r[[c + side for c in parts]].set_axis(parts)) for side in ("", "_changed")
    )
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
