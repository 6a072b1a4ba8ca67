"""A run learns from a tuple of teachers: what it is called, compared with, and stored as."""

import dataclasses
import json

import pandas as pd
import pytest
from study_folder import plan_of, write_folder

from kdstudy.analysis.results import with_teacher
from kdstudy.distill.hub import Origin, card
from kdstudy.errors import InputError
from kdstudy.pairs import compared_pairs
from kdstudy.plan.grid import distilled
from kdstudy.records import System, joined, parted

A, B = (System(label=f"{m}/teacher", kind="teacher", model=m, method="sft") for m in "ab")
SFT = System(label="s/sft", kind="sft", model="s", method="sft")


def test_one_teacher_is_stored_as_older_stores_have_it():
    one = System(label="s/gkd/a", kind="distilled", model="s", teachers=("a/teacher",))
    old = {"label": "s/gkd/a", "kind": "distilled", "model": "s", "teacher": "a/teacher"}
    rest = {"method": "", "ablation": "", "setting": "", "temperature": 1.0, "noise": 0.0}
    assert one.row == old | rest | {"seed": 0}
    assert System.of(old) == one
    assert A.row["teacher"] == "" and System.of(A.row) == A


def test_several_teachers_come_back_in_their_order():
    both = System(label="x", kind="distilled", model="s", teachers=("b/teacher", "a/teacher"))
    assert System.of(json.loads(json.dumps(both.row))) == both
    assert both.taught_by == "b/teacher + a/teacher"
    assert parted(both.taught_by) == [*both.teachers] and parted("") == []


def test_the_runs_of_teachers_together_name_all_of_them(tmp_path):
    study = plan_of(write_folder(tmp_path)).study
    runs = distilled(study, "s", [A, B], 0, "", ablated=True)
    labels = {run.system.label: run.system.teachers for run in runs}
    assert labels["s/gkd/a + b"] == ("a/teacher", "b/teacher")
    assert labels["s/word_kd/a + b/base-teacher"] == ("a", "b")
    assert {run.system.label.split("/")[2] for run in runs} == {joined("ab")}


def test_teachers_together_in_a_study_are_refused_in_words(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(InputError, match=r"teachers\[1\]: is a list; no method learns from sever"):
        plan_of(tmp_path, teachers=["./big", ["./small", "./medium"]])


def test_a_run_is_compared_with_each_of_its_teachers_and_so_is_its_sft_run():
    run = System(label="r", kind="distilled", model="s", teachers=("a/teacher", "b/teacher"))
    expected = {("r", "a/teacher"), ("r", "b/teacher"), ("r", "s/sft")}
    expected |= {("s/sft", "a/teacher"), ("s/sft", "b/teacher")}
    assert set(compared_pairs([A, B, SFT, run])) == expected
    ablated = dataclasses.replace(run, ablation="noise")
    assert set(compared_pairs([A, B, SFT, ablated])) == {
        ("r", "a/teacher"), ("r", "b/teacher"), ("r", "s/sft"),
    }  # fmt: skip


def test_a_row_of_a_table_is_with_a_teacher_whichever_it_is():
    rows = [("a + b", "b", True), ("a + b", "s/sft", False), ("a", "b", False), ("", "", False)]
    table = pd.DataFrame(rows, columns=["teacher", "reference", "expected"], index=[7, 3, 5, 1])
    pd.testing.assert_series_equal(with_teacher(table), table.expected, check_names=False)


@pytest.mark.parametrize(
    ("teachers", "said"),
    [
        ((), "by the method `gkd`."),
        (("a",), "by the method `gkd` from the teacher `a`."),
        (("a", "b"), "by the method `gkd` from the teachers `a` and `b`."),
    ],
)
def test_a_card_names_every_teacher(teachers, said):
    origin = Origin(base="org/base", teachers=teachers, method={"method": "gkd"}, adapter=False)
    assert said in card(origin, "label", "repo", {}, [], [], license=None)
