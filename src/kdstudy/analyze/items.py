"""Item-level tests on anybody's graded items, through the tests of `paired`."""

import numpy as np
import pandas as pd

from kdstudy.analyze.intervals import DEFAULT_BOOTSTRAP, Bootstrap, difference, mover
from kdstudy.analyze.paired import compare_methods, paired_tests
from kdstudy.analyze.results import AVERAGE
from kdstudy.analyze.verdict import Test
from kdstudy.errors import InputError

KEYS = ["system", "benchmark", "example_id", "sample"]
_KEY = ["student", "teacher"]


def analyze_items(
    items: pd.DataFrame, baseline: str = "", bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> list[Test]:
    """Return exact McNemar tests over a baseline, and item-by-item tests between methods.

    Each system is compared with its baseline per benchmark and on the average: exact McNemar p
    (one draw per item), paired bootstrap interval, Holm and BH within two families (benchmarks,
    averages). With student, teacher and method known, methods are compared over the (student,
    teacher) that they share.

    Args:
        items: Columns system, benchmark, example_id, sample, correct (0 or 1); student, teacher
            and method, one per system, if known. Without `sample` there is one draw.
        baseline: A system that all others are compared with. Else each is compared with the one
            system of its student whose method is `sft`.
        bootstrap: How the intervals are drawn.

    Raises:
        InputError: A column is missing, an item is there twice or has other draws than elsewhere,
            systems cover other items than their baseline, or a baseline is missing.
    """
    items = _checked(items)
    right = {
        system: {b: _shares(system, b, p) for b, p in part.groupby("benchmark")}
        for system, part in items.groupby("system")
    }
    known = {"student", "method"} <= set(items.columns)
    facts = items.drop_duplicates("system").set_index("system")
    pairs = _against(list(right), facts, baseline, known)
    draws = int(items["sample"].nunique())
    rows = [
        row
        for system, base in pairs.items()
        for row in _rows(system, right[system], base, right[base], draws, bootstrap)
    ]
    found = paired_tests(pd.DataFrame(rows))
    return found + (compare_methods(_by_method(right, facts, pairs)) if known else [])


def _checked(items: pd.DataFrame) -> pd.DataFrame:
    items = items if "sample" in items else items.assign(sample=0)
    missing = [c for c in [*KEYS, "correct"] if c not in items]
    if missing:
        raise InputError(f"the table of items has no column {missing[0]}")
    if items.empty:
        raise InputError("the table of items is empty")
    wrong = items[~items.correct.isin([0, 1])]
    if len(wrong):
        raise InputError(f"correct of row {wrong.index[0]} is {wrong.correct.iloc[0]}, not 0 or 1")
    doubled = items[items.duplicated(KEYS)]
    if len(doubled):
        raise InputError(f"an item is there twice: {', '.join(map(str, doubled[KEYS].iloc[0]))}")
    if AVERAGE in set(items.benchmark):
        raise InputError(f"a benchmark may not be called {AVERAGE!r}", remedy="rename it")
    for column in {"student", "teacher", "method"} & set(items.columns):
        several = items.groupby("system")[column].nunique(dropna=False)
        if (several > 1).any():
            raise InputError(f"{several.idxmax()} has more than one {column}")
    return items


def _shares(system: str, benchmark: str, part: pd.DataFrame) -> pd.Series:
    wide = part.pivot(index="example_id", columns="sample", values="correct").astype(float)
    if wide.isna().any(axis=None):
        raise InputError(f"{system}: {benchmark} items have different numbers of draws")
    return wide.mean(axis=1).sort_index()


def _against(systems: list[str], facts: pd.DataFrame, baseline: str, known: bool) -> dict[str, str]:
    """Return the baseline of every system that is none."""
    if baseline:
        if baseline not in systems:
            raise InputError(f"no system is called {baseline}")
        return {s: baseline for s in systems if s != baseline}
    if not known:
        raise InputError(
            "no baseline", remedy="name one system, or add the columns student and method"
        )
    plain = facts.method.str.lower() == "sft"
    found = {}
    for system in facts.index[~plain]:
        own = facts.index[plain & (facts.student == facts.student[system])]
        if len(own) != 1:
            raise InputError(f"{system}: {len(own)} systems could be its SFT baseline, not one")
        found[system] = str(own[0])
    if not found:
        raise InputError("there is no system but baselines")
    return found


def _rows(
    system: str, after: dict, base: str, before: dict, draws: int, bootstrap: Bootstrap
) -> list[dict]:
    """Return the rows of results.csv that `paired_tests` reads."""
    rows, gains = [], []
    shared = {"system": system, "ablation": ""}
    note = f"gain|over:{base}|draws:{draws}|ci:paired-{bootstrap}"
    for benchmark in sorted(after.keys() & before.keys()):
        old, new = before[benchmark], after[benchmark]
        if not old.index.equals(new.index):
            raise InputError(f"{system}: {benchmark} covers other items than {base}")
        old, new = old.to_numpy(), new.to_numpy()
        where = shared | {"benchmark": benchmark, "n": len(new), "signature": note}
        gains.append(difference(new - old, bootstrap))
        rows.append(where | {"metric": "gain"} | _ends(gains[-1]))
        for metric, share in (("newly_right", (1 - old) * new), ("newly_wrong", old * (1 - new))):
            rows.append(where | {"metric": metric, "value": float(share.mean())})
    if not rows:
        raise InputError(f"{system} shares no benchmark with {base}")
    n = sum(r["n"] for r in rows if r["metric"] == "gain")
    where = shared | {"benchmark": AVERAGE, "n": n, "signature": note}
    mean = mover(*zip(*gains, strict=True))
    return [*rows, where | {"metric": "gain"} | _ends(mean)]


def _ends(effect: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), effect, strict=True))


def _by_method(right: dict, facts: pd.DataFrame, pairs: dict[str, str]) -> dict:
    runs: dict[str, dict[tuple, dict[str, np.ndarray]]] = {}
    for system in pairs:
        key = tuple(facts.reindex(columns=_KEY).fillna("").loc[system])
        own = runs.setdefault(str(facts.method[system]), {})
        if key in own:
            raise InputError(f"{system}: another system has its student, teacher and method")
        own[key] = {b: s.to_numpy() for b, s in right[system].items()}
    return runs
