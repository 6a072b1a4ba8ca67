"""Results tables of any origin as runs: what is read, and what is refused with its line."""

import warnings

import numpy as np
import pandas as pd
import pytest
from fake_study import fake_study

from kdstudy.analysis.cells import cells, main_runs
from kdstudy.analysis.results import AVERAGE, collect, write_csv
from kdstudy.analysis.runs import RUN_COLUMNS, from_results, read_runs, tidy
from kdstudy.errors import InputError

HEADER = "student,teacher,method,task,accuracy"


@pytest.fixture(scope="module")
def table():
    s = fake_study(n=20)
    return collect(s.systems, s.scores, s.pairs, s.parameters, s.name)


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        path = tmp_path / "runs.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_runs_of_a_study_hold_its_own_gains_and_agreements(table):
    runs = from_results(table)
    assert list(runs.columns) == RUN_COLUMNS
    value = table.set_index(["system", "benchmark", "reference", "metric"]).value
    for r in runs.sample(12, random_state=0).itertuples():
        rows = table[(table.kind == "distilled") & (table.student == r.student)]
        rows = rows[(rows.method == r.method) & (rows.temperature == r.temperature)]
        rows = rows[(rows.teacher == r.teacher) & rows.ablation.isin(["", "temperature"])]
        rows = rows[(rows.benchmark == r.task) & (rows.seed == r.seed)]
        assert rows[rows.metric == "gain"].value.item() == pytest.approx(r.gain)
        sft = rows[rows.metric == "gain"].reference.item()
        assert value[sft, r.task, r.teacher, "agreement"] == pytest.approx(r.agreement_sft)
        assert value[r.teacher, r.task, "", "accuracy"] == pytest.approx(r.teacher_score)
        with_teacher = rows[rows.reference == r.teacher].set_index("metric").value
        assert with_teacher["agreement"] == pytest.approx(r.agreement)
        assert with_teacher["bleu_corpus"] == pytest.approx(100 * r.fidelity)


def test_cells_are_the_main_grid_and_its_averages(table):
    found = cells(main_runs(from_results(table)))
    found = found.set_index(["student", "teacher", "method", "task"])
    main = table[(table.kind == "distilled") & (table.ablation == "")]
    own = main.metric.isin(["accuracy", "gain"])
    with_teacher = (main.metric == "agreement") & (main.reference == main.teacher)
    wide = main[own | with_teacher].pivot_table(
        index=["student", "teacher", "method", "benchmark"], columns="metric", values="value"
    )
    assert len(found) == len(wide) and AVERAGE in set(found.index.get_level_values("task"))
    for column, metric in (("score", "accuracy"), ("gain", "gain"), ("agreement", "agreement")):
        np.testing.assert_allclose(found[column], wide[metric].loc[found.index])


def test_free_texts_are_left_out_and_said(table):
    text = (table.benchmark == "choice") & (table.metric == "accuracy")
    runs = from_results(table.assign(metric=table.metric.mask(text, "rouge_l")))
    assert "choice" not in set(runs.task) and len(runs)
    assert runs.attrs["notes"] == ["Free-text tasks are left out, ROUGE-L is no accuracy: choice."]
    with pytest.raises(InputError, match="no distilled run has an accuracy"):
        from_results(table[table.metric != "accuracy"])


def test_a_results_csv_is_recognised_by_its_columns(table, tmp_path):
    write_csv(table, tmp_path / "results.csv")
    pd.testing.assert_frame_equal(
        read_runs(tmp_path / "results.csv"), from_results(table), rtol=1e-9
    )


def test_percent_becomes_fractions_and_is_said(written):
    path = written(
        "Student,METHOD,Dataset,Accuracy,size",
        "s,SFT,gsm,40.5,",
        "s,gkd,gsm,52.25,5e8",
        "s,gkd,aqua,0.5,5e8",
        "s,sft,aqua,30,",
    )
    runs = read_runs(path)
    assert runs.score.tolist() == [0.5225, 0.005] and runs.baseline.tolist() == [0.405, 0.3]
    assert runs.gain.tolist() == pytest.approx([0.1175, -0.295])
    assert runs["size"].tolist() == [5e8, 5e8] and set(runs.teacher) == {""}
    assert runs.attrs["notes"] == ["score was read as percent."]


def test_fractions_stay_and_teachers_have_their_own_sft_score(written):
    path = written(HEADER, "s,,sft,gsm,0.4", "t,,sft,gsm,0.8", "s,t,gkd,gsm,0.5", "s,,base,gsm,0.1")
    runs = read_runs(path)
    assert len(runs) == 1 and runs.teacher_score.item() == 0.8 and runs.gain.item() == 0.5 - 0.4
    assert runs.attrs["notes"] == ["1 rows of untrained models are left out."]


def test_the_baseline_is_the_closest_sft_row(written):
    path = written(
        f"{HEADER},seed",
        *("s,,sft,gsm,0.40,0", "s,,sft,gsm,0.44,1"),
        *("s,t,gkd,gsm,0.5,0", "s,t,gkd,gsm,0.5,1"),
    )
    assert read_runs(path).baseline.tolist() == [0.40, 0.44]
    path = written(
        HEADER,
        *("s,t,sft,gsm,0.40", "s,u,sft,gsm,0.44"),  # per teacher, as some tables have it
        *("s,t,gkd,gsm,0.5", "s,u,gkd,gsm,0.5"),
    )
    assert read_runs(path).baseline.tolist() == [0.40, 0.44]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["student,method,task", "s,gkd,a"], "no column score"),
        (["method,task,score", "gkd,a,0.5"], "no column student"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,a,high"], "line 3: score 'high' is no number"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,a,inf"], "line 3: score 'inf' is no number"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,a,"], "line 3: no score"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,,0.5"], "line 3: no task"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,a,1.02", "s,t,kd,a,0.5"], "line 3: score 1.02 is out"),
        ([HEADER, "s,,sft,a,40", "s,t,gkd,a,140"], "line 3: score 140 is out of range"),
        ([HEADER, "s,,sft,a,40", "s,t,gkd,a,-3", "s,t,kd,a,30"], "line 3: score -3 is out"),
        ([HEADER, "s,,sft,a,0.4", *["s,t,gkd,a,0.5"] * 2], "lines 3, 4: the same run and task"),
        ([HEADER, "s,,sft,a,0.4", "s,t,gkd,b,0.5"], "line 3: no SFT row is the baseline of s on b"),
        (
            [HEADER, "s,,sft,a,0.4", "s,,sft,a,0.5", "s,t,gkd,a,0.5"],
            "line 4: several SFT rows could be",
        ),
        ([f"{HEADER},seed", "s,,sft,a,0.4,0", "s,t,gkd,a,0.5,1.5"], "line 3: seed '1.5' is no wh"),
        ([HEADER, "s,,sft,a,0.4"], "no row of a distilled run"),
        ([""], "is not a CSV table"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(written, lines, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"runs\.csv") as e:
            read_runs(written(*lines))
    assert said in str(e.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_runs(tmp_path / "nowhere.csv")


def frame(**columns):
    base = {"student": "s", "teacher": "t", "method": "gkd", "task": ["a", "b"], "baseline": 0.4}
    return pd.DataFrame(base | {"score": [0.5, 0.6]} | columns)


def test_a_frame_is_checked_too():
    with pytest.raises(InputError, match="no fraction"):
        tidy(frame(score=[50.0, 60.0]))
    with pytest.raises(InputError, match="the same"):
        tidy(frame(task="a"))
    with pytest.raises(InputError, match="no column baseline"):
        tidy(frame().drop(columns="baseline"))
    with pytest.raises(InputError, match="no run has both"):
        main_runs(frame(score=np.nan))


def test_seeds_are_averaged_and_one_temperature_is_kept():
    rows = [frame(seed=s, temperature=t, score=[v, v]) for s, t, v in
            [(0, 1, 0.5), (1, 1, 0.7), (0, 5, 0.9)]]  # fmt: skip
    main = main_runs(pd.concat(rows))
    found = cells(main).set_index("task")
    assert found.score.to_dict() == pytest.approx({"a": 0.6, "b": 0.6, AVERAGE: 0.6})
    assert main.attrs["notes"] == ["1 runs at another temperature than 1 are left out."]


def test_a_run_that_lacks_a_task_is_not_in_the_average():
    rows = pd.concat([frame(), frame(method="kd").head(1)])
    main = main_runs(rows)
    average = main[main.task == AVERAGE]
    assert average.method.tolist() == ["gkd"] and average.gain.item() == pytest.approx(0.15)
    assert "1 runs lack a task" in main.attrs["notes"][0]


def test_an_average_that_is_given_is_taken_as_it_is():
    main = main_runs(frame(task=["a", "Average"]))
    assert main[main.task == AVERAGE].score.tolist() == [0.6] and len(main) == 2
