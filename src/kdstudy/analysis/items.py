"""Item-level tests on anybody's graded items, through the tests of `paired`."""

from pathlib import Path

import pandas as pd

from kdstudy.analysis.intervals import DEFAULT_BOOTSTRAP, Bootstrap, difference, mover
from kdstudy.analysis.methods import SFT, Cell, Run, compare_methods, student_tests
from kdstudy.analysis.paired import paired_tests
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test
from kdstudy.errors import InputError

KEYS = ["system", "benchmark", "example_id", "sample"]
_COLUMNS = {*KEYS, "correct", "student", "teacher", "method", "seed"}
_RIGHT = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}


def analyze_items(
    items: pd.DataFrame, baseline: str = "", bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> list[Test]:
    """Return exact McNemar tests, tests of each method against SFT, and tests between methods.

    With student, teacher and method known, each method is compared with SFT on its student, over
    items and, where there are several, seeds (`methods.student_tests`), and with every other
    method. Each system is compared with its baseline per benchmark and on the average: exact
    McNemar p (one draw per item), paired bootstrap interval. Holm and BH within families
    (benchmarks, averages).

    Args:
        items: Columns system, benchmark, example_id, sample, correct (0 or 1); student, teacher,
            method and seed, one per system, if known. Without `sample` there is one draw. Systems
            that differ by `seed` alone are draws of one.
        baseline: A system that all others are compared with. Else each is compared with the
            system of its student whose method is `sft`, the one of its seed if there are several.
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
    facts = items.drop_duplicates("system").set_index("system").sort_index()
    pairs = _against(list(right), facts, baseline, known)
    draws = int(items["sample"].nunique())
    rows = [
        row
        for system, base in pairs.items()
        for row in _rows(system, right[system], base, right[base], draws, bootstrap)
    ]
    found = paired_tests(pd.DataFrame(rows)) if rows else []
    if not known:
        return found
    runs = _by_method(right, facts)
    return [*found, *student_tests(runs), *compare_methods(runs)]


def items_of(table: pd.DataFrame, path: Path | str) -> pd.DataFrame | None:
    """Return a table of graded items as `analyze_items` takes it; None if it has no such columns.

    Names of columns are read without regard to case; `item` and `id` also name an item.

    Args:
        table: Text cells, as `read_rows` or `rows_of` return them.
        path: What messages call the table.

    Raises:
        InputError: A column is named twice, or `correct` is no 0 or 1.
    """
    names = [c.strip().lower() for c in table.columns]
    names = ["example_id" if n in ("item", "id") else n for n in names]
    if not {"system", "example_id", "correct"} <= set(names):
        return None
    twice = [n for i, n in enumerate(names) if n in names[:i] and n in _COLUMNS]
    if twice:
        raise InputError(f"{path}: two columns could be the {twice[0]}", remedy="drop one")
    table = table.set_axis(names, axis=1)
    table = table[[n for n in names if n in _COLUMNS]].apply(lambda cells: cells.str.strip())
    right = table.correct.str.lower().map(_RIGHT)
    if right.isna().any():
        line = right.index[right.isna()][0]
        raise InputError(f"{path}, line {line}: correct is {table.correct[line]!r}, not 0 or 1")
    table = table.assign(correct=right.astype(int))
    return table if "benchmark" in table else table.assign(benchmark="items")


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
    for column in {"student", "teacher", "method", "seed"} & set(items.columns):
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
    plain = facts.method.str.lower() == SFT
    found = {}
    for system in facts.index[~plain]:
        fits = facts[plain & (facts.student == facts.student[system])]
        if len(fits) > 1 and "seed" in facts:
            # One seed of SFT is not every run's: without its own a run is compared by method alone.
            fits = fits[fits.seed == facts.seed[system]]
            if fits.empty:
                continue
        if len(fits) != 1:
            raise InputError(
                f"{system}: {len(fits)} systems could be its SFT baseline, not one",
                remedy="add the column seed" if len(fits) else "add the SFT run of its student",
            )
        found[system] = str(fits.index[0])
    if plain.all():
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


def _by_method(right: dict, facts: pd.DataFrame) -> dict[str, dict[Cell, list[Run]]]:
    """Return every system's shares as `methods.Runs`."""
    items: dict[str, pd.Index] = {}
    runs: dict[str, dict[Cell, dict]] = {}
    known = facts.reindex(columns=["student", "teacher", "method", "seed"])
    known = known.astype(object).fillna("")
    for system, of in known[~known.method.isin(["", "base"])].iterrows():
        for benchmark, shares in right[system].items():
            if not items.setdefault(benchmark, shares.index).equals(shares.index):
                raise InputError(f"{system}: {benchmark} covers other items than elsewhere")
        plain = str(of.method).lower() == SFT
        method, cell = SFT if plain else str(of.method), (of.student, "" if plain else of.teacher)
        seeds = runs.setdefault(method, {}).setdefault(cell, {})
        if of.seed in seeds:
            raise InputError(
                f"{system}: another system has its student, teacher and method",
                remedy="if they differ by seed, add the column seed",
            )
        seeds[of.seed] = {b: s.to_numpy() for b, s in right[system].items()}
    return {m: {c: list(v.values()) for c, v in of.items()} for m, of in runs.items()}
