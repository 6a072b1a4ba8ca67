"""The published numbers as tables: what the paper prints and what its authors released."""

import functools
import importlib.resources
import operator
from typing import Literal, get_args

import numpy as np
import pandas as pd

from kdstudy.errors import InputError

Aggregation = Literal["max", "tau1", "printed"]

BENCHMARKS = {"a": "math", "b": "commonsense", "": "math"}
"""Panel of a printed table -> its benchmarks; Table 5 has no panel and is about math."""

AVERAGE = "Average"
ROUNDING = 0.02
"""Points by which two accuracies in two decimals can be off together."""

CELL = ["benchmark", "teacher", "student", "method", "task"]
"""What names one student's result on one task."""

_RUN = ["benchmark", "teacher", "student", "method", "temperature"]


@functools.cache
def read(name: str) -> pd.DataFrame:
    """Return one published table (`numbers/<name>.csv`), not to be changed; "" where text lacks."""
    path = importlib.resources.files(__package__) / "numbers" / f"{name}.csv"
    with path.open(encoding="utf-8") as file:
        frame = pd.read_csv(file)
    for column in ("teacher", "panel"):
        if column in frame:
            frame[column] = frame[column].fillna("")
    return frame


def size(model: str) -> float:
    """Return a model's size in billions of parameters, as its name has it."""
    return float(model.rsplit("-", 1)[1].removesuffix("B"))


@functools.cache
def _released() -> pd.DataFrame:
    """Every released run, task by task, and its average as the authors rounded it."""
    runs = read("runs")
    return pd.concat([runs, _run_averages(runs, ["kind", *_RUN])], ignore_index=True)


def _run_averages(runs: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return the average of each run over its tasks, in two decimals.

    The print's averages are binary sums from left to right, then rounded: only so do all 78
    that belong to temperature 1 come out, and only so does the last cell of Table 1a.
    """
    means = runs.groupby(key, dropna=False, sort=False).accuracy.agg(
        lambda x: round(functools.reduce(operator.add, x.tolist()) / len(x), 2)
    )
    return means.reset_index().assign(task=AVERAGE)


def sft() -> pd.DataFrame:
    """Return the released SFT runs: benchmark, student, task (with `Average`), accuracy (%)."""
    runs = _released()
    return runs[runs.kind == "sft"][["benchmark", "student", "task", "accuracy"]]


def distilled() -> pd.DataFrame:
    """Return every released run of a fine-tuned teacher: `CELL`, temperature, accuracy (%)."""
    runs = _released()
    return runs[runs.kind == "kd_temperature"][[*CELL, "temperature", "accuracy"]]


def ablated(kind: Literal["base_model", "base_teacher"]) -> pd.DataFrame:
    """Return base models, or students of a teacher that never saw the task."""
    runs = _released()
    return runs[runs.kind == kind][[*CELL, "accuracy"]]


def agreement() -> pd.DataFrame:
    """Return agreement in % per benchmark, teacher, student and task: kd, sft, self."""
    names = {"student_KD~teacher": "kd", "student_SFT~teacher": "sft"}
    names["student_KD~student_SFT"] = "self"
    table = read("agreement")
    table = table.assign(value=100 * table.n_agree / table.n_items)
    wide = table.pivot(index=[*CELL[:3], "task"], columns="comparison", values="value")
    return wide.rename(columns=names)[["kd", "sft", "self"]]


def cells(aggregation: Aggregation) -> pd.DataFrame:
    """Return the 33 students of every task, and of `Average`, as the paper's tests take them.

    Args:
        aggregation: `max`, the best temperature of each task, and of each average, on the test
            set, as the paper did; `tau1`, the runs at temperature 1; `printed`, Tables 7 and 8.

    Returns:
        `CELL`, score, baseline, teacher_score (%), gain (points), size (billions), agreement
        (KD with teacher) and agreement_sft (%); agreement has no average.

    Raises:
        InputError: Unknown aggregation.
    """
    if aggregation == "printed":
        scores, base = _printed()
    elif aggregation in get_args(Aggregation):
        scores, base = distilled(), sft()
        if aggregation == "tau1":
            scores = scores[scores.temperature == 1]
        scores = scores.groupby(CELL, sort=False).accuracy.max().reset_index()
    else:
        raise InputError(
            f"unknown aggregation {aggregation!r}",
            remedy=f"one of {', '.join(get_args(Aggregation))}",
        )
    return _with_factors(scores.rename(columns={"accuracy": "score"}), base)


def _printed() -> tuple[pd.DataFrame, pd.DataFrame]:
    average = read("accuracy_printed_average").rename(columns={"printed_average": "accuracy"})
    rows = pd.concat([read("accuracy"), average.assign(task=AVERAGE)], ignore_index=True)
    alone = rows.method == "SFT"
    return rows[~alone], rows[alone]


def _with_factors(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    accuracy = base.set_index(["benchmark", "student", "task"]).accuracy
    together = agreement()

    def looked_up(values: pd.Series, columns: list[str]):
        return values.reindex(pd.MultiIndex.from_frame(rows[columns])).to_numpy()

    pair = ["benchmark", "teacher", "student", "task"]
    rows = rows.assign(
        baseline=looked_up(accuracy, ["benchmark", "student", "task"]),
        teacher_score=looked_up(accuracy, ["benchmark", "teacher", "task"]),
        size=rows.student.map(size),
        agreement=looked_up(together.kd, pair),
        agreement_sft=looked_up(together.sft, pair),
    )
    return rows.assign(gain=rows.score - rows.baseline).reset_index(drop=True)


def agreement_runs() -> pd.DataFrame:
    """Return the run behind each pair's agreement with the teacher, told by its accuracies.

    Agreement of two models lies between acc_s + acc_t - 1 and 1 - |acc_s - acc_t|, task by task.
    RevKD keeps to this in all pairs, all but one at temperature 1; GKD and SeqKD do not.

    Returns:
        benchmark, teacher, student, method, temperature and outside, the points by which the
        worst task breaks the bounds (0: it can be that run); one row per released run of a pair.
    """
    together = agreement().kd.rename("together").reset_index()
    teacher = sft().rename(columns={"student": "teacher", "accuracy": "taught"})
    rows = distilled().merge(together, on=["benchmark", "teacher", "student", "task"])
    rows = rows.merge(teacher, on=["benchmark", "teacher", "task"])
    below = rows.accuracy + rows.taught - 100 - rows.together
    above = rows.together - (100 - (rows.accuracy - rows.taught).abs())
    worst = np.maximum(below, above).clip(lower=0).groupby([rows[c] for c in _RUN]).max()
    return worst.where(worst > ROUNDING, 0.0).rename("outside").reset_index()


def undeclared_temperatures() -> pd.DataFrame:
    """Return the runs of Tables 7-8 that are not the released run at temperature 1.

    Returns:
        benchmark, teacher, student, method, temperature (the run that was printed), average (%,
        printed) and average_tau1 (%, released); NaN where no released run has the printed values.
    """
    runs = distilled()
    runs = runs[runs.task != AVERAGE]
    key = [c for c in CELL if c != "task"]
    both = runs.merge(read("accuracy"), on=CELL, suffixes=("", "_printed"))
    far = (both.accuracy - both.accuracy_printed).abs().groupby([both[c] for c in _RUN]).max()
    same = far[far < 0.005].reset_index().groupby(key).temperature.min()
    average = distilled().query("task == @AVERAGE and temperature == 1").set_index(key).accuracy
    table = read("accuracy_printed_average").set_index(key).printed_average
    table = table[table.index.get_level_values("method") != "SFT"].rename("average").to_frame()
    table["temperature"] = same.reindex(table.index)
    table["average_tau1"] = average.reindex(table.index)
    return table[table.temperature != 1].reset_index()
