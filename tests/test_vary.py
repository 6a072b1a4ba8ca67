"""Ablations over any field: what is planned, what is refused, what the report shows."""

import pandas as pd
import pytest
from fake_study import analysed, fake_study
from study_folder import plan_of, write_folder

from kdstudy.errors import InputError
from kdstudy.methods.minillm import MiniLLM
from kdstudy.methods.uld import ULD
from kdstudy.report import document
from kdstudy.report.compare.match import key_of
from kdstudy.report.sections import ablations
from kdstudy.report.sections.ablations import curve
from kdstudy.report.seeds import Seeds

GKD = {"vary": "beta", "values": [0.1, 0.9], "methods": ["gkd"]}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def runs(plan, ablation):
    return {s.label: s for s in plan.systems if s.ablation == ablation}


def config(plan, label):
    return plan.stages[plan.trained[label]].config


def test_a_list_stands_for_its_long_form(folder):
    short, long = (plan_of(folder, ablations=a) for a in ([GKD], {"vary": [GKD]}))
    assert list(short.stages) == list(long.stages)


def test_the_papers_two_fields_keep_their_figures_however_they_are_written(folder):
    part = {"values": [1, 4], "methods": ["word_kd"]}
    listed = plan_of(folder, ablations=[{"vary": "temperature"} | part, GKD])
    named = plan_of(folder, ablations={"temperature": part, "vary": [GKD]})
    assert list(listed.stages) == list(named.stages)
    assert set(runs(listed, "temperature")) == {
        f"{s}/word_kd/big/tau=4" for s in ("small", "medium")
    }
    with pytest.raises(InputError, match="temperature has an ablation of its own"):
        plan_of(folder, ablations={"vary": [{"vary": "temperature"} | part]})


def test_a_field_of_a_method_is_varied_in_its_runs_alone(folder):
    plan, plain = plan_of(folder, ablations=[GKD]), plan_of(folder, ablations={})
    found = runs(plan, "beta")
    assert set(found) == {f"{s}/gkd/big/beta={b}" for s in ("small", "medium") for b in (0.1, 0.9)}
    assert config(plan, "small/gkd/big/beta=0.1")["method"]["beta"] == 0.1
    assert {plan.trained[k] for k in plain.trained} == set(plain.trained.values())
    main = next(s for s in plan.systems if s.label == "small/gkd/big")
    assert main.setting == "beta=0.5"
    assert next(s for s in plan.systems if s.label == "small/word_kd/big").setting == ""


def test_a_field_of_training_is_varied_for_students_and_not_for_their_baseline(folder):
    part = {"vary": "train.lora.r", "values": [2, 8], "methods": ["word_kd", "seqkd"]}
    plan = plan_of(folder, ablations=[part], students=["./small"])
    # 8 is what the study has: the main grid's run.
    assert set(runs(plan, "train.lora.r")) == {
        "small/word_kd/big/train.lora.r=2",
        "small/seqkd/big/train.lora.r=2",
    }
    assert config(plan, "small/word_kd/big/train.lora.r=2")["train"]["lora"]["r"] == 2
    for label in ("big/teacher", "small/sft", "small/word_kd/big"):
        assert config(plan, label)["train"]["lora"]["r"] == 8


def test_a_cache_is_of_the_rows_that_the_varied_run_reads(folder):
    part = {"vary": "train.max_length", "values": [64], "methods": ["word_kd"]}
    plan = plan_of(folder, ablations=[part], students=["./small"])
    caches = [
        plan.stages[plan.stages[plan.trained[label]].aids["teacher_cache"]].config["max_length"]
        for label in ("small/word_kd/big", "small/word_kd/big/train.max_length=64")
    ]
    assert caches == [256, 64]


def test_values_that_are_no_numbers_have_labels_too(folder):
    parts = [
        {"vary": "mixture", "values": ["released"], "methods": ["gkd"]},
        {"vary": "train.lora", "values": [None], "methods": ["gkd"]},
        {"vary": "tau_squared", "values": [False], "methods": ["gkd"]},
    ]
    plan = plan_of(folder, ablations=parts, students=["./small"])
    assert {s.label.rpartition("/")[2] for s in plan.systems if s.ablation} == {
        "mixture=released",
        "train.lora=null",
        "tau_squared=false",
    }
    main = next(s for s in plan.systems if s.label == "small/gkd/big")
    assert main.setting.startswith("mixture=paper; train.lora={")
    assert main.setting.endswith("; tau_squared=true")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"vary": "bta", "values": [1], "methods": ["gkd"]}, "gkd has no field bta; it has alpha"),
        ({"vary": "beta", "values": [1], "methods": ["gkd"]}, "beta 1: beta 1 makes the diverg"),
        ({"vary": "beta", "values": [0.1], "methods": ["word_kd"]}, "word_kd has no field beta"),
        (
            {"vary": "alpha", "values": [0.1], "methods": ["skew_kl"]},
            "skew_kl is not among methods",
        ),
        ({"vary": "type", "values": ["sft"], "methods": ["gkd"]}, "makes another method"),
        ({"vary": "train.rate", "values": [1], "methods": ["gkd"]}, "no field rate; known: batch"),
        ({"vary": "train.micro_batch_size", "values": [1], "methods": ["gkd"]}, "no result"),
        ({"vary": "train.probe_rows", "values": [1], "methods": ["gkd"]}, "no result"),
        ({"vary": "train.lora.q", "values": [1], "methods": ["gkd"]}, "no field q; known: alpha"),
        ({"vary": "beta", "values": [0.1, 0.1], "methods": ["gkd"]}, "listed twice"),
        ({"vary": "beta", "values": [0.1], "methods": ["sft"]}, "methods"),
        ({"vary": "beta", "values": [], "methods": ["gkd"]}, "values"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_words(folder, part, words):
    words = words.replace("it has alpha", "it has beta")
    with pytest.raises(InputError, match="ablations") as error:
        plan_of(folder, ablations=[part])
    assert words in str(error.value)


def test_a_method_with_epochs_of_its_own_does_not_vary_trainings(folder):
    part = {"vary": "train.epochs", "values": [1], "methods": ["gkd"]}
    methods = ["sft", {"type": "gkd", "epochs": 3}]
    with pytest.raises(InputError, match="gkd has its own epochs"):
        plan_of(folder, methods=methods, ablations=[part])


@pytest.mark.parametrize(
    ("method", "part", "words"),
    [
        ({"start": "sft"}, {"vary": "train.lora.r", "values": [2, 64]}, "start's adapter"),
        ({}, {"vary": "train.replay_rows", "values": [1, 2]}, "nothing is replayed"),
        ({}, {"vary": "train.replay_towards", "values": ["base"]}, "nothing is replayed"),
    ],
)
def test_points_that_would_be_one_run_are_refused(folder, method, part, words):
    methods = ["sft", {"type": "gkd", **method}]
    with pytest.raises(InputError, match="ablations") as error:
        plan_of(folder, methods=methods, ablations=[part | {"methods": ["gkd"]}])
    assert words in str(error.value)


def test_settings_that_would_change_nothing_are_refused():
    with pytest.raises(ValueError, match="samples nothing"):
        ULD(sampling_temperature=0.3)
    with pytest.raises(ValueError, match="would be as 1"):
        MiniLLM(whiten=True, reward=5, long_term_weight=0)
    assert ULD(sampling_temperature=0.3, lmbda=0.5).lmbda == 0.5
    assert MiniLLM(whiten=True, reward=5).reward == 5


@pytest.fixture(scope="module")
def varied():
    """The made-up study with its noise ablation told as one over the learning rate."""
    study = fake_study(n=30)
    table, tests = analysed(study)
    table = table.copy()
    moved = table.ablation == "noise"
    table.loc[moved, "setting"] = [f"train.learning_rate={x:g}e-4" for x in table.noise[moved]]
    table.loc[moved, "ablation"] = "train.learning_rate"
    main = (table.kind == "distilled") & (table.ablation == "")
    table.loc[main, "setting"] = "beta=0.5; train.learning_rate=3e-4"
    return study, table, tests


def test_its_figure_has_a_point_for_each_value_in_order(varied):
    _, table, tests = varied
    figure = curve(Seeds(table, tests), "train.learning_rate")
    rows = figure.data["accuracy"]
    assert figure.name == "vary-train-learning_rate"
    said = rows[["setting", "x"]].drop_duplicates().sort_values("x")
    values = [float(s.rpartition("=")[2]) for s in said.setting]
    assert values == sorted(values)
    assert len(values) == len(set(values)) > 1
    want = table[(table.metric == "accuracy") & (table.benchmark == "average")]
    want = want[want.setting.str.contains("learning_rate=3e-4") & (want.ablation == "")]
    drawn = rows[rows.setting.str.contains("beta=0.5")]
    assert set(drawn.value) <= set(want.value)


def test_the_page_shows_the_figure_and_a_sentence(varied, tmp_path):
    study, table, tests = varied
    path = document.write(
        tmp_path,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    page = path.read_text()
    assert 'id="figure-vary-train-learning_rate"' in page or "vary-train-learning_rate" in page
    assert (tmp_path / "figures" / "vary-train-learning_rate.svg").exists()
    said = ablations.sentences(Seeds(table, tests).means)
    (sentence,) = [s for s in said if s.startswith("train.learning_rate: ")]
    assert " at 3e-4 to " in sentence
    sheet = pd.read_csv(tmp_path / "tables" / "ablations.csv")
    assert "train.learning_rate=" in sheet.to_csv()


def test_a_main_run_is_the_same_run_whether_its_study_varies_a_field_or_not(folder):
    varied, plain = plan_of(folder, ablations=[GKD]), plan_of(folder, ablations={})
    of = {s.label: key_of(s) for s in plain.systems}
    main = {s.label: key_of(s) for s in varied.systems if not s.ablation}
    assert main == of
    apart = [key_of(s) for s in varied.systems if s.ablation]
    assert len(set(apart)) == len(apart) == 4
