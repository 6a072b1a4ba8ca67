"""A table of results made from numbers worked out by hand."""

import itertools

import numpy as np
import pandas as pd

from kdstudy.analysis.results import COLUMNS, NUMBERS

# Twelve invented runs: gains fall with size, while inside a student they rise with agreement.
STUDENTS = ["s", "m", "l"]
METHODS = ["seqkd", "word_kd", "revkd", "gkd"]
GAINS = [0.104, 0.081, 0.133, 0.097, 0.061, 0.044, 0.079, 0.052, 0.012, -0.004, 0.021, 0.009]
AGREEMENTS = [0.51, 0.49, 0.55, 0.50, 0.63, 0.60, 0.66, 0.61, 0.74, 0.73, 0.76, 0.72]


def made_table(gains=GAINS, agreements=AGREEMENTS, students=STUDENTS, methods=METHODS, seeds=(0,)):
    rows = []
    for i, (student, method) in enumerate(itertools.product(students, methods)):
        for seed in seeds:
            base = {
                "study": "made",
                "system": f"{student}/{method}/{seed}",
                "kind": "distilled",
                "model": student,
                "student": student,
                "parameters": 10 ** (6 + students.index(student)),
                "teacher": "t",
                "method": method,
                "ablation": "",
                "temperature": 1.0,
                "noise": 0.0,
                "seed": seed,
                "benchmark": "bench",
                "n": 100,
                "low": np.nan,
                "high": np.nan,
                "signature": "made|draws:1|",
            }
            rows.append(base | {"metric": "accuracy", "reference": "", "value": 0.5 + gains[i]})
            sft = f"{student}/sft"
            rows.append(base | {"metric": "gain", "reference": sft, "value": gains[i]})
            rows.append(base | {"metric": "agreement", "reference": "t", "value": agreements[i]})
            rows.append(base | {"metric": "bleu_corpus", "reference": "t", "value": 50.0 + i})
    own = {"metric": "accuracy", "reference": "", "teacher": "", "method": "sft"}
    teacher = {"system": "t", "kind": "teacher", "model": "t", "value": 0.9}
    rows.append(rows[0] | own | teacher)
    for student in students:
        sft = {"system": f"{student}/sft", "kind": "sft", "model": student, "value": 0.5}
        rows.append(rows[0] | own | sft)
    return pd.DataFrame(rows, columns=COLUMNS).astype(NUMBERS)
