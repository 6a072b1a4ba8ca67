"""What is measured of one system or pair: rows of the results table, each with its interval."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.intervals import Bootstrap, difference, mean_of, mover, wilson
from kdstudy.answers.repetition import repetition
from kdstudy.errors import InputError
from kdstudy.evaluation.agreement import agreement, changes
from kdstudy.evaluation.fidelity import FOUR_GRAMS, corpus_bleu, signature
from kdstudy.records import Overlap, PairScore, Score

AVERAGE = "average"
"""Name of the pseudo-benchmark that holds the unweighted mean over benchmarks."""

HELD_OUT = "held_out"
"""Name of the pseudo-benchmark of token-level measures: the corpus's validation rows."""

GROUPS: dict[str, tuple[Overlap, ...]] = {
    "clean": ("none",),
    "renumbered": ("masked",),
    "contaminated": ("exact", "normalised"),
}
"""Items apart by what the corpus holds of them: nothing, the question with other numbers, it."""

_OF_TEXTS = {"rouge_l", "rouge_l_gain"}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One system on one benchmark; arrays have one row per item and one column per draw.

    Attributes:
        completions: The texts themselves.
        text: The benchmark asks for free texts: `quality` is ROUGE-L, and nothing is right.
    """

    ids: tuple[str, ...]
    samples: tuple[int, ...]
    outcomes: np.ndarray
    quality: np.ndarray
    tokens: np.ndarray
    completions: np.ndarray
    rules: str
    text: bool

    def share(self, *outcomes: str) -> np.ndarray:
        """Return, per item, the share of draws with one of these outcomes."""
        return np.isin(self.outcomes, outcomes).mean(axis=1)

    def within(self, overlaps: Mapping[str, Overlap], group: str) -> np.ndarray:
        """Return, per item, whether it belongs to one of `GROUPS`."""
        return np.array([overlaps[i] in GROUPS[group] for i in self.ids])


def cells_of(label: str, rows: Sequence[Score]) -> dict[str, Cell]:
    """Group one system's graded generations by benchmark, in the order of the items' ids.

    Raises:
        InputError: An (item, draw) is there twice, or items have different draws.
    """
    values = ["outcome", "quality", "tokens", "completion"]
    columns = ["benchmark", "example_id", "sample", *values, "rule"]
    frame = pd.DataFrame([[getattr(r, c) for c in columns] for r in rows], columns=columns)
    doubled = frame[frame.duplicated(columns[:3])]
    if len(doubled):
        first = doubled.iloc[0]
        raise InputError(f"{label}: {first.benchmark} item {first.example_id} is scored twice")
    cells = {}
    for benchmark, part in frame.groupby("benchmark", sort=True):
        wide = part.pivot(index="example_id", columns="sample", values=values)
        if wide.isna().any(axis=None):
            raise InputError(f"{label}: {benchmark} items have different numbers of draws")
        rules = "+".join(sorted(set(part.rule)))
        cells[str(benchmark)] = Cell(
            ids=tuple(wide.index),
            samples=tuple(wide["outcome"].columns),
            outcomes=wide["outcome"].to_numpy(str),
            quality=wide["quality"].to_numpy(float),
            tokens=wide["tokens"].to_numpy(float),
            completions=wide["completion"].to_numpy(object),
            rules=rules,
            text=rules.startswith("text-"),
        )
    return cells


def own_rows(
    cells: Mapping[str, Cell], overlaps: Mapping[str, Mapping[str, Overlap]], bootstrap: Bootstrap
) -> Iterator[Row]:
    """Yield accuracy (or ROUGE-L), parse rate, truncation, length and repetition of one system."""
    for benchmark, cell in cells.items():
        note = f"rule:{cell.rules}|draws:{len(cell.samples)}"
        if cell.text:
            rows = [_mean("rouge_l", cell.quality.mean(axis=1), note, bootstrap)]
        else:
            rows = [*_accuracies(cell, note), *_apart(cell, overlaps.get(benchmark), note)]
        n, truncated = len(cell.ids), float(cell.share("truncated").mean())
        tokens = float(cell.tokens.mean())
        rows.append(_rate("truncated_rate", truncated, n, note))
        rows.append(_row("tokens", tokens, np.nan, np.nan, n, f"tokens|{note}"))
        repeated = np.array([[repetition(text) for text in item] for item in cell.completions])
        rows.append(_mean("repetition", repeated.mean(axis=1), f"seq-rep-4|{note}", bootstrap))
        yield from (row | {"benchmark": benchmark} for row in rows)


def gain_rows(
    before: Mapping[str, Cell],
    after: Mapping[str, Cell],
    reference: str,
    overlaps: Mapping[str, Mapping[str, Overlap]],
    bootstrap: Bootstrap,
) -> Iterator[Row]:
    """Yield a distilled system's gain over `reference`, its SFT run, and the flow behind it."""
    for benchmark in sorted(before.keys() & after.keys()):
        old, new = before[benchmark], after[benchmark]
        where = {"benchmark": benchmark, "reference": reference}
        note = f"draws:{len(new.samples)}"
        sign = f"{note}|ci:paired-{bootstrap}"
        if new.text:
            change = (new.quality - old.quality).mean(axis=1)
            yield _change("rouge_l_gain", change, sign, bootstrap) | where
            continue
        old_right, new_right = old.share("correct"), new.share("correct")
        change = new_right - old_right
        yield _change("gain", change, sign, bootstrap) | where
        for group in GROUPS if benchmark in overlaps else ():
            inside = new.within(overlaps[benchmark], group)
            if inside.any():
                yield _change(f"gain_{group}", change[inside], sign, bootstrap) | where
        flow = {
            "kept_right": old_right * new_right,
            "newly_right": (1 - old_right) * new_right,
            "newly_wrong": old_right * (1 - new_right),
            "still_wrong": (1 - old_right) * (1 - new_right),
        }
        for metric, share in flow.items():
            yield _rate(metric, float(share.mean()), len(new.ids), note) | where


def pair_rows(
    rows: Sequence[PairScore], by_accident: float, text: bool, bootstrap: Bootstrap
) -> Iterator[Row]:
    """Yield agreement and fidelity of two systems on one benchmark.

    Args:
        rows: The pair's items.
        by_accident: Agreement expected by accident (`agreement.chance`).
        text: The benchmark asks for free texts, where there is no answer to agree on.
        bootstrap: How the bootstrap intervals are drawn.
    """
    if not text:
        yield from _agreement_rows(rows, by_accident)
    yield from _bleu_rows(rows, bootstrap)
    frame = pd.DataFrame(
        [(r.example_id, r.agree, r.bleu, r.rouge_l, r.steps) for r in rows],
        columns=["item", "agree", "bleu", "fidelity_rouge_l", "fidelity_steps"],
    )
    same = frame[frame.agree].rename(
        columns={"bleu": "bleu_same_answer", "fidelity_steps": "steps_same_answer"}
    )
    wanted = [(frame, "fidelity_rouge_l"), (frame, "fidelity_steps")]
    if not text:
        wanted += [(same, "bleu_same_answer"), (same, "steps_same_answer")]
    for part, metric in wanted:
        values = part.dropna(subset=[metric]).groupby("item")[metric].mean().to_numpy()
        yield _mean(metric, values, "", bootstrap, 100.0 if metric.startswith("bleu") else 1.0)


def agreement_change(
    before: Sequence[PairScore], after: Sequence[PairScore], bootstrap: Bootstrap
) -> Row:
    """Return how much more often the distilled student gives its teacher's answer than SFT does."""
    change = np.array(list(changes(before, after).values()))
    return _change("agreement_change", change, f"ci:paired-{bootstrap}", bootstrap)


def token_rows(frame: pd.DataFrame, bootstrap: Bootstrap) -> Iterator[Row]:
    """Yield token-level fidelity on held-out text, with intervals over its rows.

    Args:
        frame: Columns of `evaluate.tokens.TokenRow`, one row per text: sums over its tokens.
        bootstrap: How rows, the clusters, are drawn again.
    """
    n = len(frame)
    weights = np.vstack([np.ones(n), bootstrap.weights(n)])
    tokens = weights @ frame.tokens.to_numpy(float)
    found = {
        "token_top1": weights @ frame.agree.to_numpy(float) / tokens,
        "token_kl_teacher_student": weights @ frame.kl_teacher_student.to_numpy() / tokens,
        "token_kl_student_teacher": weights @ frame.kl_student_teacher.to_numpy() / tokens,
        "token_cross_entropy": weights @ frame.ce_student.to_numpy() / tokens,
        "token_cross_entropy_teacher": weights @ frame.ce_teacher.to_numpy() / tokens,
        "token_ece": _calibration_error(frame, "student", weights, tokens),
        "token_ece_teacher": _calibration_error(frame, "teacher", weights, tokens),
    }
    note = f"tokens:{int(tokens[0])}|ci:row-{bootstrap}"
    for metric, values in found.items():
        low, high = np.quantile(values[1:], [0.025, 0.975]) if n > 1 else (np.nan, np.nan)
        if not high > low:  # all resamples alike is not certainty
            low = high = np.nan
        row = _row(metric, float(values[0]), float(low), float(high), n, f"{metric}|{note}")
        yield row | {"benchmark": HELD_OUT}


def averages(rows: Sequence[Row], answers: Collection[str], texts: Collection[str]) -> list[Row]:
    """Return unweighted means over benchmarks: ROUGE-L over texts, all else over answers.

    A metric that a benchmark lacks has no mean. Where every benchmark asks for texts, theirs are
    the means of everything.
    """

    def covered(metric: str) -> set[str]:
        return set(texts if metric in _OF_TEXTS or not answers else answers)

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["benchmark"] in covered(row["metric"]):
            groups.setdefault((row.get("reference", ""), row["metric"]), []).append(row)
    found = []
    for (reference, metric), part in groups.items():
        if {r["benchmark"] for r in part} != covered(metric):
            continue
        value, low, high = mover(*([r[k] for r in part] for k in ("value", "low", "high")))
        sign = f"{metric}|mean of {len(part)} benchmarks|ci:mover-95"
        n = sum(r["n"] for r in part)
        where = {"benchmark": AVERAGE, "reference": reference}
        found.append(_row(metric, value, low, high, n, sign) | where)
    return found


def _calibration_error(
    frame: pd.DataFrame, model: str, weights: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Return the expected calibration error of each reweighting (Guo et al. 2017, equation 5)."""
    confidence, hits = (
        weights @ np.array(frame[f"{model}_{part}"].tolist(), dtype=float)
        for part in ("confidence", "hits")
    )
    return np.abs(confidence - hits).sum(axis=1) / tokens


def _accuracies(cell: Cell, note: str) -> Iterator[Row]:
    n, right = len(cell.ids), float(cell.share("correct").mean())
    completed = n * (1 - float(cell.share("truncated").mean()))
    yield _rate("accuracy", right, n, note)
    yield _rate("accuracy_completed", right * n / max(completed, 1e-12), completed, note)
    yield _rate("parse_rate", float(cell.share("correct", "wrong").mean()), n, note)


def _apart(cell: Cell, overlaps: Mapping[str, Overlap] | None, note: str) -> Iterator[Row]:
    """Yield accuracy on the items of each of `GROUPS` that has any."""
    right = cell.share("correct")
    for group in GROUPS if overlaps is not None else ():
        inside = cell.within(overlaps, group)
        if inside.any():
            share = float(right[inside].mean())
            yield _rate(f"accuracy_{group}", share, int(inside.sum()), note)


def _agreement_rows(rows: Sequence[PairScore], by_accident: float) -> Iterator[Row]:
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


def _bleu_rows(rows: Sequence[PairScore], bootstrap: Bootstrap) -> Iterator[Row]:
    ids, item = np.unique([r.example_id for r in rows], return_inverse=True)
    counts = np.zeros((len(ids), len(rows[0].counts)), dtype=np.int64)
    np.add.at(counts, item, np.array([r.counts for r in rows]))
    note = f"{signature()}|ci:{bootstrap}"
    value, low, high = _corpus_bleu(counts, bootstrap)
    yield _row("bleu_corpus", value, low, high, len(ids), f"bleu_corpus|{note}")
    sentences = np.bincount(item, [r.bleu for r in rows]) / np.bincount(item)
    yield _mean("bleu_sentence", sentences, signature(), bootstrap, 100.0)


def _corpus_bleu(counts: np.ndarray, bootstrap: Bootstrap) -> tuple[float, float, float]:
    """Return corpus BLEU and its interval, over items' `PairScore.counts`.

    Texts of fewer than four words hold no 4-gram, so BLEU is 0 of equal ones too: of texts that
    are all so short it is no measure, and NaN. Where all resamples are alike there is no interval.
    """
    if not counts[:, FOUR_GRAMS].any():
        return np.nan, np.nan, np.nan
    value = corpus_bleu(counts.tolist())
    if len(counts) < 2:
        return value, np.nan, np.nan
    sums = np.rint(bootstrap.weights(len(counts)) @ counts).astype(int)
    low, high = np.quantile([corpus_bleu([s]) for s in sums.tolist()], [0.025, 0.975])
    return (value, low, high) if high > low else (value, np.nan, np.nan)


def _mean(
    metric: str, values: np.ndarray, note: str, bootstrap: Bootstrap, top: float = 1.0
) -> Row:
    """Return the mean of per-item values in [0, top] with its interval; NaN without items."""
    sign = "|".join(part for part in (metric, note, f"ci:{bootstrap}") if part)
    return _row(metric, *mean_of(values, bootstrap, top), len(values), sign)


def _change(metric: str, change: np.ndarray, note: str, bootstrap: Bootstrap) -> Row:
    return _row(metric, *difference(change, bootstrap), len(change), f"{metric}|{note}")


def _rate(metric: str, share: float, n: float, note: str) -> Row:
    low, high = wilson(share, n)
    sign = f"{metric}|{note}|ci:wilson-95" if note else f"{metric}|ci:wilson-95"
    return _row(metric, share if n else np.nan, low, high, int(n), sign)


def _row(metric: str, value: float, low: float, high: float, n: int, sign: str) -> Row:
    return {"metric": metric, "value": value, "low": low, "high": high, "n": n, "signature": sign}
