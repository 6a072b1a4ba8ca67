"""Two studies side by side: what they share, and how far B's numbers are from A's."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans

from kdstudy.analyze.intervals import DEFAULT_BOOTSTRAP, Bootstrap, difference, mover
from kdstudy.analyze.results import AVERAGE
from kdstudy.records import System
from kdstudy.report.compare.match import KEY, StudyRows, key_of, pairs, refuse_benchmarks

KINDS = ("distilled", "sft", "teacher", "base")
"""Kinds of systems as people ask for them."""

TESTED = ("accuracy", "rouge_l")
PLAIN = ("parse_rate", "agreement", "bleu_corpus")
PAIRED, UNPAIRED, MIXED, SAME_RUN, AS_IT_IS = "paired", "unpaired", "mixed", "same run", "plain"
ENDS = ("difference", "low", "high")
COLUMNS = [
    *("system_a", "system_b", "draw_of", *KEY, "benchmark", "reference", "metric", "how"),
    *("a", "b", *ENDS, "seeds", "sd_a", "sd_b", "sd", "p", "p_holm", "family"),
    *("better", "worse", "n", "n_a", "n_b", "signature"),
]


@dataclasses.dataclass(frozen=True, slots=True)
class _Cell:
    """One system on one benchmark: each item's mean quality over draws, and its gold answer."""

    quality: pd.Series
    gold: pd.Series
    draws: int
    rule: str

    @property
    def text(self) -> bool:
        return self.rule.startswith("text-")


def compare(a: StudyRows, b: StudyRows, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> pd.DataFrame:
    """Return how study B's numbers differ from A's, system by system and benchmark by benchmark.

    Runs match by `KEY`, benchmarks by name, items by content and gold answer. Accuracy (ROUGE-L of
    free texts) and agreement are compared over the items that both studies have: difference B − A
    with paired bootstrap 95% interval (`intervals.difference`), and the exact McNemar p where both
    drew one answer per item. Where no item matches the difference is unpaired: Newcombe's (1998)
    interval for accuracy, Welch's for ROUGE-L, and no p. `average` is the unweighted mean over
    common benchmarks, its interval by MOVER, its p over the items of all of them.

    Matched runs that differ by their seed alone are draws of one system. It has rows of its own:
    means over those seeds, with interval and p for other items and other seeds
    (`contrasts.contrast`). Rows of its runs name it in `draw_of`.

    Holm's correction covers families: the main grid and the ablations, benchmarks and averages,
    systems and single seeds, accuracy and agreement, each apart. Parse rate, BLEU, and agreement
    where its items are not known, stand as each study has them, without an interval.

    Returns:
        Columns `COLUMNS`. `a` and `b` are fractions (BLEU 0-100); `how` is one of paired, unpaired,
        mixed (an average over both), same run (one measurement that both studies hold) and plain;
        `seeds` are averaged, `sd_a`, `sd_b` and `sd` are sample standard deviations over them of a,
        b and the difference, NaN for one; `better` and `worse` count the items that B alone or A
        alone gets right; `n` items were compared of `n_a` and `n_b`.

    Raises:
        InputError: Nothing was measured in both studies.
    """
    found = pairs(a, b)
    sides = (Side.of(a, {}), Side.of(b, {y.label: x.label for x, y in found}))
    rows: list[dict[str, Any]] = []
    for group in draws(found):
        rows += _system(group, sides, bootstrap)
    if not any(row["metric"] in TESTED for row in rows):
        refuse_benchmarks(a, b)
    rows += _plain(a, b, found, rows)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_holm"] = _holm(table)
    counts = ["better", "worse", "n", "n_a", "n_b", "seeds"]
    table[counts] = table[counts].astype("Int64")
    order = ["kind", "system_a", "metric", "reference", "benchmark"]
    return table.sort_values(
        order, key=lambda c: c.map(KINDS.index) if c.name == "kind" else c, ignore_index=True
    )


def systems_only(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `compare` without those of single seeds of a system."""
    return table[table.draw_of == ""]


def _system(
    group: Sequence[tuple[System, System]], sides: tuple[Side, Side], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Return the rows of one system: of its only run, or its means and each of its runs."""
    several = len(group) > 1
    found = []
    for x, y in group:
        tested = [*_tested([(x, y)], sides, bootstrap, single=several)]
        identity = _identity(x, y) | {"draw_of": _name(x) if several else ""}
        found += [identity | row for row in [*tested, *_averages(tested)]]
    if several:
        x, y = group[0]
        identity = _identity(x, y) | {"system_a": _name(x), "system_b": _name(y)}
        means = _means([*_tested(group, sides, bootstrap)], found, group, sides)
        found += [identity | row for row in means]
    return found


def _name(system: System) -> str:
    return system.label.removesuffix(f"/seed={system.seed}")


def _shared_items(old: _Cell, new: _Cell) -> pd.Index:
    common = old.quality.index.intersection(new.quality.index)
    return common[(old.gold[common] == new.gold[common]).to_numpy(bool)]


def _against(old: _Cell, new: _Cell, bootstrap: Bootstrap) -> dict[str, Any]:
    common = _shared_items(old, new)
    before, after = (c.quality[common].to_numpy(float) for c in (old, new))
    paired = len(common) > 0
    if not paired:
        before, after = (c.quality.to_numpy(float) for c in (old, new))
    row = {
        "metric": "rouge_l" if old.text else "accuracy",
        "reference": "",
        "how": PAIRED if paired else UNPAIRED,
        "a": float(before.mean()),
        "b": float(after.mean()),
        "n": len(common),
        "n_a": len(old.quality),
        "n_b": len(new.quality),
    }
    note = f"rules:{old.rule},{new.rule}|draws:{old.draws},{new.draws}"
    if not paired:
        return row | _unpaired(before, after, old.text, note)
    row |= dict(zip(ENDS, difference(after - before, bootstrap), strict=True))
    row["signature"] = f"{note}|ci:paired-{bootstrap}"
    if old.text or old.draws > 1 or new.draws > 1:
        return row
    better, worse = int((after > before).sum()), int((after < before).sum())
    signature = f"{row['signature']}|p:mcnemar-exact"
    return row | {"signature": signature} | _mcnemar(better, worse)


def _mcnemar(better: int, worse: int) -> dict[str, Any]:
    p = mcnemar([[0, better], [worse, 0]], exact=True).pvalue if better + worse else np.nan
    return {"better": better, "worse": worse, "p": float(p)}


def _unpaired(before: np.ndarray, after: np.ndarray, text: bool, note: str) -> dict[str, Any]:
    low = high = np.nan
    if text and min(len(before), len(after)) > 1:
        low, high = CompareMeans.from_data(after, before).tconfint_diff(usevar="unequal")
    elif not text:
        counts = after.sum(), len(after), before.sum(), len(before)
        low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb")
    return {
        "difference": float(after.mean() - before.mean()),
        "low": float(low),
        "high": float(high),
        "signature": f"{note}|ci:{'welch' if text else 'newcombe'}-95",
    }


def _averages(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the means of one system over its common benchmarks, answers and texts apart."""
    for metric in TESTED:
        part = [r for r in rows if r["metric"] == metric]
        if not part:
            continue
        ends = mover(*([r[k] for r in part] for k in ENDS))
        kinds = {r["how"] for r in part} - {SAME_RUN} or {SAME_RUN}
        row = {
            "metric": metric,
            "benchmark": AVERAGE,
            "reference": "",
            "how": kinds.pop() if len(kinds) == 1 else MIXED,
            **{k: float(np.mean([r[k] for r in part])) for k in ("a", "b")},
            **dict(zip(ENDS, ends, strict=True)),
            **{k: sum(r[k] for r in part) for k in ("n", "n_a", "n_b")},
            "signature": f"mean of {len(part)} benchmarks|ci:mover-95",
            "family": part[0]["family"].replace("tasks", "averages"),
        }
        if all("better" in r for r in part):
            row |= _mcnemar(*(sum(r[k] for r in part) for k in ("better", "worse")))
            row["signature"] += "|p:mcnemar-exact over all items"
        yield row


def _plain(
    a: StudyRows, b: StudyRows, found: Sequence[tuple[System, System]], tested: Sequence[Mapping]
) -> list[dict[str, Any]]:
    """Return parse rate, agreement and BLEU as each study has them, and their averages."""
    twin = {y.label: x.label for x, y in found} | {"": ""}
    own = {x.label: (x, y) for x, y in found}
    key = ["system", "reference", "benchmark", "metric"]
    shown = [*key, "value", "n", "signature"]
    left, right = (s.table.loc[s.table.metric.isin(PLAIN), shown] for s in (a, b))
    right = right.assign(system=right.system.map(twin), reference=right.reference.map(twin))
    compared = pd.DataFrame(tested)[["system_a", "benchmark", "metric"]].rename(
        columns={"system_a": "system", "metric": "tested"}
    )
    both = left.merge(right, on=key, suffixes=("_a", "_b")).merge(
        compared[compared.benchmark != AVERAGE], on=["system", "benchmark"]
    )
    rows = []
    for (system, reference, metric), part in both.groupby(["system", "reference", "metric"]):
        base = _identity(*own[system]) | {"reference": reference, "metric": metric, "how": AS_IT_IS}
        rows += [base | row for row in _lines(part)]
    return rows


def _lines(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield one measure of one system by benchmark, then its mean (over answers if any)."""
    for r in part.itertuples():
        sign = f"{r.signature_a} / {r.signature_b}"
        yield _line(r.benchmark, r.value_a, r.value_b, r.n_a, r.n_b, sign)
    answers = part[part.tested == "accuracy"]
    part = answers if len(answers) else part
    values, sizes = part[["value_a", "value_b"]].mean(), part[["n_a", "n_b"]].sum()
    yield _line(AVERAGE, *values, *sizes, f"mean of {len(part)} benchmarks")


def _line(name: str, old: float, new: float, n_a: int, n_b: int, sign: str) -> dict[str, Any]:
    value = {"a": float(old), "b": float(new), "difference": float(new - old)}
    return value | {"benchmark": name, "n_a": int(n_a), "n_b": int(n_b), "signature": sign}


def _identity(x: System, y: System) -> dict[str, Any]:
    named = dict(zip(KEY, key_of(x), strict=True))
    return {"system_a": x.label, "system_b": y.label, "p": np.nan, "family": ""} | named


def _holm(table: pd.DataFrame) -> pd.Series:
    """Return Holm's p inside each family; a row without a p does not count."""
    found = pd.Series(np.nan, index=table.index)
    for _, part in table[table.p.notna() & (table.family != "")].groupby("family"):
        found[part.index] = multipletests(part.p, method="holm")[1]
    return found
