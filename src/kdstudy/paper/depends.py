"""Claims about what the gain depends on: teacher, size, agreement and fidelity."""

import itertools

import pandas as pd
from scipy import stats

from kdstudy.analysis import correlations
from kdstudy.analysis.correlations import CHANGE
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, format_p, points, signed
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
from kdstudy.paper.replay import LOST

TEACHER, SIZE, AGREEMENT, _ = correlations.FACTORS
_PANEL = dict(zip(NAMES, "ab", strict=True))
_POOLED_ROW = "Spearman rank"
_PAIRINGS = {
    "student_KD~student_SFT": "distilled student with its SFT run",
    "student_SFT~teacher": "SFT run with the teacher",
    "student_KD~teacher": "distilled student with the teacher",
}
_HIGHEST = {"AddSub": 89.1, "MultiArith": 94.5}
"""Agreement with Qwen-14B that Section 5 gives for its two smallest students, in %."""


def dependence_claims(evidence: Evidence) -> list[Claim]:
    """Return the claims about what gains go with."""
    makers = (_teacher_matters_little, _falls_with_size, _agreement_apart, _agreement_declines)
    return [*(make(evidence) for make in makers), _fidelity_apart(evidence)]


def _teacher_matters_little(evidence: Evidence) -> Claim:
    parts = {n: evidence.average(n) for n in NAMES}
    tests = {n: correlations.within(parts[n], TEACHER, AVERAGE) for n in NAMES}
    orders = {n: correlations.within_permuted(parts[n], TEACHER, AVERAGE) for n in NAMES}
    linked = [n for n in NAMES if significant(tests[n]) and significant(orders[n])]
    pairs = parts["math"].drop_duplicates(["teacher", "student"])
    several = pairs.groupby("student").teacher.nunique() > 1
    rho = stats.spearmanr(pairs.teacher_score, pairs["size"]).statistic
    return Claim(
        key="teacher",
        says="How good the teacher is has little effect on the student",
        where="Abstract; Section 5; Table 2",
        printed=f"Pooled Spearman on the average: {_prints(evidence, '2')}.",
        recomputed=[
            f"The correlations come out. At temperature 1 they are {_recomputes(evidence, '2')}.",
            "They pool students that gain differently for other reasons, and teachers were not "
            "spread evenly over students: teacher accuracy and student size go together with "
            f"rho = {signed(rho)} over the {len(pairs)} pairs (math).",
        ],
        sound=[
            *told(tests),
            *told(orders),
            f"Only {several.sum()} of {len(several)} students met more than one teacher. Mean gain "
            f"of these in math: {_by_teacher(parts['math'])}.",
        ],
        verdict=FALLS if len(linked) == len(NAMES) else IN_PART if linked else UNKNOWN,
        because=". ".join(_teacher_because(n, tests[n], orders[n], n in linked) for n in NAMES)
        + (
            "." if linked else f". {several.sum()} students with several teachers do not settle it."
        ),
    )


def _falls_with_size(evidence: Evidence) -> Claim:
    tests = {n: correlations.between(evidence.average(n), SIZE, AVERAGE, "student") for n in NAMES}
    intact = correlations.between(evidence.average("commonsense", True), SIZE, AVERAGE, "student")
    holds = [significant(t) and t.estimate < 0 for t in tests.values()]
    base = []
    for name in NAMES:
        means = evidence.average(name).groupby("student")[["baseline", "size"]].mean()
        base.append(f"{signed(stats.spearmanr(means['size'], means.baseline).statistic)} in {name}")
    return Claim(
        key="size",
        says="The larger the student, the smaller its gain",
        where="Abstract; Section 5; Table 3",
        printed=f"Pooled Spearman on the average: {_prints(evidence, '3')}.",
        recomputed=[
            f"The correlations come out. At temperature 1 they are {_recomputes(evidence, '3')}.",
        ],
        sound=[
            *told(tests),
            f"Without collapsed runs, commonsense: {intact.sentence}",
            f"Size cannot be told from room to grow: student size and SFT accuracy go together "
            f"with rho = {listed(base)}, and a student that is right already cannot gain.",
        ],
        verdict=STANDS if all(holds) else IN_PART if any(holds) else UNKNOWN,
        because="With one row per student the trend is "
        + listed([f"{_rho(tests[n])} in {n}" for n in NAMES])
        + f"; n = {tests['math'].n} students, not {len(evidence.average('math'))}.",
    )


def _agreement_apart(evidence: Evidence) -> Claim:
    change, sentences = [], []
    for name in NAMES:
        rows = evidence.sound(name)
        tasks = {t: part for t, part in rows.groupby("task") if t != AVERAGE}
        moved = [correlations.spearman(_changed(p), CHANGE, t) for t, p in tasks.items()]
        raw = [correlations.spearman(p, AGREEMENT, t, outcome="score") for t, p in tasks.items()]
        change += moved
        sentences.append(
            f"{name.capitalize()}, change of agreement against gain: {_strong(moved)}; raw "
            f"accuracy against agreement: {_strong(raw)}."
        )
        whole = _changed(evidence.average(name, intact=True))
        for test in (
            correlations.spearman(whole, CHANGE, AVERAGE),
            correlations.between(whole, CHANGE, AVERAGE, "student"),
        ):
            sentences.append(f"{name.capitalize()}, without collapsed runs: {test.sentence}")
    linked = [t for t in survivors(change) if t.estimate > 0]
    return Claim(
        key="agreement",
        says="Agreement with the teacher does not go with the student's performance",
        where="Section 1; Section 5; Table 4",
        printed=f"Spearman of gain with agreement per task: {_range(evidence, 'a')} in math, "
        f"{_range(evidence, 'b')} in commonsense, mostly not significant.",
        recomputed=[
            "The correlations come out, but they hold a difference (the gain) against a level (the "
            "agreement after distillation). Students that agree with their teacher most are those "
            "that were good before, and they have least to gain.",
            _whose_agreement(evidence.agreement_runs),
        ],
        sound=[
            *sentences,
            "Part of this is arithmetic: two models that are right more often must agree more "
            "often. Without the texts, what is left beyond that cannot be told.",
        ],
        verdict=FALLS if len(linked) > len(change) / 2 else IN_PART if linked else STANDS,
        because=f"Where agreement rose more, accuracy rose more: significantly so in {len(linked)} "
        f"of {len(change)} tasks (Holm).",
    )


def _agreement_declines(evidence: Evidence) -> Claim:
    table = published.agreement().groupby(["benchmark", "teacher", "student"])[["kd", "sft"]]
    means = table.mean().reset_index()
    gone = evidence.tau1[evidence.tau1.collapsed & (evidence.tau1.method == "RevKD")]
    key = ["benchmark", "teacher", "student"]
    alive = ~pd.MultiIndex.from_frame(means[key]).isin(pd.MultiIndex.from_frame(gone[key]))
    counts = {n: _larger_agrees(means[alive & (means.benchmark == n)]) for n in NAMES}
    rise = (means.kd - means.sft)[alive]
    rho = stats.spearmanr(rise, means.student[alive].map(published.size))
    more, of = (sum(c[i] for c in counts.values()) for i in (0, 1))
    return Claim(
        key="agreement-size",
        says="After distillation, agreement with the teacher declines as students grow",
        where="Section 5; Figures 3 and 8",
        printed="For Qwen-0.5B and Qwen-1.5B with Qwen-14B: "
        + listed([f"{value} on {task}" for task, value in _HIGHEST.items()])
        + ".",
        recomputed=[
            "Of two students of one teacher, the larger agrees with it more often in "
            + listed([f"{a} of {b} comparisons in {n}" for n, (a, b) in counts.items()])
            + " (average over tasks, collapsed runs left out).",
            _highest(),
            f"What falls with size is the rise over SFT: rho = {signed(rho.statistic)} over "
            f"{alive.sum()} pairs (p = {format_p(rho.pvalue)}, pairs taken as independent).",
        ],
        sound=["Nothing to test: the order is in the released counts."],
        verdict=FALLS if more > of / 2 else STANDS,
        because=f"Agreement itself rises with student size in {more} of {of} comparisons; only "
        "its rise over SFT shrinks.",
    )


def _fidelity_apart(evidence: Evidence) -> Claim:
    table = published.read("fidelity")
    lost = [c for c in evidence.replays["max"]["cells"] if c["verdict"] == LOST]
    printed = [c["printed"]["statistic"] for c in lost]
    kinds = sorted(set(table[table.metric == "BLEU"].comparison))
    kinds = listed([_PAIRINGS[kind.split(" ")[0]] for kind in kinds])
    released = (table.comparison == "student_KD~teacher").any()
    unnamed = table[table.metric != "BLEU"].pivot(
        index=["teacher", "student", "task"], columns="comparison", values="value"
    )
    kd, sft = (next(c for c in unnamed if c.startswith(s)) for s in ("student_KD", "student_SFT"))
    higher = int((unnamed[kd] > unnamed[sft]).sum())
    return Claim(
        key="fidelity",
        says="Better students do not reason more like their teacher, though KD raises fidelity",
        where="Abstract; Section 5; Table 5; Figure 4",
        printed=f"Spearman of gain with BLEU per task: {signed(min(printed))} to "
        f"{signed(max(printed))}, none significant.",
        recomputed=[
            f"None of the {len(lost)} cells can be recomputed: BLEU between distilled student and "
            f"teacher is in no released file. Released BLEU: {kinds}.",
            f"A second file holds scores without a name, and what they compare is not said for "
            f"the distilled student; there the distilled column is higher in {higher} of "
            f"{len(unnamed)} cells.",
        ],
        sound=["Nothing to test: neither texts nor the scores were released."],
        verdict=IN_PART if released else UNKNOWN,
        because="The one comparison that the claim is about was not released.",
    )


def _changed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(agreement_change=rows.agreement - rows.agreement_sft)


def _by_teacher(rows: pd.DataFrame) -> str:
    found = []
    for student, part in rows.groupby("student"):
        gains = part.groupby("teacher").agg(gain=("gain", "mean"), score=("teacher_score", "mean"))
        if len(gains) > 1:
            ways = [
                f"{points(g.gain)} from {g.Index}" for g in gains.sort_values("score").itertuples()
            ]
            found.append(f"{student} {listed(ways)}")
    return "; ".join(found)


def _teacher_because(name: str, by_t: Test, by_order: Test, linked: bool) -> str:
    found = f"{name.capitalize()}: r = {signed(by_t.estimate)} inside students, p = "
    found += f"{format_p(by_t.p)} by t and {format_p(by_order.p)} by permutation"
    return f"{found}, so gain goes with the teacher's accuracy" if linked else found


def _whose_agreement(runs: pd.DataFrame) -> str:
    runs = runs.assign(fits=runs.outside == 0)
    pairs = len(runs[["benchmark", "teacher", "student"]].drop_duplicates())
    fits = runs[runs.temperature == 1].groupby("method").fits.sum()
    odd = runs[(runs.method == "RevKD") & (runs.temperature == 1) & ~runs.fits].iloc[0]
    key = (runs[c] == odd[c] for c in ("benchmark", "teacher", "student"))
    other = runs[pd.concat(key, axis=1).all(axis=1) & runs.fits & (runs.method == "RevKD")]
    return (
        f"There is one agreement per pair and task, used for all three methods. Accuracies bound "
        f"it, and by these bounds it can be the RevKD run at temperature 1 in {fits['RevKD']} of "
        f"{pairs} pairs (SeqKD {fits['SeqKD']}, GKD {fits['GKD']}); in the other, {odd.teacher} "
        f"to {odd.student} in {odd.benchmark}, only at temperature "
        f"{listed([f'{t:g}' for t in other.temperature])}."
    )


def _highest() -> str:
    kd = published.agreement().kd.loc["math", "Qwen-14B"].round(1)
    parts = []
    for task, value in _HIGHEST.items():
        here = kd.xs(task, level="task")
        small = [f"{s} {here[s]:.1f}" for s in ("Qwen-0.5B", "Qwen-1.5B")]
        parts.append(
            f"{value} on {task} is {listed(list(here.index[here == value]))}'s ({', '.join(small)})"
        )
    return f"The agreements printed for the small students are others': {'; '.join(parts)}."


def _larger_agrees(rows: pd.DataFrame) -> tuple[int, int]:
    """Return in how many pairs of one teacher's students the larger agrees more, and all pairs."""
    more = of = 0
    for _, group in rows.groupby("teacher"):
        for a, b in itertools.combinations(group.itertuples(), 2):
            small, large = sorted((a, b), key=lambda r: published.size(r.student))
            more, of = more + (large.kd > small.kd), of + 1
    return more, of


def _strong(tests: list) -> str:
    up = [t for t in survivors(tests) if t.estimate > 0]
    low, high = min(t.estimate for t in tests), max(t.estimate for t in tests)
    return (
        f"rho {signed(low)} to {signed(high)} by task, positive and significant in "
        f"{len(up)} of {len(tests)}"
    )


def _rho(test) -> str:
    return f"{signed(test.estimate)} (p = {format_p(test.p)})"


def _prints(evidence: Evidence, table: str) -> str:
    cells = {
        n: evidence.cell("max", table, p, _POOLED_ROW, published.AVERAGE) for n, p in _PANEL.items()
    }
    return listed([f"{signed(c['printed']['statistic'])} in {n}" for n, c in cells.items()])


def _recomputes(evidence: Evidence, table: str) -> str:
    cells = {
        n: evidence.cell("tau1", table, p, _POOLED_ROW, published.AVERAGE)["recomputed"]
        for n, p in _PANEL.items()
    }
    return listed(
        [f"{signed(c['statistic'])} (p = {format_p(c['p'])}) in {n}" for n, c in cells.items()]
    )


def _range(evidence: Evidence, panel: str) -> str:
    cells = evidence.replays["max"]["cells"]
    values = [c["printed"]["statistic"] for c in cells if (c["table"], c["panel"]) == ("4", panel)]
    return f"{signed(min(values))} to {signed(max(values))}"
