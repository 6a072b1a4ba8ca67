"""One row per run and task: the form that every study-level test reads, from any results table."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kdstudy.analysis import results
from kdstudy.analysis.csv_rows import read_rows
from kdstudy.analysis.results import AVERAGE, TEXT
from kdstudy.errors import InputError

RUN_COLUMNS = [
    *("student", "teacher", "method", "task", "seed", "temperature"),
    *("baseline_run", "baselines"),
    *("score", "baseline", "gain", "size", "teacher_score"),
    *("agreement", "agreement_sft", "fidelity", "items"),
]
RUN = ["student", "teacher", "method", "seed", "temperature"]
MEASURES = RUN_COLUMNS[8:]
_DRAWS = ["student", "teacher", "method", "temperature", "task"]
"""What runs share that differ by their seed alone."""
_TYPES = {
    **dict.fromkeys(["student", "teacher", "method", "task", "baseline_run"], TEXT),
    "seed": "Int64",
    **dict.fromkeys(["temperature", *MEASURES], "float64"),
}
_RATES = ["score", "baseline", "teacher_score", "agreement", "agreement_sft", "fidelity"]


def from_results(table: pd.DataFrame) -> pd.DataFrame:
    """Return the distilled runs of a study's own table (`results.read_csv`).

    The main grid and the temperature ablation; noise and base-teacher ablations are other
    teachers, not other runs. `average` rows are left out, since `cells.cells` makes them.

    Returns:
        Columns `RUN_COLUMNS`; scores, agreements and fidelity (corpus BLEU / 100) are fractions;
        `items` is the number of items behind a score;
        `baseline_run` is the SFT run's label, `baselines` see `_over_all_seeds`. `attrs["notes"]`
        says in sentences what was left out.

    Raises:
        InputError: No distilled run has an SFT run to compare it with.
    """
    distilled = table[(table.kind == "distilled") & table.ablation.isin(["", "temperature"])]
    distilled = distilled[distilled.benchmark != AVERAGE]
    rows = distilled[distilled.metric == "accuracy"].rename(
        columns={"benchmark": "task", "value": "score", "parameters": "size", "n": "items"}
    )
    gains = distilled[distilled.metric == "gain"]
    sft = _looked_up(gains.reference, [gains.system, gains.benchmark], [rows.system, rows.task])
    nobody = [""] * len(rows)
    frame = rows.assign(
        baseline=_value(table, "accuracy", sft, rows.task, nobody),
        baseline_run=sft,
        teacher_score=_value(table, "accuracy", rows.teacher, rows.task, nobody),
        agreement=_value(table, "agreement", rows.system, rows.task, rows.teacher),
        agreement_sft=_value(table, "agreement", sft, rows.task, rows.teacher),
        fidelity=_value(table, "bleu_corpus", rows.system, rows.task, rows.teacher) / 100,
    )
    trained = table[(table.kind == "sft") & (table.metric == "accuracy")]
    trained = trained.assign(task=trained.benchmark, score=trained.value, teacher="")
    frame = _over_all_seeds(frame, trained[trained.benchmark != AVERAGE])
    alone = frame.baseline.isna()
    notes = [f"{alone.sum()} rows have no SFT run and are left out."] if alone.any() else []
    texts = sorted(set(distilled[distilled.metric == "rouge_l"].benchmark))
    if texts:
        notes.append(f"Free-text tasks are left out, ROUGE-L is no accuracy: {', '.join(texts)}.")
    if alone.all():
        raise InputError(
            "no distilled run has an accuracy and an SFT run of its student",
            why="a gain is the difference of their accuracies",
            remedy="add sft to the study's methods, and a task whose answers are graded",
        )
    found = tidy(frame[~alone], notes)
    found.attrs["chance"] = _chance(table)
    return found


def _chance(table: pd.DataFrame) -> dict[str, float]:
    """Return the chance accuracy of each benchmark whose rows tell it (`results.collect`)."""
    rows = table[(table.metric == "accuracy") & (table.benchmark != AVERAGE)]
    told = rows.signature.str.extract(r"\|chance:([^|]+)")[0]
    known = told.notna()
    return dict(zip(rows.benchmark[known], told[known].astype(float), strict=True))


def _value(table: pd.DataFrame, metric: str, system, task, reference) -> np.ndarray:
    part = table[table.metric == metric]
    keys = [part.system, part.benchmark, part.reference]
    return _looked_up(part.value, keys, [system, task, reference]).astype(float)


def tidy(frame: pd.DataFrame, notes: Iterable[str] = ()) -> pd.DataFrame:
    """Return a frame with exactly `RUN_COLUMNS` in their types; missing ones are NaN.

    Raises:
        InputError: A needed column is missing, a score is no fraction, or a cell is there twice.
    """
    missing = [c for c in ("student", "method", "task", "score", "baseline") if c not in frame]
    if missing:
        raise InputError(f"the table of runs has no column {missing[0]}")
    frame = frame.reset_index(drop=True).assign(gain=lambda f: f.score - f.baseline)
    frame = frame.reindex(columns=RUN_COLUMNS)
    frame["teacher"] = frame.teacher.fillna("")
    frame["baseline_run"] = frame.baseline_run.astype(object).fillna("")
    frame["baselines"] = [x if isinstance(x, tuple) else () for x in frame.baselines]
    frame = frame.astype(_TYPES)
    for column in _RATES:
        # A mean of shares may be above 1 by rounding.
        above = frame[column].between(1, 1 + 1e-9)
        frame[column] = frame[column].mask(above, 1.0)
        wrong = frame.index[~frame[column].between(0, 1) & frame[column].notna()]
        if len(wrong):
            found = frame[column][wrong[0]]
            raise InputError(f"{column} of run {wrong[0]} is {found:g}, which is no fraction")
    doubled = frame[frame.duplicated([*RUN, "task"])]
    if len(doubled):
        raise InputError(f"two runs are the same: {', '.join(map(str, doubled.iloc[0][:6]))}")
    frame.attrs["notes"] = list(notes)
    return frame


def _over_all_seeds(runs: pd.DataFrame, sft: pd.DataFrame) -> pd.DataFrame:
    """Return runs whose baselines are all seeds of SFT, where theirs are not the same seeds.

    A run is compared with the SFT run of its seed, which has the mean of them all for a mean where
    both have the same seeds. Where they have not, the baseline is that mean itself, and `baselines`
    holds the scores it is of, by seed: seeds of SFT are draws too.

    Args:
        runs: Columns `_DRAWS`, seed, baseline.
        sft: Columns student, teacher ("" serves every teacher), task, seed and score.
    """
    known = sft.dropna(subset=["seed", "score"]).sort_values("seed")
    drawn = {
        key: part
        for key, part in known.groupby(["student", "teacher", "task"], sort=False)
        if part.seed.nunique() == len(part) > 1
    }
    runs = runs.assign(baselines=[()] * len(runs))
    if not drawn:
        return runs
    keys = runs.assign(teacher=runs.teacher.fillna(""))
    for (student, teacher, *_, task), part in keys.groupby(_DRAWS, dropna=False, sort=False):
        own = drawn.get((student, teacher, task), drawn.get((student, "", task)))
        if own is None or (part.seed.notna().all() and set(part.seed) == set(own.seed)):
            continue
        runs.loc[part.index, "baseline"] = float(own.score.mean())
        runs.loc[part.index, "baseline_run"] = f"{len(own)} seeds"
        for place in part.index:
            runs.at[place, "baselines"] = tuple(map(float, own.score))
    return runs


def _looked_up(values: Iterable, keys: list, wanted: list) -> np.ndarray:
    index = pd.MultiIndex.from_arrays([np.asarray(k, dtype=object) for k in keys])
    found = pd.Series(np.asarray(values, dtype=object), index=index)
    at = pd.MultiIndex.from_arrays([np.asarray(w, dtype=object) for w in wanted])
    return found.reindex(at).to_numpy()


def read_runs(path: Path) -> pd.DataFrame:
    """Read anybody's results from a CSV in long form, or a study's own `results.csv`.

    Needed: student, method, task (or benchmark, dataset) and score (or accuracy, value). Taken if
    there: teacher, seed, temperature, size (or parameters), baseline, teacher_score (or
    teacher_accuracy), agreement, agreement_sft, fidelity (or bleu), items. Names are read without
    regard to case; other columns are not. A column of rates is in percent if its middle value is
    above 1, else it holds fractions.

    Rows of the method `sft` are baselines, not runs: a run's baseline is its column, else the SFT
    row of the same student and task and, where SFT rows differ by them, of the same teacher and
    seed; where a method has other seeds than SFT, the mean over all SFT seeds. Without
    teacher_score, a teacher that has an SFT row of its own has that score. Rows of the method
    `base` (an untrained model) are left out.

    Returns:
        Columns `RUN_COLUMNS`; `attrs["notes"]` says what was converted and left out.

    Raises:
        InputError: With line numbers of the file: a column is missing, a value is no number or out
            of range, a cell is there twice, or a run has no baseline.
    """
    return runs_of(read_rows(path), path)


def runs_of(table: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Return the text cells of `read_rows` or `rows_of` as `read_runs` returns a file's."""
    if set(results.COLUMNS) <= set(table.columns):
        return from_results(results.typed(table, path))
    notes: list[str] = []
    frame = _numbers(_named_columns(table, path), path, notes)
    runs, sft = _apart(frame, path, notes)
    runs = _with_baselines(runs, sft, path)
    if runs.teacher_score.isna().all():
        runs = runs.assign(teacher_score=_baseline(runs.assign(student=runs.teacher), sft)[0])
    return tidy(runs, notes)


def _apart(
    frame: pd.DataFrame, path: Path | str, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of distilled runs and those of SFT runs."""
    method = frame.method.str.lower()
    base = method.isin(["base", "base_model", "basemodel"])
    if base.any():
        notes.append(f"{base.sum()} rows of untrained models are left out.")
    runs = frame[(method != "sft") & ~base]
    if runs.empty:
        raise InputError(f"{path}: there is no row of a distilled run")
    doubled = runs[runs.duplicated([*RUN, "task"], keep=False)]
    if len(doubled):
        raise InputError(f"{path}, {_lines(doubled)}: the same run and task twice")
    return runs, frame[method == "sft"]


_NAMES = {
    "student": ["student"],
    "method": ["method"],
    "task": ["task", "benchmark", "dataset"],
    "score": ["score", "accuracy", "value"],
    "teacher": ["teacher"],
    "seed": ["seed"],
    "temperature": ["temperature"],
    "size": ["size", "parameters"],
    "baseline": ["baseline"],
    "teacher_score": ["teacher_score", "teacher_accuracy"],
    "agreement": ["agreement"],
    "agreement_sft": ["agreement_sft"],
    "fidelity": ["fidelity", "bleu"],
    "items": ["items"],
}
_NEEDED = ["student", "method", "task", "score"]


def _named_columns(table: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Return the known columns as text under our names; those that are not there are empty."""
    found = {ours: _column(ours, table, path) for ours in _NAMES}
    for ours in _NEEDED:
        if found[ours] is None:
            raise InputError(
                f"{path}: has no column {ours}",
                why=f"its columns are {', '.join(map(str, table.columns))}",
                remedy=f"name one of them {' or '.join(_NAMES[ours])}",
            )
    text = {k: table[c].str.strip() if c is not None else "" for k, c in found.items()}
    frame = pd.DataFrame(text, index=table.index)
    frame.index.name = None
    for ours in ("student", "method", "task"):
        blank = frame[frame[ours] == ""]
        if len(blank):
            raise InputError(f"{path}, {_lines(blank)}: no {ours}")
    return frame


def _column(ours: str, table: pd.DataFrame, path: Path | str) -> str | None:
    """Return the column that holds something we know, or None.

    Raises:
        InputError: Several columns could, and their cells differ.
    """
    fits = [c for c in table.columns if c.strip().lower() in _NAMES[ours]]
    fits.sort(key=lambda c: _NAMES[ours].index(c.strip().lower()))
    text = [table[c].str.strip() for c in fits]
    for other, cells in zip(fits[1:], text[1:], strict=True):
        unlike = table.index[cells != text[0]]
        if len(unlike):
            raise InputError(
                f"{path}, line {unlike[0]}: columns {fits[0]!r} and {other!r} could both be the "
                f"{ours}, and they differ",
                remedy="rename or drop one",
            )
    return fits[0] if fits else None


_FITS = {
    # Beyond 2**53 a column of floats no longer tells whole numbers apart.
    "seed": (lambda value: (value % 1 == 0) & (value.abs() < 2**53), "whole number"),
    "temperature": (lambda value: value > 0, "number above 0"),
    "size": (lambda value: value > 0, "number above 0"),
    "items": (lambda value: (value % 1 == 0) & (value > 0), "whole number above 0"),
}


def _numbers(frame: pd.DataFrame, path: Path | str, notes: list[str]) -> pd.DataFrame:
    """Turn the texts of numeric columns into numbers, rates into fractions."""
    for column in [*_FITS, *_RATES]:
        text = frame[column].where(~frame[column].str.lower().isin(["", "na", "nan", "none"]))
        value = pd.to_numeric(text.str.removesuffix("%"), errors="coerce").astype(float)
        fits, kind = _FITS.get(column, (np.isfinite, "number"))
        wrong = frame.assign(value=text)[text.notna() & ~(np.isfinite(value) & fits(value))]
        if len(wrong):
            raise InputError(
                f"{path}, {_lines(wrong)}: {column} {wrong.value.iloc[0]!r} is no {kind}"
            )
        frame[column] = _fractions(column, value, path, notes) if column in _RATES else value
    missing = frame[frame.score.isna()]
    if len(missing):
        raise InputError(f"{path}, {_lines(missing)}: no score")
    return frame


def _fractions(column: str, value: pd.Series, path: Path | str, notes: list[str]) -> pd.Series:
    known = value.dropna()
    if known.empty:
        return value
    percent = bool(known[known != 0].median() > 1)
    wrong = known[(known < 0) | (known > (100 if percent else 1))].to_frame("value")
    if len(wrong):
        raise InputError(
            f"{path}, {_lines(wrong)}: {column} {wrong.value.iloc[0]:g} is out of range",
            why=f"most of the column is in {'percent' if percent else 'fractions'}",
        )
    if percent:
        notes.append(f"{column} was read as percent.")
    return value / 100 if percent else value


def _with_baselines(runs: pd.DataFrame, sft: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    found, several, which = _baseline(runs, sft)
    given = runs.baseline.notna()
    drawn = _over_all_seeds(runs.assign(baseline=found, baseline_run=which), sft)
    drawn = drawn.assign(
        baseline=runs.baseline.fillna(drawn.baseline),
        baseline_run=drawn.baseline_run.mask(given, ""),
        baselines=drawn.baselines.where(~given, None),
    )
    agreed = sft.groupby(["student", "teacher", "task"]).agreement.mean().rename("mean")
    own = runs.merge(agreed, left_on=agreed.index.names, right_index=True, how="left")
    runs = drawn.assign(agreement_sft=runs.agreement_sft.fillna(own["mean"]))
    alone = runs[runs.baseline.isna()]
    if len(alone):
        first = alone.iloc[0]
        how = "several SFT rows could be" if several[alone.index[0]] else "no SFT row is"
        raise InputError(
            f"{path}, {_lines(alone)}: {how} the baseline of {first.student} on {first.task}",
            why="a gain is a difference from the same student without a teacher",
            remedy="add rows with method sft, or a column baseline",
        )
    return runs


def _baseline(
    runs: pd.DataFrame, sft: pd.DataFrame, keys: list[list[str]] | None = None
) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return the SFT score that fits each run closest, whether several differ, and which it is."""
    value = pd.Series(np.nan, index=runs.index)
    which = pd.Series("", index=runs.index)
    several = pd.Series(False, index=runs.index)
    own = ["student", "task"]
    for key in keys or [[*own, "teacher", "seed"], [*own, "seed"], [*own, "teacher"], own]:
        known = sft.dropna(subset=["score"]).assign(line=lambda rows: rows.index)
        scores = known.groupby(key, dropna=False).agg(
            min=("score", "min"), max=("score", "max"), line=("line", "first")
        )
        fits = runs[key].merge(scores, left_on=key, right_index=True, how="left")
        fits = fits.set_axis(runs.index)
        clash = fits["max"] > fits["min"]
        new = value.isna() & fits["min"].notna() & ~clash
        which = which.mask(new, "line " + fits["line"].astype("Int64").astype(str))
        value = value.fillna(fits["min"].mask(clash))
        several |= clash & value.isna()
    return value, several, which


def _lines(rows: pd.DataFrame) -> str:
    shown = ", ".join(map(str, rows.index[:5])) + (", ..." if len(rows) > 5 else "")
    return f"line {shown}" if len(rows) == 1 else f"lines {shown}"
