"""Methods against SFT and against each other, item by item, with seeds as draws."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from kdstudy.analysis.contrasts import Contrast, Group, Run, contrast
from kdstudy.analysis.families import corrected
from kdstudy.analysis.paired import EQUIVALENCE_MARGIN
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points
from kdstudy.errors import InputError
from kdstudy.measures.cell import cells_of
from kdstudy.records import Score, System, renamed

SFT = "sft"
NAME = "method − SFT on one student"
Cell = tuple[str, str]
"""A student and its teacher; the teacher of an SFT run is ""."""

Runs = Mapping[str, Mapping[Cell, Sequence[Run]]]
"""Runs by method and cell; those of one cell differ by their seed alone."""


def runs_of(systems: Sequence[System], scores: Mapping[str, Sequence[Score]]) -> Runs:
    """Return the graded runs of the main grid and the SFT runs.

    Raises:
        InputError: Two runs of one student, teacher and method have one seed.
    """
    found: dict[str, dict[Cell, dict[int, Run]]] = {}
    for s in systems:
        if s.kind not in ("sft", "distilled") or s.ablation or s.label not in scores:
            continue
        cells = cells_of(s.label, scores[s.label])
        # A free text is neither right nor wrong: it would count as a tie.
        right = {b: c.share("correct") for b, c in cells.items() if not c.text}
        if not right:
            continue
        method = SFT if s.kind == "sft" else s.method
        seeds = found.setdefault(method, {}).setdefault((s.model, s.taught_by), {})
        if s.seed in seeds:
            raise InputError(
                f"{s.label}: another run has its student, teacher, method and seed",
                why="runs of one method that differ by seed alone are draws of one system",
            )
        seeds[s.seed] = right
    return {m: {c: list(seeds.values()) for c, seeds in v.items()} for m, v in found.items()}


def called(systems: Sequence[System], names: Mapping[str, str]) -> dict[tuple[str, str, str], str]:
    """Return what the runs of a student, teacher and method are called together.

    Args:
        systems: The study's systems.
        names: From `results.names_of`.
    """
    main = [s for s in systems if s.kind == "distilled" and not s.ablation and s.label in names]
    return {(s.model, s.taught_by, s.method): names[s.label] for s in main}


def student_tests(
    runs: Runs, names: Mapping[tuple[str, str, str], str] | None = None
) -> list[Test]:
    """Return, per student, teacher and method, the difference from SFT on this student.

    Units are items and, where there are several, seeds of the fixed student (`contrasts`). Holm's
    correction covers two families: the averages, and all benchmarks.

    Args:
        runs: From `runs_of`, or made of item rows.
        names: From `called`; else a system is called by its student, method and teacher.
    """
    names = names or {}
    found = []
    for method in sorted(runs.keys() - {SFT}):
        for student, teacher in sorted(runs[method]):
            before = runs.get(SFT, {}).get((student, ""))
            if not before:
                continue
            groups = [Group(1.0, runs[method][student, teacher]), Group(-1.0, before)]
            for scope, part in _by_scope(groups).items():
                name = names.get((student, teacher, method))
                name = name or subject_of(student, method, teacher)
                found.append(_against_sft(part, student, method, name, scope))
    return corrected(found)


def compare_methods(runs: Runs) -> list[Test]:
    """Return the difference of every two methods, SFT among them, over the cells that both have.

    Students and teachers are taken as they are: the interval says what other items, and where
    there are several other seeds, could have shown. Holm's correction covers two families: the
    averages, and all benchmarks.
    """
    found, differences = [], []
    names = sorted(runs, key=lambda m: (m == SFT, m))
    for a, b in itertools.combinations(names, 2):
        groups = _groups(runs[a], runs[b])
        for scope, part in (_by_scope(groups) if groups else {}).items():
            difference = contrast(part)
            differences.append(difference)
            found.append(_difference(difference, a, b, scope, sum(len(g.runs) for g in part)))
    told = zip(corrected(found), differences, strict=True)
    return [_with_verdict(test, difference) for test, difference in told]


def subject_of(student: str, method: str, teacher: str) -> str:
    """Return the name of a system whatever its seed, as a study labels one: `s/gkd/t`."""
    short = renamed(teacher, lambda one: one.removesuffix("/teacher").removesuffix("/sft"))
    return "/".join(part for part in (student, method, short) if part)


def _groups(first: Mapping[Cell, Sequence[Run]], second: Mapping[Cell, Sequence[Run]]) -> list:
    """Return the groups of the mean difference over shared cells; SFT runs serve every teacher."""
    pairs = {c: c if c in second else (c[0], "") for c in sorted(first)}
    pairs = {c: other for c, other in pairs.items() if other in second}
    share = 1 / len(pairs) if pairs else 0.0
    weights: dict[Cell, float] = {}
    for other in pairs.values():
        weights[other] = weights.get(other, 0.0) - share
    return [Group(share, first[c]) for c in pairs] + [
        Group(w, second[c]) for c, w in weights.items()
    ]


def _by_scope(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups per benchmark that all runs have, and over all of those."""
    common = sorted(set.intersection(*(set(run) for g in groups for run in g.runs)))

    def on(names: Sequence[str]) -> list[Group]:
        return [Group(g.weight, [{b: run[b] for b in names} for run in g.runs]) for g in groups]

    found = {b: on([b]) for b in common}
    return found | ({AVERAGE: on(common)} if common else {})


def _against_sft(groups: Sequence[Group], student: str, method: str, name: str, scope: str) -> Test:
    found = contrast(groups)
    counts = [len(g.runs) for g in groups]
    shared = {
        "table": "student",
        "name": NAME,
        "subject": name,
        "scope": scope,
        "n": found.items,
        "clusters": min(counts) if found.over_seeds else found.items,
        "signature": f"{_sign(found)}|seeds:{counts[0]}-{counts[1]}|benchmarks:{_count(groups)}",
        "family": f"{NAME}, {'average' if scope == AVERAGE else 'tasks'}",
    }
    where = f", mean of {_count(groups)} benchmarks" if scope == AVERAGE else f", {scope}"
    where = "" if scope == AVERAGE and _count(groups) == 1 else where
    text = f"{method} − SFT on {student}{where}: {points(found.estimate)} points"
    reason = _why_no_p(found)
    if reason:
        ends = {"low": found.low, "high": found.high}
        return empty(
            shared, f"{text}; no p can be given: {reason}.", estimate=found.estimate, **ends
        )
    sentence = f"{text} ({_ends(found)}, p = {format_p(found.p)}); {_units(found, student, method)}"
    return Test(**shared, **_numbers(found), sentence=f"{sentence}.")


def _units(found: Contrast, student: str, method: str) -> str:
    """Say what the units are and what the result holds for."""
    if not found.over_seeds:
        return (
            f"units are {found.items:,} items: it holds for other items and these two runs, not "
            "for other seeds or students"
        )
    few, many = found.seeds
    seeds = f"{few}" if few == many else f"{few} and {many}"
    text = (
        f"units are {found.items:,} items and {seeds} seeds: it holds for other items and other "
        f"seeds of {student}, not for other students"
    )
    if found.borrowed:
        text += f"; where {method} or SFT has one seed, it is taken to vary as the other does"
    return text


def _difference(found: Contrast, a: str, b: str, scope: str, runs: int) -> Test:
    shared = {
        "table": "methods",
        "name": "paired difference in accuracy",
        "subject": f"{a} − {b}",
        "scope": scope,
        "n": found.items,
        "clusters": found.items,
        "signature": f"{_sign(found)}|runs:{runs}|margin:{EQUIVALENCE_MARGIN}",
        "family": f"method against method by item, {'average' if scope == AVERAGE else 'tasks'}",
    }
    reason = _why_no_p(found)
    if reason:
        ends = {"low": found.low, "high": found.high}
        text = f"{a} and {b} on {scope}: {reason}."
        return empty(shared, text, estimate=found.estimate, **ends)
    seeds = " and their seeds" if found.over_seeds else ""
    sentence = f"{points(found.estimate)} points, {_ends(found)}, {runs} runs{seeds}, {found.items}"
    return Test(**shared, **_numbers(found), sentence=f"{a} − {b}: {sentence} items")


def _with_verdict(test: Test, found: Contrast) -> Test:
    """Put the verdict first: equivalent, better, or cannot tell.

    Equivalent is two one-sided tests at 5%, that is a 90% interval inside the margin. Better needs
    Holm's p, since several pairs of methods are looked at.
    """
    if math.isnan(test.p):
        return test
    a, b = test.subject.split(" − ")
    if max(abs(end) for end in found.inner) < EQUIVALENCE_MARGIN:
        verdict = "equivalent"
    elif test.p_adjusted < 0.05:
        verdict = "better" if test.estimate > 0 else "worse"
    else:
        verdict = "undecided"
    units = "items and seeds" if found.over_seeds else "items"
    said = {
        "equivalent": f"{a} and {b} are equivalent within {100 * EQUIVALENCE_MARGIN:g} points",
        "better": f"{a} is better than {b}",
        "worse": f"{b} is better than {a}",
        "undecided": f"Cannot tell {a} and {b} apart with this many {units}",
    }
    numbers = f"{test.sentence}, Holm p = {format_p(test.p_adjusted)}"
    sentence = f"{said[verdict]} on {test.scope} ({numbers})."
    return dataclasses.replace(test, verdict=verdict, sentence=sentence)


def _why_no_p(found: Contrast) -> str:
    if not math.isnan(found.p):
        return ""
    return "fewer than two items" if math.isnan(found.low) else "no item tells them apart"


def _numbers(found: Contrast) -> dict[str, float]:
    keys = ("statistic", "estimate", "low", "high", "p")
    return {k: getattr(found, k) for k in keys}


def _ends(found: Contrast) -> str:
    return f"95% interval {points(found.low)} to {points(found.high)}"


def _sign(found: Contrast) -> str:
    return f"seeds x items|t:{found.freedom:.1f}" if found.over_seeds else "flips of items|mid-p"


def _count(groups: Sequence[Group]) -> int:
    return len(groups[0].runs[0])
