"""What is measured of one system or pair: rows of the results table, each with its interval."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.intervals import Bootstrap, difference, mean_of, mover, wilson
from kdstudy.errors import InputError
from kdstudy.evaluation.agreement import agreement, changes
from kdstudy.evaluation.fidelity import FOUR_GRAMS, corpus_bleu, signature
from kdstudy.measures import MEASURES, Measure, PairMeasure, Unit
from kdstudy.measures.cell import GROUPS, Cell
from kdstudy.records import Overlap, PairScore

AVERAGE = "average"
"""Name of the pseudo-benchmark that holds the unweighted mean over benchmarks."""

HELD_OUT = "held_out"
"""Name of the pseudo-benchmark of token-level measures: the corpus's validation rows."""

_OF_TEXTS = {"rouge_l", "rouge_l_gain"}
_OF_OPTIONS = {name for name, measure in MEASURES.items() if measure.of == "options"}
_PER_ROW = ("rouge_l", "steps", "bleu")

Row = dict[str, Any]


def own_rows(
    cells: Mapping[str, Cell], overlaps: Mapping[str, Mapping[str, Overlap]], bootstrap: Bootstrap
) -> Iterator[Row]:
    """Yield every measure of one system, and accuracy over parts of the items."""
    for benchmark, cell in cells.items():
        note = f"rule:{cell.rules}|draws:{len(cell.samples)}"
        known = (m for m in MEASURES.values() if isinstance(m, Measure) and m.defined_on(cell))
        rows = [
            _measured(m, m.per_item(cell), note, bootstrap)
            if m.whole is None
            else _whole(m, cell, note, bootstrap)
            for m in known
        ]
        if not (cell.text or cell.options):
            rows.append(_completed(cell, note))
        if not cell.text:
            rows += _apart(cell, overlaps.get(benchmark), note)
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
    rows: Sequence[PairScore],
    by_accident: float,
    text: bool,
    bootstrap: Bootstrap,
    *,
    written: bool = True,
) -> Iterator[Row]:
    """Yield agreement and fidelity of two systems on one benchmark.

    Args:
        rows: The pair's items.
        by_accident: Agreement expected by accident (`agreement.chance`).
        text: The benchmark asks for free texts, where there is no answer to agree on.
        bootstrap: How the bootstrap intervals are drawn.
        written: Texts were written, whose fidelity can be measured: no choices by likelihood.
    """
    _, item = np.unique([r.example_id for r in rows], return_inverse=True)
    agree = np.array([r.agree for r in rows])
    if not text:
        yield from _agreement_rows(rows, by_accident)
    if not written:
        return
    yield from _bleu_rows(rows, item, bootstrap)
    rouge, steps, bleu = (np.array([getattr(r, k) for r in rows]) for k in _PER_ROW)
    wanted = [("fidelity_rouge_l", rouge, 1.0), ("fidelity_steps", steps, 1.0)]
    if not text:
        same = [("bleu_same_answer", bleu, 100.0), ("steps_same_answer", steps, 1.0)]
        wanted += [(metric, np.where(agree, values, np.nan), top) for metric, values, top in same]
    for metric, values, top in wanted:
        yield _mean(metric, _per_item(item, values), "", bootstrap, top)


def paired_rows(mine: Cell, other: Cell, bootstrap: Bootstrap) -> Iterator[Row]:
    """Yield every `PairMeasure` of two systems on one benchmark."""
    for measure in MEASURES.values():
        if isinstance(measure, PairMeasure) and measure.defined_on(mine):
            yield _measured(measure, measure.per_item(mine, other), "", bootstrap)


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

    A metric that a benchmark lacks has no mean, but for those of options, whose mean is over the
    choices by likelihood. Where every benchmark asks for texts, theirs are the means of everything.
    """
    by_likelihood = {r["benchmark"] for r in rows if r["metric"] in _OF_OPTIONS}

    def covered(metric: str) -> set[str]:
        if metric in _OF_OPTIONS:
            return by_likelihood
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


def _completed(cell: Cell, note: str) -> Row:
    """Return accuracy among the answers that were not cut."""
    n, right = len(cell.ids), float(cell.share("correct").mean())
    completed = n * (1 - float(cell.share("truncated").mean()))
    return _rate("accuracy_completed", right * n / max(completed, 1e-12), completed, note)


def _measured(
    measure: Measure | PairMeasure, values: np.ndarray, note: str, bootstrap: Bootstrap
) -> Row:
    """Return a measure's row: the mean of its values of items, with the interval that it asks for.

    Raises:
        InputError: It has not one finite number per item.
    """
    values = np.asarray(values, dtype=float)
    if measure.unit is Unit.NATS and np.isposinf(values).any():  # a divergence can be infinite
        sign = "|".join(part for part in (measure.name, measure.signature, note) if part)
        return _row(measure.name, np.inf, np.nan, np.nan, len(values), sign)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(
            f"measure {measure.name}: must give one finite number per item",
            why=f"it gave an array of shape {values.shape}",
        )
    note = "|".join(part for part in (measure.signature, note) if part)
    how = getattr(measure, "interval", "bootstrap")
    if how == "wilson":
        return _rate(measure.name, float(values.mean()), len(values), note)
    if how == "none":
        mean = float(values.mean())
        return _row(measure.name, mean, np.nan, np.nan, len(values), f"{measure.name}|{note}")
    if measure.unit in (Unit.SHARE, Unit.HUNDRED, Unit.SCORE):
        top = 100.0 if measure.unit is Unit.SCORE else 1.0
        if values.min() < 0 or values.max() > top:
            raise InputError(
                f"measure {measure.name}: a value of {values.min():g} or {values.max():g}",
                why=f"its unit, {measure.unit.value}, is of values from 0 to {top:g}",
            )
        return _mean(measure.name, values, note, bootstrap, top)
    mean, low, high = float(values.mean()), np.nan, np.nan
    if np.ptp(values) > 0:  # all resamples alike is not certainty
        low, high = np.quantile(
            bootstrap.weights(len(values)) @ values / len(values), [0.025, 0.975]
        )
    sign = f"{measure.name}|{note}|ci:{bootstrap}" if note else f"{measure.name}|ci:{bootstrap}"
    return _row(measure.name, mean, float(low), float(high), len(values), sign)


def _whole(measure: Measure, cell: Cell, note: str, bootstrap: Bootstrap) -> Row:
    """Return the row of a number that is no mean over items, with its interval over them.

    Draws of an error that takes distances are off more than the items themselves are, so that the
    interval is moved by what their mean is above the number (as in the loss statement).
    """
    n = len(cell.ids)
    drawn = measure.whole(cell)(np.vstack([np.ones(n), bootstrap.weights(n)]))
    value, draws = float(drawn[0]), drawn[1:]
    low = high = np.nan
    if np.ptp(draws) > 0:  # all resamples alike is not certainty
        low, high = value - draws.mean() + np.quantile(draws, [0.025, 0.975])
    if measure.unit is Unit.SHARE:
        low, high = np.clip([low, high], 0, 1)
    sign = "|".join(
        part for part in (measure.name, measure.signature, note, f"ci:{bootstrap}") if part
    )
    return _row(measure.name, value, float(low), float(high), n, sign)


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


def _per_item(item: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean over each item's draws that have a value, of the items that have any."""
    known = ~np.isnan(values)
    draws = np.bincount(item[known])
    sums = np.bincount(item[known], values[known])
    return sums[draws > 0] / draws[draws > 0]


def _bleu_rows(rows: Sequence[PairScore], item: np.ndarray, bootstrap: Bootstrap) -> Iterator[Row]:
    counts = np.zeros((item.max() + 1, len(rows[0].counts)), dtype=np.int64)
    np.add.at(counts, item, np.array([r.counts for r in rows]))
    note = f"{signature()}|ci:{bootstrap}"
    value, low, high = _corpus_bleu(counts, bootstrap)
    yield _row("bleu_corpus", value, low, high, len(counts), f"bleu_corpus|{note}")
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
