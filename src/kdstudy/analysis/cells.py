"""Runs with seeds averaged and an average over tasks: one row per cell of the design."""

import pandas as pd

from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.runs import MEASURES, RUN, tidy
from kdstudy.errors import InputError

CELL = ["student", "teacher", "method"]
ALL = "all methods"


def main_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are compared, and each one's mean over tasks as the task `average`.

    Only runs at the temperature that most runs have stay (none is chosen by its score); runs
    without one stay too. `average` is the unweighted mean over tasks of a run that has them all; a
    task that is already called so is taken as it is. `attrs["notes"]` says what was left out.

    Raises:
        InputError: See `runs.tidy`; or no row has both score and baseline.
    """
    frame = tidy(runs, runs.attrs.get("notes", ()))
    # Sums of floats, and which of equal rows is the first, depend on order: here that ends.
    notes = list(frame.attrs["notes"])
    frame = frame.sort_values([*RUN, "task"], ignore_index=True, kind="stable")
    empty = frame.gain.isna()
    if empty.any():
        notes.append(f"{empty.sum()} rows without a score or baseline are left out.")
    frame = frame[~empty]
    if frame.empty:
        raise InputError("no run has both a score and a baseline")
    frame = frame.assign(task=frame.task.where(frame.task.str.lower() != AVERAGE, AVERAGE))
    usual = _usual_temperature(frame)
    other = frame.temperature.notna() & (frame.temperature != usual)
    if other.any():
        left = len(frame[other].drop_duplicates(RUN))
        notes.append(f"{left} runs at another temperature than {usual:g} are left out.")
    frame = frame[~other]
    if AVERAGE not in set(frame.task):
        average, incomplete = _averages(frame)
        frame = pd.concat([frame, average], ignore_index=True)
        if incomplete:
            notes.append(f"{incomplete} runs lack a task and are not in the average.")
    frame.attrs["notes"] = notes
    return frame


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (student, teacher, method, task): a second seed is no new student.

    Args:
        frame: From `main_runs`.

    Returns:
        Those four columns, the means over seeds of `runs.MEASURES`, and `seed_variance`: that of
        the mean score over seeds, NaN of one seed.
    """
    by_cell = frame.groupby([*CELL, "task"], sort=True)
    spread = by_cell.score.var(ddof=1) / by_cell.size()
    return by_cell[MEASURES].mean().assign(seed_variance=spread).reset_index()


def _averages(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    runs = frame.groupby(RUN, dropna=False)
    whole = frame[runs.task.transform("size") == frame.task.nunique()].groupby(RUN, dropna=False)
    # A measure that some task lacks has no average: sum / size, not the mean of what is there.
    means = whole[MEASURES].sum(min_count=frame.task.nunique()) / frame.task.nunique()
    # A mean over tasks varies over items as one task of so many does.
    means["items"] = frame.task.nunique() ** 2 / whole["items"].agg(_inverses)
    # By task, whatever the order of the rows: an SFT run is known by its label on every task.
    ordered = frame[runs.task.transform("size") == frame.task.nunique()].sort_values("task")
    of_run = ordered.groupby(RUN, dropna=False)
    means["baseline_run"] = of_run.baseline_run.agg("|".join)
    means["baselines"] = of_run.baselines.agg(_mean_baselines)
    return means.reset_index().assign(task=AVERAGE)[frame.columns], runs.ngroups - len(means)


def _inverses(items: pd.Series) -> float:
    return float((1 / items).sum(skipna=False))


def _mean_baselines(parts: pd.Series) -> tuple[float, ...]:
    """Return the means over tasks of SFT's seeds; () where some task names none, or others."""
    sizes = {len(scores) for scores in parts}
    if len(sizes) > 1 or 0 in sizes:
        return ()
    return tuple(sum(scores) / len(parts) for scores in zip(*parts, strict=True))


def _usual_temperature(frame: pd.DataFrame) -> float:
    counts = frame.temperature.value_counts()
    if counts.empty:
        return float("nan")
    most = counts.index[counts == counts.max()]
    return float(min(most, key=lambda t: (abs(t - 1), t)))


def scopes(rows: pd.DataFrame) -> list[str]:
    """Return the tasks of some cells, the average last."""
    return sorted(set(rows.task), key=lambda task: (task == AVERAGE, task))


def subjects(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return all methods together, then each method with its cells."""
    found = [(ALL, rows)]
    return found + [(m, rows[rows.method == m]) for m in sorted(rows.method.unique())]


def on(scope: str) -> str:
    """Return where a test was made, for a sentence."""
    return "on average" if scope == AVERAGE else f"on {scope}"
