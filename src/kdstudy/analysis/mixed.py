"""The mean gain from a mixed model with crossed student, teacher and task effects."""

import math
import warnings

import numpy as np
import pandas as pd
from statsmodels.regression.mixed_linear_model import MixedLM

from kdstudy.analysis.cells import ALL
from kdstudy.analysis.clustered import Mean, sampled
from kdstudy.analysis.results import AVERAGE
from kdstudy.analysis.verdict import Test, empty, format_p, points

MOST_LEVELS = 400
"""A component with more levels than this is left to the residual: a fit would take minutes."""
_BOUNDARY = 1e-4
"""A component under this share of the variance is at its boundary, 0."""


def mixed_model(rows: pd.DataFrame) -> Test:
    """Return the mean gain over tasks with random student, teacher, task and student-task effects.

    Methods are averaged first. A student and a task share one SFT run's score, hence their own
    component. REML (statsmodels `MixedLM`); interval and p take the t distribution on students
    less 1 degrees, since the normal one is far too sure with six students. Not converged is NaN;
    a component at 0 is said.

    Args:
        rows: From `cells.cells`.
    """
    data = rows[rows.task != AVERAGE] if rows.task.nunique() > 1 else rows
    keys = ["student", "teacher", "task"]
    data = data.groupby(keys, as_index=False).gain.mean()
    students, n = data.student.nunique(), len(data)
    data["student_task"] = data.groupby(["student", "task"], sort=True).ngroup()
    crossed = ["student_task"] if data.task.nunique() > 1 else []
    parts = [c for c in (*keys, *crossed) if 1 < data[c].nunique() < min(n, MOST_LEVELS)]
    for column in parts:
        # Numbers for names: the formula language takes one called "nan" for a missing value.
        data[column] = pd.factorize(data[column], sort=True)[0]
    shared = {
        "table": "gain",
        "name": "mixed model",
        "subject": ALL,
        "scope": AVERAGE,
        "n": n,
        "clusters": students,
        "signature": f"MixedLM|reml|{'+'.join(parts)}|t:students-1|n:{n}",
        "family": "mixed model",
    }
    mean = float(data.gain.mean())
    if students < 2 or "student" not in parts or np.ptp(data.gain.to_numpy()) < 1e-12:
        alone = "a student has no second row" if students > 1 else "fewer than two students"
        why = "every gain is the same" if students > 1 and np.ptp(data.gain) < 1e-12 else alone
        return empty(shared, f"No mixed model of the gain: it cannot be fitted, {why}.")
    fit = _fit(data, parts)
    if fit is None:
        text = "No mixed model of the gain: it cannot be estimated, the fit did not converge."
        return empty(shared, text, estimate=mean)
    whole = rows[rows.task == AVERAGE]
    return _result(shared, fit, parts, sampled(rows if whole.empty else whole))


def _fit(data: pd.DataFrame, parts: list[str]):
    """Return a converged fit in points, or None."""
    design = {
        "groups": np.ones(len(data)),
        "vc_formula": {c: f"0 + C({c})" for c in parts},
        "data": data.assign(gain=100 * data.gain),
    }
    with warnings.catch_warnings():
        # Convergence and boundary are read off the fit; statsmodels also warns on each retry.
        warnings.simplefilter("ignore")
        try:
            # Gradient methods stop early where a component is 0; these two do not.
            fit = MixedLM.from_formula("gain ~ 1", **design).fit(method=["powell", "nm"])
            known = fit.converged and np.isfinite(fit.bse_fe.iloc[0])
        except np.linalg.LinAlgError:
            return None
    return fit if known else None


def _result(shared: dict, fit, parts: list[str], floor: float) -> Test:
    estimate = float(fit.fe_params.iloc[0]) / 100
    error = float(fit.bse_fe.iloc[0]) / 100
    found = Mean(estimate, error, shared["clusters"] - 1, floor=math.sqrt(floor))
    p, (low, high) = found.p, found.interval()
    variances = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    total = sum(variances.values()) + fit.scale
    shares = {c: variances[c] / total for c in parts}
    said = ", ".join(f"{c.replace('_', ' x ')} {100 * s:.0f}%" for c, s in shares.items())
    zero = [c.replace("_", " x ") for c, s in shares.items() if s < _BOUNDARY]
    edge = f"; at the boundary 0: {', '.join(zero)}" if zero else ""
    sentence = (
        f"A mixed model puts the mean gain at {points(estimate)} points (95% interval "
        f"{points(float(low))} to {points(float(high))}, p = {format_p(p)}, "
        f"{shared['clusters']} students); share of the variance: {said}{edge}."
    )
    ends = {"low": float(low), "high": float(high)}
    return Test(
        **shared, statistic=found.statistic, estimate=estimate, **ends, p=p, sentence=sentence
    )
