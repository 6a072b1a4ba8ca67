"""Invented cells with a known structure, for the tests of study-level statistics."""

import numpy as np
import pandas as pd

# As in the paper: pairs of unequal students.
PAIRS = [
    *[("a", t) for t in ("x", "y", "z")],
    *[("b", t) for t in ("x", "y", "z")],
    *[("c", t) for t in ("y", "z")],
    *[("d", "z"), ("e", "w"), ("f", "w")],
]
SIZES = dict(zip("abcdef", [5e8, 1.5e9, 3e9, 7e9, 1e9, 3.2e9], strict=True))
TEACHERS = dict(zip("xyzw", [0.7, 0.8, 0.85, 0.78], strict=True))


def cells(seed=0, task="average", methods=("gkd", "kd", "revkd"), student_sd=0.03):
    """Return 33 cells whose gains share a student's effect."""
    rng = np.random.default_rng(seed)
    effect = dict(zip("abcdef", student_sd * rng.normal(size=6), strict=True))
    rows = []
    for student, teacher in PAIRS:
        for m in methods:
            gain = 0.03 + effect[student] + 0.015 * rng.normal()
            rows.append((student, teacher, m, task, 0.5 + gain, 0.5, gain))
    columns = ["student", "teacher", "method", "task", "score", "baseline", "gain"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        size=frame.student.map(SIZES),
        teacher_score=frame.teacher.map(TEACHERS),
        agreement=0.6 + frame.gain + 0.02 * rng.normal(size=len(frame)),
        agreement_sft=0.6,
        fidelity=np.nan,
    )


def runs(seeds=1, tasks=3):
    """Return runs of several tasks (and seeds), as `analyze` takes them."""
    parts = []
    for k in range(tasks):
        for s in range(seeds):
            parts.append(cells(100 * s + k, f"task{k}").assign(seed=s, temperature=1.0))
    return pd.concat(parts, ignore_index=True)
