"""Claims about what distillation gains, and whether the method matters."""

import pandas as pd

from kdstudy.analysis import clustered
from kdstudy.analysis.cells import ALL
from kdstudy.analysis.matched import matched_tests
from kdstudy.analysis.paired import EQUIVALENCE_MARGIN
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, format_p, points
from kdstudy.paper import published
from kdstudy.paper.evidence import (
    FALLS,
    IN_PART,
    NAMES,
    STANDS,
    UNKNOWN,
    Claim,
    Evidence,
    listed,
    significant,
    survivors,
    told,
)
from kdstudy.paper.replay import METHODS

SMALL = 1.0
"""Billions of parameters up to which the paper speaks of smaller models."""


def gain_claims(evidence: Evidence) -> list[Claim]:
    """Return the claims about gains and methods."""
    makers = (_up_to_ten, _larger_models, _significant, _methods_equal, _revkd_consistent)
    return [make(evidence) for make in makers]


def _up_to_ten(evidence: Evidence) -> Claim:
    tops = []
    for name in NAMES:
        rows = evidence.averages(evidence.best, name)
        best = rows[rows["size"] <= SMALL].sort_values("gain").groupby("student").tail(1)
        tops += [(r.gain, r.student, name) for r in best.itertuples()]
    tops.sort(reverse=True)
    tried = published.distilled().query("task == @published.AVERAGE")
    tried = (tried.student.map(published.size) <= SMALL).sum()
    small = evidence.tau1[evidence.tau1["size"] <= SMALL]
    means = {n: evidence.averages(small, n).gain.mean() for n in NAMES}
    typical = listed([f"{_pp(mean)} in {name}" for name, mean in means.items()])
    tasks = evidence.best[evidence.best.task != published.AVERAGE]
    peak = tasks.loc[tasks.gain.idxmax()]
    best = listed([f"{student} {_pp(gain)} ({name})" for gain, student, name in tops])
    comes_out = STANDS if tops[0][0] < 10.5 else IN_PART
    return Claim(
        key="up-to-ten",
        says="Distillation improves a small model's average by up to 10%, one task by up to 22%",
        where="Abstract; Section 1; Section 5, effectiveness",
        printed="+10.4 (math) and +7.8 (commonsense) for Qwen-0.5B, +12.0 and +12.7 for Llama-1B; "
        "peak 22 on one task. Accuracies are in percent, so these are points.",
        recomputed=[
            f"Best run of each student up to 1B, in points: {best}.",
            f"The peak is {_pp(peak.gain)} on {peak.task}, {peak.student} from {peak.teacher} by "
            f"{peak.method}; the next largest of {len(tasks)} gains is "
            f"{_pp(tasks.gain.nlargest(2).iloc[1])}.",
        ],
        sound=[
            "'Up to' is the maximum of many runs, and a maximum grows with their number. Over all "
            f"runs of these students at temperature 1 the mean gain is {typical}, in points.",
        ],
        verdict=comes_out if min(means.values()) > 0 else FALLS,
        because=f"The numbers come out, but they are the best of {tried} runs, the largest is "
        f"{_pp(tops[0][0])} and not 10, and the mean run gains {typical}.",
    )


def _larger_models(evidence: Evidence) -> Claim:
    largest = evidence.best["size"].max()
    rows = evidence.best[
        (evidence.best["size"] == largest) & (evidence.best.task == published.AVERAGE)
    ]
    best = rows.groupby("benchmark").gain.max()
    means = rows.groupby("benchmark").gain.mean()
    students, pairs = rows.student.nunique(), rows[["student", "teacher"]].drop_duplicates()
    near = {
        "the mean of the two best runs": best.mean(),
        "the mean of the commonsense runs": means["commonsense"],
        "the mean of all its runs": rows.gain.mean(),
    }
    found = any(round(value, 1) == 1.3 for value in near.values())
    below = evidence.best[(evidence.best["size"] <= SMALL)]
    small = below[below.task == published.AVERAGE].gain.mean()
    return Claim(
        key="larger-models",
        says="Larger (7B) models gain only about 1.3%",
        where="Abstract; Section 1",
        printed="about 1.3%; Section 5 has +0.2 (math) and +1.9 (commonsense) for Qwen-7B.",
        recomputed=[
            f"Best run of {rows.student.iloc[0]}: "
            f"{listed([f'{_pp(best[n])} points in {n}' for n in NAMES])}.",
            f"No average of its {len(rows)} runs that we tried gives 1.3: "
            + "; ".join(f"{name} is {value:.2f}" for name, value in near.items())
            + ".",
        ],
        sound=[
            f"{students} student of that size, with {len(pairs)} teacher, has no spread between "
            "students, so no interval: how another 7B student would do is not in these data.",
        ],
        verdict=STANDS if found else IN_PART if rows.gain.mean() < small else FALLS,
        because=f"The 7B student gains little (mean {_pp(rows.gain.mean())} points against "
        f"{_pp(small)} up to 1B), "
        + ("as printed." if found else "but 1.3 itself does not come out, and it is one student."),
    )


def _significant(evidence: Evidence) -> Claim:
    tests = {n: clustered.student_level(evidence.average(n), ALL, AVERAGE) for n in NAMES}
    flips = {n: clustered.sign_flip(evidence.average(n), ALL, AVERAGE) for n in NAMES}
    intact = clustered.student_level(evidence.average("commonsense", intact=True), ALL, AVERAGE)
    holds = {n: significant(tests[n]) and tests[n].estimate > 0 for n in NAMES}
    tables = [c for c in evidence.replays["tau1"]["cells"] if c["row"].startswith("t-test")]
    bold = [c for c in tables if c["printed"]["significant"]]
    lost = [c for c in bold if not c["recomputed"]["significant"]]
    tau1 = evidence.tau1[evidence.tau1.task != published.AVERAGE]
    cells = {n: tau1[tau1.benchmark == n].gain for n in NAMES}
    collapsed = evidence.averages(evidence.tau1[evidence.tau1.collapsed], "commonsense")
    return Claim(
        key="significant",
        says="Distillation consistently beats fine-tuning alone, significantly",
        where="Section 5, effectiveness; Table 1",
        printed=f"{len(bold)} of {len(tables)} t-tests bold (p < 0.05); on the average t = "
        f"{_printed(evidence, 'a')} (math) and {_printed(evidence, 'b')} (commonsense).",
        recomputed=[
            f"{len(lost)} of the {len(bold)} bold t-tests are not significant when the temperature "
            "is 1 throughout instead of the best of up to three on the test set.",
            "At temperature 1 the distilled student is worse than SFT in "
            + listed([f"{(g < 0).sum()} of {len(g)} cells in {n}" for n, g in cells.items()])
            + ".",
        ],
        sound=[
            *told({n: tests[n] for n in NAMES}),
            *told({n: flips[n] for n in NAMES}),
            f"{len(collapsed)} commonsense runs collapsed (a task below half of SFT's accuracy). "
            f"Without them: {intact.sentence}",
        ],
        verdict=STANDS if all(holds.values()) else IN_PART if any(holds.values()) else FALLS,
        because=". ".join(
            f"{n.capitalize()}: {'yes' if holds[n] else 'no'}, {_interval(tests[n])}" for n in NAMES
        )
        + ". Runs of one student share its SFT model, so students are the units.",
    )


def _methods_equal(evidence: Evidence) -> Claim:
    rows = [c for c in evidence.replays["max"]["cells"] if c["row"].startswith("ANOVA")]
    bold = [c["task"] for c in rows if c["printed"]["significant"]]
    unlike, alike, sentences = {}, {}, []
    for name in NAMES:
        tests = matched_tests(evidence.average(name))
        ranked, pairs, tost = (
            [t for t in tests if t.name == kind]
            for kind in ("Friedman test", "matched difference", "equivalence (TOST)")
        )
        unlike[name] = bool(survivors(ranked) and survivors(pairs))
        alike[name] = all(significant(t) for t in tost)
        sentences += told({name: ranked[0]})
        sentences.append(_pairwise(name, pairs, tost))
    verdict = FALLS if any(unlike.values()) else STANDS if all(alike.values()) else UNKNOWN
    return Claim(
        key="methods-equal",
        says="The choice of method hardly matters: all methods are equally effective",
        where="Section 1; Section 5; Table 1 (ANOVA)",
        printed=f"One-way ANOVA of gains on the average: F = {_anova(evidence, 'a')} in math, "
        f"{_anova(evidence, 'b')} in commonsense. Yet {listed(bold)} are bold.",
        recomputed=[
            "The F values come out. But the ANOVA takes the methods' runs for unrelated, although "
            f"each method was run on the same {len(evidence.average('math')) // len(METHODS)} "
            "pairs: differences between methods drown in differences between students. And a "
            "large p is no evidence of equality.",
        ],
        sound=sentences,
        verdict=verdict,
        because=" ".join(_equal_because(n, unlike[n], alike[n]) for n in NAMES),
    )


def _revkd_consistent(evidence: Evidence) -> Claim:
    means = _method_means(evidence.best)
    tau1 = evidence.tau1[evidence.tau1.task == published.AVERAGE]
    worst = tau1.pivot_table(index="method", columns="benchmark", values="gain", aggfunc="min")
    steady = {n: worst[n].idxmax() for n in NAMES}
    cell = evidence.cell("max", "1", "a", "t-test RevKD", published.AVERAGE)
    changed = published.undeclared_temperatures()
    found = any(round(value, 1) == 6.3 for value in means.loc["RevKD"])
    held = [n for n in NAMES if steady[n] == "RevKD"]
    return Claim(
        key="revkd",
        says="RevKD is the most consistent method, with an average gain of 6.3%",
        where="Section 5, effectiveness",
        printed="6.3% on average over all student sizes.",
        recomputed=[
            "Mean gain of RevKD in points: "
            + listed([f"{_pp(means.loc['RevKD', n])} ({n})" for n in means.columns])
            + f". {cell['recomputed']['statistic']:.2f} is its t statistic in Table 1a.",
            f"{len(changed)} RevKD rows of Table 8 are not the runs at temperature 1 that the "
            f"table stands for: {_changes(changed)}.",
        ],
        sound=[
            _collapsed(tau1[tau1.collapsed]),
            "Worst average gain at temperature 1, in points: "
            + "; ".join(
                f"{n}: " + listed([f"{m} {_pp(worst.loc[m, n])}" for m in METHODS]) for n in NAMES
            )
            + ".",
        ],
        verdict=STANDS if found and len(held) == len(NAMES) else IN_PART if held else FALLS,
        because=("" if found else "6.3 is not its mean gain. ")
        + "The method whose worst run is best at temperature 1 is "
        + listed([f"{m} in {n}" for n, m in steady.items()])
        + f"; RevKD's worst run loses {_pp(worst.loc['RevKD'].min()).lstrip('−')} points.",
    )


def _pairwise(name: str, pairs: list[Test], tost: list[Test]) -> str:
    differ = [
        f"{t.subject} {points(t.estimate)} ({points(t.low)} to {points(t.high)}, "
        f"p = {format_p(t.p)})"
        for t in pairs
    ]
    equal = sum(significant(t) for t in tost)
    margin = points(EQUIVALENCE_MARGIN, sign=False)
    return (
        f"{name.capitalize()}, differences over students in points: {'; '.join(differ)}. "
        f"{len(survivors(pairs))} of {len(pairs)} hold after Holm's correction; {equal} of "
        f"{len(tost)} pairs are shown to be equivalent within {margin} points."
    )


def _equal_because(name: str, unlike: bool, alike: bool) -> str:
    if unlike:
        return f"In {name} the methods differ when compared on the same pairs."
    if alike:
        return f"In {name} all differences lie inside the margin."
    return f"In {name} neither a difference nor equivalence can be shown."


def _method_means(rows: pd.DataFrame) -> pd.DataFrame:
    averages = rows[rows.task == published.AVERAGE]
    means = averages.pivot_table(index="method", columns="benchmark", values="gain")[[*NAMES]]
    return means.assign(**{"both together": averages.groupby("method").gain.mean()})


def _changes(changed: pd.DataFrame) -> str:
    return listed(
        [
            f"{r.teacher} to {r.student} (printed {r.average:.2f} from temperature "
            f"{r.temperature:g}; at 1 it is {r.average_tau1:.2f})"
            for r in changed.itertuples()
        ]
    )


def _collapsed(rows: pd.DataFrame) -> str:
    named = [
        f"{r.method} {r.teacher} to {r.student} ({_pp(r.gain)} on average)"
        for r in rows.itertuples()
    ]
    return (
        f"{len(rows)} runs at temperature 1 collapsed (a task below half of SFT's accuracy): "
        f"{listed(named)}."
    )


def _printed(evidence: Evidence, panel: str) -> str:
    cell = evidence.cell("max", "1", panel, "t-test all methods", published.AVERAGE)
    return f"{cell['printed']['statistic']:.2f}"


def _anova(evidence: Evidence, panel: str) -> str:
    cell = evidence.cell("max", "1", panel, "ANOVA all methods", published.AVERAGE)
    return f"{cell['printed']['statistic']:.2f} (p = {cell['printed']['p']:.1f})"


def _interval(test) -> str:
    return f"{points(test.estimate)} points, 95% interval {points(test.low)} to {points(test.high)}"


def _pp(value: float) -> str:
    return points(value / 100)
