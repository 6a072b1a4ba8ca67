"""Join everything a study measured into one tidy, sorted table: its `results.csv`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analyze.intervals import DEFAULT_BOOTSTRAP, Bootstrap, difference, mover, wilson
from kdstudy.errors import InputError
from kdstudy.evaluate.agreement import agreement, chance
from kdstudy.evaluate.fidelity import corpus_bleu, signature
from kdstudy.records import PairScore, Score, System

AVERAGE = "average"
"""Name of the pseudo-benchmark that holds the unweighted mean over benchmarks."""

KEYS = ["kind", "system", "benchmark", "reference", "metric"]
COLUMNS = [
    *("study", "system", "kind", "model", "parameters", "teacher", "student", "method"),
    *("ablation", "temperature", "noise", "seed", "benchmark", "reference", "metric"),
    *("value", "low", "high", "n", "signature"),
]
NUMBERS = {
    **dict.fromkeys(["parameters", "seed", "n"], "Int64"),
    **dict.fromkeys(["temperature", "noise", "value", "low", "high"], "float64"),
}

Pairs = Mapping[tuple[str, str], Sequence[PairScore]]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One system on one benchmark; arrays have one row per item and one column per draw."""

    ids: tuple[str, ...]
    samples: tuple[int, ...]
    outcomes: np.ndarray
    tokens: np.ndarray
    rules: str

    def share(self, *outcomes: str) -> np.ndarray:
        """Return, per item, the share of draws with one of these outcomes."""
        return np.isin(self.outcomes, outcomes).mean(axis=1)


def collect(
    systems: Sequence[System],
    scores: Mapping[str, Sequence[Score]],
    pairs: Pairs,
    parameters: Mapping[str, int],
    study: str,
    *,
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
        pairs: Pair scores by (system label, reference label), for the pairs of `required_pairs`.
        parameters: Number of parameters by model name; unknown models get a missing value.
        study: Name of the study.
        partial: Accept systems, benchmarks and pairs that are not there yet.
        bootstrap: How the bootstrap intervals are drawn.

    Raises:
        InputError: A cell is missing (unless `partial`), doubled, or covers other items than the
            same benchmark does elsewhere.
    """
    _check_labels(systems, scores, pairs)
    cells = {s.label: cells_of(s.label, scores[s.label]) for s in systems if s.label in scores}
    _check_cells(systems, cells, partial)
    rows: list[dict[str, Any]] = []
    for system in systems:
        base = _identity(system, parameters, study)
        found = [
            *_own_rows(cells.get(system.label, {})),
            *_gain_rows(system, systems, cells, bootstrap),
            *_pair_rows(system, systems, pairs, scores, partial, bootstrap),
        ]
        expected = {b for by_name in cells.values() for b in by_name}
        rows += [base | row for row in [*found, *_averages(found, expected)]]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.astype(NUMBERS)
    return table.sort_values(KEYS, kind="stable", ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table so that equal tables give equal bytes (ten significant digits, LF)."""
    table.to_csv(path, index=False, float_format="%.10g", lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote, to the ten digits that it kept.

    Raises:
        InputError: The file is missing or has other columns.
    """
    texts = [c for c in COLUMNS if c not in NUMBERS]
    kinds = dict.fromkeys(texts, "str") | NUMBERS
    try:
        # Only numbers may be missing: an empty text is an empty text, and "nan" a name.
        absent = {column: [""] for column in NUMBERS}
        table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=absent)
        return table[COLUMNS]
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{path}: is not a table of results ({e})") from e


def own_sft(system: System, systems: Sequence[System]) -> System | None:
    """Return the SFT run of a distilled system's student: same seed if there is one.

    Raises:
        InputError: Several SFT runs fit and none has the system's seed.
    """
    if system.kind != "distilled":
        return None
    fits = [s for s in systems if s.kind == "sft" and s.model == system.model]
    same_seed = [s for s in fits if s.seed == system.seed]
    found = same_seed or fits
    if len(found) > 1:
        raise InputError(
            f"{system.label}: {len(found)} SFT runs could be its baseline",
            remedy="give each SFT run of a student its own seed",
        )
    return found[0] if found else None


def required_pairs(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return the pairs a study compares: SFT-teacher, distilled-teacher and distilled-SFT.

    The SFT student is compared with the teachers of the main grid only (paper, Figures 3 and 4).
    """
    wanted: dict[tuple[str, str], None] = {}
    for system in systems:
        if system.kind != "distilled":
            continue
        wanted[system.label, system.teacher] = None
        if sft := own_sft(system, systems):
            wanted[system.label, sft.label] = None
            if not system.ablation:
                wanted[sft.label, system.teacher] = None
    return list(wanted)


def cells_of(label: str, rows: Sequence[Score]) -> dict[str, Cell]:
    """Group one system's graded generations by benchmark, in the order of the items' ids.

    Raises:
        InputError: An (item, draw) is there twice, or items have different draws.
    """
    frame = pd.DataFrame(
        [(r.benchmark, r.example_id, r.sample, r.outcome, r.tokens, r.rule) for r in rows],
        columns=["benchmark", "example_id", "sample", "outcome", "tokens", "rule"],
    )
    key = ["benchmark", "example_id", "sample"]
    doubled = frame[frame.duplicated(key)]
    if len(doubled):
        first = doubled.iloc[0]
        raise InputError(f"{label}: {first.benchmark} item {first.example_id} is scored twice")
    cells = {}
    for benchmark, part in frame.groupby("benchmark", sort=True):
        wide = part.pivot(index="example_id", columns="sample", values=["outcome", "tokens"])
        if wide.isna().any(axis=None):
            raise InputError(f"{label}: {benchmark} items have different numbers of draws")
        cells[str(benchmark)] = Cell(
            ids=tuple(wide.index),
            samples=tuple(wide["outcome"].columns),
            outcomes=wide["outcome"].to_numpy(str),
            tokens=wide["tokens"].to_numpy(float),
            rules="+".join(sorted(set(part.rule))),
        )
    return cells


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
    if AVERAGE in benchmarks:
        raise InputError(f"a benchmark may not be called {AVERAGE!r}", remedy="rename it")
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
    row = {k: v for k, v in dataclasses.asdict(system).items() if k != "label"}
    student = system.model if system.kind in ("sft", "distilled") else ""
    known = parameters.get(system.model, pd.NA)
    return row | {
        "study": study,
        "system": system.label,
        "student": student,
        "parameters": known,
        "reference": "",
    }


def _rate(metric: str, share: float, n: float, note: str) -> dict[str, Any]:
    low, high = wilson(share, n)
    sign = f"{metric}|{note}|ci:wilson-95" if note else f"{metric}|ci:wilson-95"
    return _row(metric, share if n else np.nan, low, high, int(n), sign)


def _row(
    metric: str, value: float, low: float, high: float, n: int, sign: str, **more: Any
) -> dict[str, Any]:
    row = {"metric": metric, "value": value, "low": low, "high": high, "n": n}
    return row | {"signature": sign} | more


def _own_rows(cells: Mapping[str, Cell]) -> Iterator[dict[str, Any]]:
    for benchmark, cell in cells.items():
        n = len(cell.ids)
        note = f"rule:{cell.rules}|draws:{len(cell.samples)}"
        truncated = float(cell.share("truncated").mean())
        right = float(cell.share("correct").mean())
        completed = n * (1 - truncated)
        tokens = cell.tokens.mean(axis=1)
        yield from (
            row | {"benchmark": benchmark}
            for row in (
                _rate("accuracy", right, n, note),
                _rate("accuracy_completed", right * n / max(completed, 1e-12), completed, note),
                _rate("parse_rate", float(cell.share("correct", "wrong").mean()), n, note),
                _rate("truncated_rate", truncated, n, note),
                _row("tokens", tokens.mean(), np.nan, np.nan, n, f"tokens|{note}"),
            )
        )


def _gain_rows(
    system: System, systems: Sequence[System], cells: Mapping, bootstrap: Bootstrap
) -> Iterator[dict[str, Any]]:
    sft = own_sft(system, systems)
    if sft is None:
        return
    before, after = cells.get(sft.label, {}), cells.get(system.label, {})
    for benchmark in sorted(before.keys() & after.keys()):
        old, new = (c[benchmark].share("correct") for c in (before, after))
        where = {"benchmark": benchmark, "reference": sft.label}
        note = f"draws:{len(after[benchmark].samples)}"
        sign = f"gain|{note}|ci:paired-{bootstrap}"
        yield _row("gain", *difference(new - old, bootstrap), len(new), sign, **where)
        flow = {
            "kept_right": old * new,
            "newly_right": (1 - old) * new,
            "newly_wrong": old * (1 - new),
            "still_wrong": (1 - old) * (1 - new),
        }
        for metric, share in flow.items():
            yield _rate(metric, float(share.mean()), len(new), note) | where


def _pair_rows(
    system: System,
    systems: Sequence[System],
    pairs: Pairs,
    scores: Mapping[str, Sequence[Score]],
    partial: bool,
    bootstrap: Bootstrap,
) -> Iterator[dict[str, Any]]:
    own = _by_benchmark(scores.get(system.label, ()))
    for pair in required_pairs(systems):
        if pair[0] != system.label:
            continue
        compared = _by_benchmark(pairs.get(pair, ()))
        other = _by_benchmark(scores.get(pair[1], ()))
        for benchmark, mine in own.items():
            rows = compared.get(benchmark)
            if rows is None:
                if partial:
                    continue
                raise InputError(f"{pair[0]}: never compared with {pair[1]} on {benchmark}")
            _check_pair(pair, benchmark, rows, mine)
            by_accident = chance(mine, other.get(benchmark, ()))
            for row in (*_agreement_rows(rows, by_accident), *_bleu_rows(rows, bootstrap)):
                yield row | {"benchmark": benchmark, "reference": pair[1]}


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


def _agreement_rows(rows: Sequence[PairScore], by_accident: float) -> Iterator[dict[str, Any]]:
    found = agreement(rows, by_accident)
    items = len({r.example_id for r in rows})
    draws = len(rows) / items
    note = f"draws:{draws:g}"
    yield _rate("agreement", found.rate, items, note)
    yield _rate("agreement_both_wrong", found.both_wrong_rate, found.both_wrong_n / draws, note)
    for metric, value in (
        ("kappa", found.kappa),
        ("agreement_lower_bound", found.lower),
        ("agreement_upper_bound", found.upper),
    ):
        yield _row(metric, value, np.nan, np.nan, items, f"{metric}|{note}")


def _bleu_rows(rows: Sequence[PairScore], bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    ids, item = np.unique([r.example_id for r in rows], return_inverse=True)
    counts = np.zeros((len(ids), len(rows[0].counts)), dtype=np.int64)
    np.add.at(counts, item, np.array([r.counts for r in rows]))
    sentences = np.bincount(item, [r.bleu for r in rows]) / np.bincount(item)
    low = high = sentence_low = sentence_high = np.nan
    if len(ids) > 1:
        weights = bootstrap.weights(len(ids))
        sums = np.rint(weights @ counts).astype(int)
        low, high = np.quantile([corpus_bleu([s]) for s in sums.tolist()], [0.025, 0.975])
        means = weights @ sentences / len(ids)
        sentence_low, sentence_high = np.quantile(means, [0.025, 0.975])
    note = f"{signature()}|ci:{bootstrap}"
    value = corpus_bleu(counts.tolist())
    yield _row("bleu_corpus", value, low, high, len(ids), f"bleu_corpus|{note}")
    mean = sentences.mean()
    yield _row(
        "bleu_sentence", mean, sentence_low, sentence_high, len(ids), f"bleu_sentence|{note}"
    )


def _averages(rows: Sequence[dict[str, Any]], benchmarks: set[str]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.get("reference", ""), row["metric"]), []).append(row)
    for (reference, metric), part in groups.items():
        if {r["benchmark"] for r in part} != benchmarks:
            continue
        value, low, high = mover(*([r[k] for r in part] for k in ("value", "low", "high")))
        sign = f"{metric}|mean of {len(part)} benchmarks|ci:mover-95"
        n = sum(r["n"] for r in part)
        yield _row(metric, value, low, high, n, sign, benchmark=AVERAGE, reference=reference)
