"""Completions that any system made: matched with a benchmark's items, accounted for, graded."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kdstudy.errors import InputError
from kdstudy.evaluate.benchmarks.base import Benchmark
from kdstudy.evaluate.completion_rows import Answer, answers
from kdstudy.evaluate.extract import Rule
from kdstudy.evaluate.fidelity import pair
from kdstudy.evaluate.score import score
from kdstudy.records import Generation, PairScore, Score

_SHOWN = 5  # lines of doubled and of unknown rows that are named


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What became of a file's rows.

    Attributes:
        matched: Rows that answer an item; these are scored.
        missing: Answers that are not there: items times samples, less `matched`.
        doubled: Rows left out because an earlier row answers the same item and sample.
        unknown: Rows left out because no item has their id or question.
        unstated: Matched rows that do not say how they ended; they count as ended.
        left_out: The first doubled and the first unknown rows, in words, with their lines.
    """

    matched: int
    missing: int
    doubled: int
    unknown: int
    unstated: int
    left_out: tuple[str, ...]


def read(path: Path, benchmark: Benchmark) -> tuple[list[Generation], Account]:
    """Return the completions of a benchmark's items, in the file's order, and an account.

    A row belongs to the item with its id, else to the item with its question: the same text, or
    the same but for case and spacing. Rows for a question that the benchmark repeats belong to the
    repetitions in order of appearance.

    Raises:
        InputError: The file cannot be read, a row is malformed (its line is named) or of another
            benchmark, or no row matches.
    """
    items = _Items(benchmark)
    found: list[Generation] = []
    left_out: dict[str, list[str]] = {"doubled": [], "unknown": []}
    unstated = 0
    for row in answers(path, benchmark.name):
        item, known = items.claim(row)
        if not item:
            left_out["doubled" if known else "unknown"].append(_named(row))
            continue
        unstated += not row.stop
        found.append(_generation(row, benchmark.name, item))
    if not found:
        _refuse(path, benchmark.name, len(left_out["unknown"]))
    samples = {g.sample for g in found}
    account = Account(
        matched=len(found),
        missing=len(benchmark.examples) * len(samples) - len(found),
        doubled=len(left_out["doubled"]),
        unknown=len(left_out["unknown"]),
        unstated=unstated,
        left_out=tuple(f"{kind}: {w}" for kind, rows in left_out.items() for w in rows[:_SHOWN]),
    )
    return found, account


def grade(generations: Sequence[Generation], benchmark: Benchmark, rule: Rule) -> list[Score]:
    """Return the scores of the items that are there, in benchmark order, then by sample.

    Args:
        generations: From `read`.
        benchmark: Their benchmark.
        rule: `reference` or `corrected`.
    """
    samples: defaultdict[int, dict[str, Generation]] = defaultdict(dict)
    for generation in generations:
        samples[generation.sample][generation.example_id] = generation
    scores = []
    for rows in samples.values():
        there = tuple(e for e in benchmark.examples if e.id in rows)
        scores += score(rows.values(), dataclasses.replace(benchmark, examples=there), rule)
    place = {example.id: i for i, example in enumerate(benchmark.examples)}
    return sorted(scores, key=lambda s: (place[s.example_id], s.sample))


def compare(
    scores_a: Sequence[Score], scores_b: Sequence[Score]
) -> tuple[list[Score], list[Score], list[PairScore]]:
    """Return the scores of the items that both systems answered, of each, and their comparison.

    Raises:
        InputError: The two have no item in common, other samples, or were read by two rules.
    """
    samples_a, samples_b = ({s.sample for s in scores} for scores in (scores_a, scores_b))
    if samples_a != samples_b:
        raise InputError(
            "the two systems have different samples: "
            f"{_listed(samples_a)} against {_listed(samples_b)}",
            why="a comparison is between two answers to one item",
            remedy='give both the same "sample" numbers',
        )
    keys_a, keys_b = ({(s.example_id, s.sample) for s in scores} for scores in (scores_a, scores_b))
    both = keys_a & keys_b
    if not both:
        raise InputError("the two systems have no item in common")
    a, b = ([s for s in x if (s.example_id, s.sample) in both] for x in (scores_a, scores_b))
    return a, b, pair(a, b)


class _Items:
    """A benchmark's items by id and by question, and which of them are answered."""

    def __init__(self, benchmark: Benchmark):
        self._ids = {example.id for example in benchmark.examples}
        self._exact: defaultdict[str, list[str]] = defaultdict(list)
        self._loose: defaultdict[str, list[str]] = defaultdict(list)
        self._taken: set[tuple[str, int]] = set()
        for example in benchmark.examples:
            self._exact[example.question.strip()].append(example.id)
            self._loose[_loose(example.question)].append(example.id)

    def claim(self, row: Answer) -> tuple[str, bool]:
        """Return the item that a row answers, "" if none is left, and whether there ever was one.

        An item is given away once per sample.
        """
        known = False
        for item in self._candidates(row):
            known = True
            if (item, row.sample) not in self._taken:
                self._taken.add((item, row.sample))
                return item, True
        return "", known

    def _candidates(self, row: Answer) -> Iterator[str]:
        by_id = [i for i in row.ids if i in self._ids][:1]
        yield from by_id
        if row.question and not by_id:
            yield from self._exact.get(row.question.strip(), ())
            yield from self._loose.get(_loose(row.question), ())


def _generation(row: Answer, benchmark: str, item: str) -> Generation:
    return Generation(
        benchmark=benchmark,
        example_id=item,
        sample=row.sample,
        completion=row.completion,
        stop=row.stop or "eos",
        tokens=row.tokens,
    )


def _refuse(path: Path, benchmark: str, rows: int) -> NoReturn:
    if not rows:
        raise InputError(f"{path}: holds no completions")
    raise InputError(
        f"{path}: no row matches an item of {benchmark}",
        why=f"{rows} rows have ids or questions that it does not have",
        remedy="name the right benchmark, or give each row the item's question as it stands there",
    )


def _loose(question: str) -> str:
    return " ".join(question.casefold().split())


def _named(row: Answer) -> str:
    said = row.ids[0] if row.ids else " ".join(row.question.split())
    return f"{row.where}: {said[:60]}"


def _listed(samples: set[int]) -> str:
    return ", ".join(map(str, sorted(samples)))
