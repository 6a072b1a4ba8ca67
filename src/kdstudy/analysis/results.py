"""Join everything a study measured into one tidy, sorted table: its `results.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.csv_rows import read_rows
from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap
from kdstudy.analysis.measures import (
    AVERAGE,
    HELD_OUT,
    Row,
    agreement_change,
    averages,
    gain_rows,
    own_rows,
    pair_rows,
    paired_rows,
    token_rows,
)
from kdstudy.compared_pairs import compared_pairs, own_sft
from kdstudy.errors import InputError
from kdstudy.evaluation.agreement import chance as chance_agreement
from kdstudy.measures.cell import Cell, cells_of
from kdstudy.records import Overlap, PairScore, Score, System, parted

KEYS = ["kind", "system", "benchmark", "reference", "metric"]
COLUMNS = [
    *("study", "system", "kind", "model", "parameters", "teacher", "student", "method"),
    *("ablation", "setting", "temperature", "noise", "seed"),
    *("benchmark", "reference", "metric"),
    *("value", "low", "high", "n", "signature"),
]
NUMBERS = {
    **dict.fromkeys(["parameters", "seed", "n"], "Int64"),
    **dict.fromkeys(["temperature", "noise", "value", "low", "high"], "float64"),
}
TEXT = pd.StringDtype("python", na_value=np.nan)
"""Type of the texts: Arrow's, the default, costs milliseconds a step in tables of this size."""

_TYPES = {**dict.fromkeys([c for c in COLUMNS if c not in NUMBERS], TEXT), **NUMBERS}

_ROUNDING = 1e-12
"""A mean of thousands of rates is off by less."""

_SYSTEM = ["kind", "model", "teacher", "method", "ablation", "setting", "temperature", "noise"]
"""What runs share that are draws of one system."""

Pairs = Mapping[tuple[str, str], Sequence[PairScore]]
Overlaps = Mapping[str, Mapping[str, Overlap]]
Tokens = Mapping[tuple[str, str], pd.DataFrame]


def collect(
    systems: Sequence[System],
    scores: Mapping[str, Sequence[Score]],
    pairs: Pairs,
    parameters: Mapping[str, int],
    study: str,
    *,
    overlaps: Overlaps | None = None,
    tokens: Tokens | None = None,
    chance: Mapping[str, float] | None = None,
    partial: bool = False,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """Return the study's one long table, sorted; equal studies give equal tables.

    Rates are fractions with Wilson 95% intervals over items, BLEU is 0-100 with a bootstrap
    interval over items. `parse_rate` is the share of answers that were found and graded (outcome
    correct or wrong). For a distilled system, `gain`, `kept_right`, `newly_right`, `newly_wrong`
    and `still_wrong` compare it, item by item, with the SFT run named in `reference`. Rows of the
    benchmark `average` are unweighted means over benchmarks. With several draws per item an item
    still counts once.

    Args:
        systems: Every system of the study.
        scores: Graded generations by system label.
        pairs: Pair scores by (system label, reference label), for the pairs of `compared_pairs`.
        parameters: Number of parameters by model name; unknown models get a missing value.
        study: Name of the study.
        overlaps: How each item occurs in the corpus, by benchmark and item; None if not looked at.
        tokens: Token-level sums by (system label, reference label), as `measures.token_rows` takes.
        chance: Chance accuracy by benchmark; the signatures of accuracies tell it on.
        partial: Accept systems, benchmarks and pairs that are not there yet.
        bootstrap: How the bootstrap intervals are drawn.

    Raises:
        InputError: A cell is missing (unless `partial`), doubled, or covers other items than the
            same benchmark does elsewhere.
    """
    _check_labels(systems, scores, pairs)
    cells = {s.label: cells_of(s.label, scores[s.label]) for s in systems if s.label in scores}
    _check_cells(systems, cells, partial)
    known = {b: cell.text for by_name in cells.values() for b, cell in by_name.items()}
    texts = {b for b, text in known.items() if text}
    rows: list[Row] = []
    for system in systems:
        base = _identity(system, parameters, study)
        found = [
            *own_rows(cells.get(system.label, {}), overlaps or {}, bootstrap),
            *_gains(system, systems, cells, overlaps or {}, bootstrap),
            *_pairs_of(system, systems, pairs, scores, cells, partial, bootstrap),
        ]
        found += averages(found, known.keys() - texts, texts)
        for (label, reference), frame in (tokens or {}).items():
            if label == system.label:
                found += [r | {"reference": reference} for r in token_rows(frame, bootstrap)]
        rows += [base | row for row in found]
    for row in rows:
        if row["metric"] == "accuracy" and row["benchmark"] in (chance or {}):
            row["signature"] += f"|chance:{chance[row['benchmark']]:.10g}"
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.astype(_TYPES)
    return table.sort_values(KEYS, kind="stable", ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table so that equal tables give equal bytes (ten significant digits, LF).

    What is 0 but for rounding is written as 0.
    """
    ends = [c for c in ("value", "difference", "low", "high") if c in table]
    table = table.assign(**table[ends].mask(table[ends].abs() < _ROUNDING, 0.0))
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote, to the ten digits that it kept.

    Raises:
        InputError: The file is missing or has other columns.
    """
    try:
        table = read_rows(path)
    except InputError as e:
        raise InputError(f"{path}: is not a table of results ({e.what})") from e
    return typed(table, path)


def typed(table: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Return the text cells of such a file as `collect`'s columns and types.

    Only numbers may be missing: an empty text is an empty text, and "nan" a name.

    Raises:
        InputError: A column is missing, or a cell of a number is none.
    """
    try:
        if "setting" not in table:  # written before ablations could vary any field
            table = table.assign(setting="")
        numbers = table[[*NUMBERS]]
        table = table[COLUMNS].assign(**numbers.mask(numbers == ""))
        return table.astype(_TYPES).reset_index(drop=True)
    except (ValueError, KeyError) as e:
        raise InputError(f"{path}: is not a table of results ({e})") from e


def with_teacher(rows: pd.DataFrame) -> pd.Series:
    """Say of each row whether its `reference` is one of its run's teachers."""
    both = zip(rows.reference, rows.teacher, strict=True)
    return pd.Series([r in parted(t) for r, t in both], index=rows.index, dtype=bool)


def names_of(table: pd.DataFrame) -> dict[str, str]:
    """Return the name of the system that each run is a draw of, by the run's label.

    Runs are draws of one system where all but the seed is the same. Its name is their label without
    the seed at its end; a system of one run has that run's whole label.
    """
    runs = table.drop_duplicates("system")
    labels = list(runs.system)
    bare = {s: s.removesuffix(f"/seed={seed}") for s, seed in zip(labels, runs.seed, strict=True)}
    same = runs[_SYSTEM].assign(label=[bare[s] for s in labels])
    # Two with one seed differ in something that no column tells: there labels decide.
    twice = runs.assign(twice=runs.duplicated([*_SYSTEM, "seed"], keep=False))
    twice = twice.groupby(_SYSTEM, dropna=False).twice.transform("any")
    same["label"] = same.label.where(twice, "")
    found: dict[str, str] = {}
    taken: set[str] = set()
    for _, part in runs.groupby([same[c] for c in same], sort=False, dropna=False):
        own = list(part.system)
        name = bare[own[0]] if len(own) > 1 else own[0]
        name = own[0] if name in taken else name
        taken.add(name)
        found |= dict.fromkeys(own, name)
    return found


def _check_labels(systems: Sequence[System], scores: Mapping, pairs: Pairs) -> None:
    labels = [s.label for s in systems]
    doubled = sorted({x for x in labels if labels.count(x) > 1})
    if doubled:
        raise InputError(f"two systems are called {doubled[0]}")
    unknown = sorted({*scores, *(x for pair in pairs for x in pair)} - set(labels))
    if unknown:
        raise InputError(f"scores of {unknown[0]}, which is no system of the study")


def _check_cells(systems: Sequence[System], cells: Mapping, partial: bool) -> None:
    benchmarks = sorted({b for by_name in cells.values() for b in by_name})
    taken = sorted({AVERAGE, HELD_OUT} & set(benchmarks))
    if taken:
        raise InputError(f"a benchmark may not be called {taken[0]!r}", remedy="rename it")
    for benchmark in benchmarks:
        first = next(c[benchmark] for c in cells.values() if benchmark in c)
        for system in systems:
            cell = cells.get(system.label, {}).get(benchmark)
            if cell is None and not partial:
                raise InputError(f"{system.label}: no scores on {benchmark}")
            if cell is not None and (cell.ids, cell.samples) != (first.ids, first.samples):
                raise InputError(
                    f"{system.label}: {benchmark} covers other items than elsewhere",
                    why="systems are compared item by item",
                )


def _identity(system: System, parameters: Mapping[str, int], study: str) -> dict[str, Any]:
    row = {k: v for k, v in system.row.items() if k not in ("label", "mixture", "after")}
    row |= {"teacher": system.taught_by}
    student = system.model if system.kind in ("sft", "distilled") else ""
    known = parameters.get(system.model, pd.NA)
    return row | {
        "study": study,
        "system": system.label,
        "student": student,
        "parameters": known,
        "reference": "",
    }


def _gains(
    system: System, systems: Sequence[System], cells: Mapping, overlaps: Overlaps, boot: Bootstrap
) -> Iterator[Row]:
    sft = own_sft(system, systems)
    if sft is not None:
        before, after = cells.get(sft.label, {}), cells.get(system.label, {})
        yield from gain_rows(before, after, sft.label, overlaps, boot)


def _pairs_of(
    system: System,
    systems: Sequence[System],
    pairs: Pairs,
    scores: Mapping[str, Sequence[Score]],
    cells: Mapping[str, Mapping[str, Cell]],
    partial: bool,
    boot: Bootstrap,
) -> Iterator[Row]:
    own = _by_benchmark(scores.get(system.label, ()))
    sft = own_sft(system, systems)
    # A teacher that was not fine-tuned is known by what was compared with it.
    given = [pair for pair in pairs if system.kind == "sft" and pair[0] == system.label]
    for pair in dict.fromkeys([*compared_pairs(systems), *sorted(given)]):
        if pair[0] != system.label:
            continue
        compared = _by_benchmark(pairs.get(pair, ()))
        other = _by_benchmark(scores.get(pair[1], ()))
        before = _by_benchmark(pairs.get((sft.label, pair[1]), ())) if sft else {}
        for benchmark, mine in own.items():
            rows = compared.get(benchmark)
            if rows is None:
                if partial:
                    continue
                raise InputError(f"{pair[0]}: never compared with {pair[1]} on {benchmark}")
            _check_pair(pair, benchmark, rows, mine)
            cell = cells[pair[0]][benchmark]
            by_accident = chance_agreement(mine, other.get(benchmark, ()))
            written = cell.options is None
            found = [*pair_rows(rows, by_accident, cell.text, boot, written=written)]
            theirs = cells.get(pair[1], {}).get(benchmark)
            if theirs is not None:
                found += paired_rows(cell, theirs, boot)
            if benchmark in before and not cell.text:
                found.append(agreement_change(before[benchmark], rows, boot))
            yield from (row | {"benchmark": benchmark, "reference": pair[1]} for row in found)


def _by_benchmark(rows: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.benchmark, []).append(row)
    return found


def _check_pair(
    pair: tuple[str, str], benchmark: str, rows: Sequence[PairScore], scores: Sequence[Score]
) -> None:
    seen = sorted((r.example_id, r.sample) for r in rows)
    if seen != sorted((s.example_id, s.sample) for s in scores):
        raise InputError(
            f"{pair[0]} against {pair[1]}: {benchmark} pairs do not cover each scored item once"
        )
