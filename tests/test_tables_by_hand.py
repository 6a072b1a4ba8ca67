"""Tables that people wrote: commas too many, quoted breaks, names that look like gaps."""

import math

import numpy as np
import pandas as pd
import pytest
from made_runs import cells

from kdstudy.analysis.analysis import analyze, analyze_items
from kdstudy.analysis.csv_rows import read_rows
from kdstudy.analysis.intervals import Bootstrap, mean_of
from kdstudy.analysis.matched import matched_tests, repeated_measures
from kdstudy.analysis.measures import pair_rows
from kdstudy.analysis.mixed import mixed_model
from kdstudy.analysis.results import COLUMNS, read_csv
from kdstudy.analysis.runs import read_runs
from kdstudy.errors import InputError
from kdstudy.evaluation.fidelity import pair
from kdstudy.records import Score

HEADER = "student,method,task,accuracy"
ROWS = ("s,sft,gsm,0.4", "s,kd,gsm,0.5", "r,sft,gsm,0.3", "r,kd,gsm,0.42")


def written(tmp_path, *lines, header=HEADER):
    path = tmp_path / "runs.csv"
    path.write_bytes("\n".join([header, *lines, ""]).encode())
    return path


@pytest.mark.parametrize("which", [range(4), [0], [3]])
def test_a_trailing_comma_shifts_nothing(tmp_path, which):
    rows = [row + "," * (i in which) for i, row in enumerate(ROWS)]
    runs = read_runs(written(tmp_path, *rows))
    assert runs.gain.tolist() == pytest.approx([0.1, 0.12])
    assert runs.student.tolist() == ["s", "r"]
    whole = read_runs(written(tmp_path, *(row + "," for row in ROWS), header=HEADER + ","))
    assert whole.gain.tolist() == pytest.approx([0.1, 0.12])


def test_a_cell_too_many_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"line 4: is not a CSV table .5 cells, the header has 4"):
        read_runs(written(tmp_path, ROWS[0], ROWS[1], "r,sft,gsm,0.3,0.9", ROWS[3]))


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ((), 3),
        (("", ""), 5),
        (('"s\nand t",kd,gsm,0.5', '"s\nand t",sft,gsm,0.4'), 7),
        (('"s\n\nand t",kd,gsm,0.5', "", '"s\n\nand t",sft,gsm,0.4'), 10),
    ],
)
def test_lines_are_those_of_the_file(tmp_path, before, line):
    path = written(tmp_path, ROWS[0], *before, "s,kd,gsm,high")
    shown = path.read_text().split("\n")
    assert shown[line - 1] == "s,kd,gsm,high"
    with pytest.raises(InputError, match=f"line {line}: score 'high'"):
        read_runs(path)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("student,method,task,score,Score", "'score' and 'Score'"),
        ("student,method,task,score,accuracy", "'score' and 'accuracy'"),
        ("student,method,task,dataset,score", "'task' and 'dataset'"),
    ],
)
def test_two_columns_for_one_thing_are_refused_where_they_differ(tmp_path, header, names):
    rows = ["s,sft,0.4,0.4,0.4", "s,kd,0.5,0.5,0.25"]
    if "dataset" in header:
        rows = ["s,sft,gsm,math,0.4", "s,kd,gsm,math,0.5"]
    with pytest.raises(InputError, match=names):
        read_runs(written(tmp_path, *rows, header=header))


def test_two_columns_that_say_the_same_are_one(tmp_path):
    path = written(tmp_path, "s,sft,gsm,0.4,0.4", "s,kd,gsm,0.5,0.5", header=HEADER + ",score")
    assert read_runs(path).gain.item() == pytest.approx(0.1)
    with pytest.raises(InputError, match="two columns 'task'"):
        read_runs(written(tmp_path, "s,kd,gsm,gsm,0.4", header="student,method,task,task,score"))


@pytest.fixture(scope="module")
def plain():
    rng = np.random.default_rng(0)
    rows = pd.concat([cells(k, f"task{k}") for k in range(3)], ignore_index=True)
    rows = rows.assign(score=rows.score + 0.01 * rng.normal(size=len(rows)), seed=0)
    return rows, analyze(rows)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        *(("student", name) for name in ("nan", "NaN", "NA", "None", "null", "-inf")),
        *((column, "nan") for column in ("teacher", "task", "method")),
    ],
)
def test_a_name_that_looks_like_a_gap_is_a_name(plain, column, name):
    rows, tests = plain
    first = rows[column].iloc[0]
    found = analyze(rows.assign(**{column: rows[column].replace(first, name)}))
    by_name = {(t.table, t.name, t.scope): t.p for t in tests if t.subject == "all methods"}
    compared = 0
    for t in found:
        if t.subject == "all methods" and t.scope == "average":
            expected = by_name[t.table, t.name, t.scope]
            assert math.isnan(expected) or t.p == pytest.approx(expected, rel=1e-4, abs=1e-12)
            compared += 1
    assert compared


def test_a_mixed_model_does_not_depend_on_names():
    rows = cells()
    again = rows.assign(student=rows.student.replace("a", "nan"))
    assert mixed_model(again).p == pytest.approx(mixed_model(rows).p, rel=1e-6)


def test_a_results_table_with_trailing_commas_is_read_as_it_is(tmp_path):
    row = dict.fromkeys(COLUMNS, "1") | {"system": "nan", "ablation": "", "low": ""}
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(row.values()) + ",\n")
    table = read_csv(path)
    assert table.system.item() == "nan" and table.ablation.item() == ""
    assert table.value.item() == 1.0 and math.isnan(table.low.item())


def test_an_open_quote_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match="line 2: is not a CSV table"):
        read_rows(written(tmp_path, '"s,sft,gsm,0.4', "s,kd,gsm,0.5"))


def graded(right):
    rows = [
        (f"s/{m}", "s", "" if m == "sft" else "t", m, "b", f"{i:02d}", int(hit))
        for m, hits in right.items()
        for i, hit in enumerate(hits)
    ]
    columns = ["system", "student", "teacher", "method", "benchmark", "example_id", "correct"]
    return pd.DataFrame(rows, columns=columns)


def test_zero_variance_is_explained_by_what_it_is():
    right = {"sft": [0] * 10 + [1] * 10, "kd": [1] * 20, "rkd": [0] * 20}
    found = {t.subject: t for t in analyze_items(graded(right)) if t.table == "methods"}
    every = found["kd − rkd"]
    assert every.estimate == 1.0 and every.p == 2.0**-19 and "is better than" in every.sentence
    same = analyze_items(graded(right | {"rkd": right["kd"]}))
    none = next(t for t in same if t.table == "methods" and t.subject == "kd − rkd")
    assert none.estimate == 0.0 and "no item tells them apart" in none.sentence
    rows = pd.DataFrame(
        [
            (s, "t", m, "average", base + gain)
            for s, base in (("a", 0.0), ("b", 0.1), ("c", 0.2))
            for m, gain in (("x", 0.02), ("y", 0.04), ("z", 0.06))
        ],
        columns=["student", "teacher", "method", "task", "gain"],
    )
    told = [t.sentence for t in matched_tests(rows) if math.isnan(t.p)]
    assert told and all("every student tells them apart alike" in s for s in told)
    flat = repeated_measures(pd.DataFrame([[0.1, 0.1], [0.2, 0.2]], columns=["x", "y"]))
    assert "no student tells them apart" in flat.sentence


@pytest.mark.parametrize(("value", "top"), [(1.0, 1.0), (0.0, 1.0), (100.0, 100.0), (0.4, 1.0)])
@pytest.mark.parametrize("n", [4, 30])
def test_equal_values_have_an_exact_interval(value, top, n):
    # n of n items show this value: Clopper-Pearson's lower end solves q^n = 0.025.
    share = 0.025 ** (1 / n)
    mean, low, high = mean_of(np.full(n, value), Bootstrap(), top)
    assert mean == pytest.approx(value)
    assert low == pytest.approx(share * value) and low < high
    assert high == pytest.approx(share * value + (1 - share) * top)


def test_one_item_has_no_interval():
    assert [math.isnan(x) for x in mean_of(np.array([0.5]), Bootstrap())] == [False, True, True]


def answers(*texts):
    return [
        Score(
            benchmark="b", example_id=f"{i}", sample=0, completion=text, extracted=text,
            rule="label-corrected", outcome="correct", quality=1.0, tokens=1,
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip


def test_texts_too_short_for_bleu_have_none():
    short, long = answers("yes", "no", "yes it is"), answers("a b c d e", "l m n o", "f g h i j k")
    rows = {r["metric"]: r for r in pair_rows(pair(short, short), 0.5, False, Bootstrap())}
    assert math.isnan(rows["bleu_corpus"]["value"])  # BLEU calls these equal texts 0 alike
    assert rows["bleu_sentence"]["value"] == pytest.approx(100.0)
    assert rows["bleu_sentence"]["low"] < rows["bleu_sentence"]["high"]
    rows = {r["metric"]: r for r in pair_rows(pair(long, long), 0.5, False, Bootstrap())}
    assert rows["bleu_corpus"]["value"] == pytest.approx(100.0)
    assert math.isnan(rows["bleu_corpus"]["low"])  # all resamples alike is not certainty
