"""Systems of one student that are as accurate as each other and unlike in fidelity.

The paper's title: what a student scores (generalization) says little of how far it does as its
teacher does (fidelity). Two systems that differ in the second alone show it.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import pandas as pd

from kdstudy.analysis.contrasts import Contrast, Group, Run, contrast
from kdstudy.analysis.families import corrected
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, format_p, points
from kdstudy.compared_pairs import compared_pairs
from kdstudy.records import PairScore, System

ALIKE = 0.05
"""Two accuracies are alike where the 90% interval of their difference lies within this of 0."""

AGREEMENT, KL = "agreement", "kl_teacher_student"
"""Measures of fidelity: share of items with the teacher's answer; nats a token of held-out text."""

NAME = "fidelity of systems alike in accuracy"

Pairs = Mapping[tuple[str, str], Sequence[PairScore]]
Tokens = Mapping[tuple[str, str], pd.DataFrame]


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawn:
    """One run beside its teacher: each item's share of right draws, and each fidelity's values."""

    right: Run
    fidelity: Mapping[str, Run]


def unlike_tests(
    systems: Sequence[System], pairs: Pairs, tokens: Tokens, names: Mapping[str, str]
) -> list[Test]:
    """Return how every two systems of one student and teacher that score alike differ in fidelity.

    Alike is two one-sided tests at 5% within `ALIKE`. Units are items (rows of held-out text for
    `KL`) and, where there are several, seeds (`contrasts`). Holm's correction covers every two
    systems and measure of the study, those set aside included: accuracy is looked at to choose.

    Args:
        systems: The study's systems; those of the main grid and SFT are used.
        pairs: Compared answers by (system, reference); free texts, neither right nor wrong, are
            left out.
        tokens: Token-level sums by (system, reference), as `evaluate.tokens.TokenRow`.
        names: From `results.names_of`.

    Returns:
        Tests of table "unlike": `name` is `NAME`, `scope` the measure, and the estimate the first
        system's less the second's, as a fraction of items or in nats a token.
    """
    found, accuracies = [], []
    for cell in _by_teacher(systems, pairs, tokens, names).values():
        for a, b in itertools.combinations(sorted(cell), 2):
            if not _same_items([d.right for d in cell[a] + cell[b]]):
                continue
            right = [[d.right for d in drawn] for drawn in (cell[a], cell[b])]
            accuracy = _difference(*right), (a, b), tuple(map(_level, right))
            for measure, difference in _fidelities(cell[a], cell[b]):
                found.append(_test(a, b, measure, difference))
                accuracies.append(accuracy)
    told = zip(corrected(found), accuracies, strict=True)
    return [_said(t, *of) for t, of in told if max(map(abs, of[0].inner)) < ALIKE]


def _by_teacher(
    systems: Sequence[System], pairs: Pairs, tokens: Tokens, names: Mapping[str, str]
) -> dict[tuple[str, str], dict[str, list[_Drawn]]]:
    """Return the runs by student and teacher, and by the system that they are draws of."""
    known = {s.label: s for s in systems}
    tuned = {s.label for s in systems if s.kind == "sft"}
    main = compared_pairs([s for s in systems if not s.ablation])
    of_teachers = {(system, other) for system, other in main if other not in tuned}
    found: dict[tuple[str, str], dict[str, list[_Drawn]]] = {}
    for (label, reference), compared in sorted(pairs.items()):
        s, rows = known[label], [p for p in compared if p.outcome_a != "rated"]
        if rows and (label, reference) in of_teachers:
            of_student = found.setdefault((s.model, reference), {})
            drawn = _drawn(rows, tokens.get((label, reference)))
            of_student.setdefault(names.get(label, label), []).append(drawn)
    return found


def _drawn(rows: Sequence[PairScore], tokens: pd.DataFrame | None) -> _Drawn:
    frame = pd.DataFrame(
        [(p.benchmark, p.example_id, p.outcome_a == "correct", p.agree) for p in rows],
        columns=["benchmark", "item", "right", "agrees"],
    )
    means = dict(list(frame.groupby(["benchmark", "item"]).mean().groupby(level=0)))
    right, agrees = (
        {b: part[c].to_numpy(float) for b, part in means.items()} for c in ("right", "agrees")
    )
    fidelity = {AGREEMENT: agrees}
    if tokens is not None and len(tokens):
        rows = tokens.sort_values("example_id")
        # Rows weigh as many tokens as they have, so that the mean over rows is that over tokens.
        share = len(rows) / rows.tokens.sum()
        fidelity[KL] = {KL: (rows.kl_teacher_student * share).to_numpy(float)}
    return _Drawn(right, fidelity)


def _same_items(runs: Sequence[Run]) -> bool:
    shapes = [{b: len(v) for b, v in run.items()} for run in runs]
    return all(s == shapes[0] for s in shapes)


def _fidelities(a: Sequence[_Drawn], b: Sequence[_Drawn]) -> Iterator[tuple[str, Contrast]]:
    """Yield each measure that all runs have, with the systems' difference where it has a p."""
    for measure in (AGREEMENT, KL):
        runs = [[d.fidelity.get(measure, {}) for d in drawn] for drawn in (a, b)]
        if all(map(all, runs)) and _same_items([*runs[0], *runs[1]]):
            difference = _difference(*runs)
            if not math.isnan(difference.p):
                yield measure, difference


def _level(runs: Sequence[Run]) -> float:
    return fmean(fmean(shares.mean() for shares in run.values()) for run in runs)


def _difference(a: Sequence[Run], b: Sequence[Run]) -> Contrast:
    return contrast([Group(1.0, a), Group(-1.0, b)])


def _test(a: str, b: str, measure: str, found: Contrast) -> Test:
    units = f"seeds x items|t:{found.freedom:.1f}" if found.over_seeds else "flips of items|mid-p"
    return Test(
        table="unlike",
        name=NAME,
        subject=f"{a} − {b}",
        scope=measure,
        statistic=found.statistic,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        p=found.p,
        family=NAME,
        n=found.items,
        clusters=found.seeds[0] if found.over_seeds else found.items,
        signature=f"{units}|alike within:{ALIKE}|benchmarks:{AVERAGE}",
        sentence="",
    )


def _said(
    test: Test, accuracy: Contrast, names: tuple[str, str], levels: tuple[float, float]
) -> Test:
    """Say that two systems are alike in accuracy, then whether they are unlike in fidelity."""
    (a, b), (first, second) = names, levels
    low, high = (points(end) for end in accuracy.inner)
    ends = (test.low, test.high)
    if test.scope == AGREEMENT:
        size, between = f"{points(test.estimate)} points", " to ".join(map(points, ends))
        what = "agreement with the teacher"
    else:
        size, between = f"{_nats(test.estimate)} nats a token", " to ".join(map(_nats, ends))
        what = "KL(teacher, student) on held-out text"
    verdict = "and unlike in fidelity" if test.p_adjusted < 0.05 else "and not told apart in"
    verdict += ": " if test.p_adjusted < 0.05 else " fidelity: "
    return dataclasses.replace(
        test,
        sentence=f"{a} and {b} are alike in accuracy ({100 * first:.1f}% and "
        f"{100 * second:.1f}%, 90% interval of the difference {low} to {high} points, within "
        f"{100 * ALIKE:g}) {verdict}{what} differs by {size} "
        f"(95% interval {between}, Holm's p = {format_p(test.p_adjusted)}).",
    )


def _nats(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
