"""Graded completions of systems -> how good each is, and paired tests against the first."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.families import corrected
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, difference, mean_of, wilson
from kdstudy.analysis.items import analyze_items
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points
from kdstudy.errors import InputError
from kdstudy.records import Score, read_facts, read_records

# What an answer is that only its grade is known of.
_UNKNOWN = {"benchmark": "items", "sample": 0, "completion": "", "extracted": "", "rule": "given",
            "tokens": 0}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graded:
    """One system's scores.

    Attributes:
        system: What it is called.
        scores: Its rows, of one benchmark or several.
        items: How many items a benchmark has, where the file says so: some may not be scored.
    """

    system: str
    scores: Sequence[Score]
    items: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How good one system is on one benchmark.

    Attributes:
        metric: `accuracy`, or `rouge_l` of free texts.
        value, low, high: Mean over items (of each one's mean over its draws, however many) with
            its 95% interval, as fractions: Wilson's for an accuracy, bootstrap for ROUGE-L.
        n: Items that are scored.
        of: Items that the benchmark has; None where nothing says it.
        draws: Most answers to one item.
    """

    system: str
    benchmark: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    of: int | None
    draws: int

    @property
    def sentence(self) -> str:
        """The level in one line; a part of a benchmark is never called the whole."""
        part = f"{self.n:,}" if self.of in (None, self.n) else f"{self.n:,} of {self.of:,}"
        drawn = "" if self.draws == 1 else f", {self.draws} answers each"
        name = "ROUGE-L" if self.metric == "rouge_l" else "accuracy"
        ends = f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return (
            f"{self.system} on {self.benchmark}: {name} {100 * self.value:.1f}% of {part} items"
            f"{'' if math.isnan(self.low) else ends}{drawn}"
        )


def read_graded(paths: Sequence[Path]) -> list[Graded]:
    """Return the systems of `scores.parquet` files, in order, named by what tells them apart.

    Raises:
        InputError: A file holds no scores, or is given twice.
    """
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        twice = next(p for p in paths if whole.count(p.resolve()) > 1)
        raise InputError(f"{twice}: is given twice", remedy="name each file once")
    found = []
    for path, name in zip(paths, _names(whole), strict=True):
        scores = read_records(path, Score)
        if not scores:
            raise InputError(f"{path}: holds no scores")
        found.append(Graded(system=name, scores=scores, items=read_facts(path).get("items", {})))
    return found


def scores_of(items: pd.DataFrame) -> list[Score]:
    """Return a table of one system's graded answers as scores.

    Args:
        items: A column of `Score` each, as far as they are known: example_id, and `outcome` or
            `correct` (0 or 1). What is missing is one benchmark called `items`, read by one rule,
            with one answer per item.

    Raises:
        InputError: It has neither, or `correct` is something else.
    """
    missing = [c for c in ("example_id",) if c not in items]
    missing += [] if {"outcome", "correct"} & set(items) else ["correct"]
    if missing:
        raise InputError(f"the table of items has no column {missing[0]}")
    if "outcome" not in items:
        wrong = items[~items.correct.isin([0, 1])]
        if len(wrong):
            raise InputError(
                f"correct of row {wrong.index[0]} is {wrong.correct.iloc[0]}, not 0 or 1"
            )
        right = items.correct.astype(bool)
        items = items.assign(outcome=right.map({True: "correct", False: "wrong"}))
    if "quality" not in items:
        items = items.assign(quality=(items.outcome == "correct").astype(float))
    items = items.assign(**{k: v for k, v in _UNKNOWN.items() if k not in items})
    kinds = {"example_id": str, "sample": int, "quality": float, "tokens": int}
    names = [f.name for f in dataclasses.fields(Score) if f.name in items]
    rows = items[names].astype(kinds).to_dict("records")
    lists = [name for name in names if name.startswith("option_")]
    return [Score(**row | {name: tuple(row[name]) for name in lists}) for row in rows]


def levels(graded: Graded) -> list[Level]:
    """Return how good a system is, per benchmark."""
    found = []
    for benchmark, rows in _by_benchmark(graded.scores).items():
        shares = _shares(rows)
        text = _is_text(rows)
        quality = np.array(list(shares.values()))
        mean, *drawn = mean_of(quality, DEFAULT_BOOTSTRAP)
        low, high = drawn if text else wilson(mean, len(shares))
        found.append(
            Level(
                system=graded.system,
                benchmark=benchmark,
                metric="rouge_l" if text else "accuracy",
                value=mean,
                low=low,
                high=high,
                n=len(shares),
                of=graded.items.get(benchmark),
                draws=max(Counter(row.example_id for row in rows).values()),
            )
        )
    return found


def against_first(systems: Sequence[Graded]) -> list[Test]:
    """Return paired tests of every system against the first, over the items that both have.

    Of answers with one draw per item the exact McNemar test; of several draws, and of free texts,
    the paired bootstrap interval of the difference alone. Holm and BH within two families
    (benchmarks, averages).

    Raises:
        InputError: Two have no benchmark or no item in common, other draws, or were read by two
            rules.
    """
    base, *others = systems
    found = [test for other in others for test in _pair(other, base)]
    return corrected(found)


def _pair(system: Graded, base: Graded) -> list[Test]:
    mine, theirs = _by_benchmark(system.scores), _by_benchmark(base.scores)
    common = [benchmark for benchmark in mine if benchmark in theirs]
    if not common:
        raise InputError(
            f"{system.system} and {base.system} share no benchmark",
            why=f"the one has {', '.join(mine)}, the other {', '.join(theirs)}",
        )
    found, frames, counts, single = [], [], {}, True
    for benchmark in common:
        a, b = _matched(system.system, mine[benchmark], base.system, theirs[benchmark])
        whole = system.items.get(benchmark, base.items.get(benchmark))
        if _is_text(a):
            found.append(_texts(system.system, base.system, a, b, whole))
            continue
        frames += [_frame(system.system, a), _frame(base.system, b)]
        counts[benchmark] = (*_flow(a, b), whole)
        single = single and len({row.sample for row in a}) == 1
    if frames:
        tests = analyze_items(pd.concat(frames, ignore_index=True), base.system)
        several = len(counts) > 1
        found += [
            _said(test, base.system, counts, single)
            for test in tests
            if test.table == "paired" and (several or test.scope != AVERAGE)
        ]
    return found


def _matched(
    system: str, mine: Sequence[Score], base: str, theirs: Sequence[Score]
) -> tuple[list[Score], list[Score]]:
    """Return the rows of the items that both have, in one order."""
    benchmark = mine[0].benchmark
    a, b = ({(s.example_id, s.sample): s for s in rows} for rows in (mine, theirs))
    for name, rows, keys in ((system, mine, a), (base, theirs, b)):
        if len(keys) < len(rows):
            raise InputError(
                f"{name}: {len(rows) - len(keys)} items of {benchmark} are there twice"
            )
    if {sample for _, sample in a} != {sample for _, sample in b}:
        raise InputError(
            f"{system} and {base} have different samples of {benchmark}",
            why="a comparison is between two answers to one item",
        )
    rules = {s.rule for s in (*mine, *theirs)}
    if len(rules) > 1:
        raise InputError(
            f"{system} and {base}: {benchmark} was read by the rules {' and '.join(sorted(rules))}",
            remedy="score both with the same rule",
        )
    both = sorted(a.keys() & b.keys())
    if not both:
        raise InputError(f"{system} and {base} have no item of {benchmark} in common")
    return [a[key] for key in both], [b[key] for key in both]


def _said(
    test: Test, base: str, counts: dict[str, tuple[int, int, int | None]], single: bool
) -> Test:
    """Return a test in the words of two systems; `items` speaks of SFT runs and their students."""
    subject = f"{test.subject} − {base}"
    there = counts.values() if test.scope == AVERAGE else [counts[test.scope]]
    better, worse = sum(c[0] for c in there), sum(c[1] for c in there)
    wholes = [c[2] for c in there]
    whole = None if None in wholes else sum(w or 0 for w in wholes)
    sentence = f"{subject} on {test.scope}: {_effect(test)}, {_items(test.n, whole)}"
    if not single:
        p = "no p: several answers per item" if math.isnan(test.p) else f"p = {format_p(test.p)}"
        sentence += f"; {p}"
    elif better + worse == 0:
        sentence += "; no item tells them apart"
    else:
        sentence += (
            f"; {better:,} right by {test.subject} alone, {worse:,} by {base} alone, "
            f"p = {format_p(test.p)}" + " (exact McNemar)" * (test.scope != AVERAGE)
        )
    where = "average" if test.scope == AVERAGE else "tasks"
    return dataclasses.replace(
        test,
        name="paired difference in accuracy",
        subject=subject,
        family=f"difference from {base} by item, {where}",
        sentence=f"{sentence}.",
    )


def _texts(
    system: str, base: str, mine: Sequence[Score], theirs: Sequence[Score], whole: int | None
) -> Test:
    a, b = _shares(mine), _shares(theirs)
    change = np.array([a[item] - b[item] for item in a])
    value, low, high = difference(change, DEFAULT_BOOTSTRAP)
    shared = {
        "table": "paired",
        "name": "paired difference in ROUGE-L",
        "subject": f"{system} − {base}",
        "scope": mine[0].benchmark,
        "n": len(change),
        "clusters": len(change),
        "signature": f"paired-rouge-l|ci:paired-{DEFAULT_BOOTSTRAP}",
    }
    effect = {"estimate": value, "low": low, "high": high}
    test = empty(shared, "", **effect)
    said = f"{test.subject} on {test.scope}: {_effect(test)} of ROUGE-L, {_items(test.n, whole)}."
    return dataclasses.replace(test, sentence=said)


def _effect(test: Test) -> str:
    ends = f"95% interval {points(test.low)} to {points(test.high)}"
    return f"{points(test.estimate)} points, {'no interval' if math.isnan(test.low) else ends}"


def _items(count: int, whole: int | None) -> str:
    part = f"{count:,}" if whole in (None, count) else f"{count:,} of {whole:,}"
    return f"{part} item" if part == "1" else f"{part} items"


def _flow(mine: Sequence[Score], theirs: Sequence[Score]) -> tuple[int, int]:
    """Return how many rows only the first has right, and only the second."""
    pairs = [(a.quality, b.quality) for a, b in zip(mine, theirs, strict=True)]
    return sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)


def _frame(system: str, rows: Sequence[Score]) -> pd.DataFrame:
    table: dict[str, list[Any]] = {
        "benchmark": [r.benchmark for r in rows],
        "example_id": [r.example_id for r in rows],
        "sample": [r.sample for r in rows],
        "correct": [int(r.outcome == "correct") for r in rows],
    }
    return pd.DataFrame(table).assign(system=system)


def _shares(rows: Sequence[Score]) -> dict[str, float]:
    """Return each item's mean quality over its draws, in the order of the items' ids."""
    drawn: dict[str, list[float]] = {}
    for row in rows:
        drawn.setdefault(row.example_id, []).append(row.quality)
    return {item: sum(quality) / len(quality) for item, quality in sorted(drawn.items())}


def _by_benchmark(scores: Sequence[Score]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for row in scores:
        found.setdefault(row.benchmark, []).append(row)
    return found


def _is_text(rows: Sequence[Score]) -> bool:
    return rows[0].is_text


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders that differ: `a/scores.parquet` is `a`."""
    parts = [
        path.parent.parts if path.stem == "scores" else (*path.parent.parts, path.stem)
        for path in paths
    ]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
