"""study.yaml: what is accepted, what is refused, and in which words."""

import json
from pathlib import Path

import pytest
import yaml

from kdstudy.config import describe, schema
from kdstudy.config.protocols import differences
from kdstudy.config.read import read_study
from kdstudy.errors import InputError

SHIPPED = sorted((Path(schema.__file__).parents[1] / "studies").glob("*.yaml"))
GOOD = {
    "name": "t",
    "teachers": ["zoo-l"],
    "students": ["zoo-s"],
    "corpus": "synthetic",
    "benchmarks": ["synth_addsub"],
}

REFERENCE = {"protocol": "reference"}


def read(tmp_path, text_or_fields):
    text = text_or_fields if isinstance(text_or_fields, str) else yaml.safe_dump(text_or_fields)
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read_study(path)


def refusal(tmp_path, **fields):
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD | fields)
    return str(caught.value)


def test_the_papers_settings_are_the_defaults(tmp_path):
    study = read(tmp_path, GOOD)
    train = study.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (4, 16, 3e-4)
    assert (train.warmup_steps, train.max_length, train.schedule) == (100, 256, "linear")
    assert (train.lora.r, train.lora.alpha, train.lora.dropout) == (8, 16, 0.05)
    assert train.lora.target_modules == ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert [m.type for m in study.methods] == ["sft", "seqkd", "word_kd", "revkd", "gkd"]
    gkd = study.methods[-1]
    assert (gkd.lmbda, gkd.beta, gkd.temperature) == (0.5, 0.5, 1.0)
    assert study.generation.max_new_tokens == 256
    # The paper's 500 of about 10,000 rows; a tenth of a smaller corpus.
    assert (study.corpus.validation_rows, study.corpus.seed) == (None, 6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"methods": [{"type": "gkd", "beta": 0}]}, ["methods[0].beta", "word_kd"]),
        ({"methods": [{"type": "gkd", "beta": 1}]}, ["methods[0].beta", "revkd"]),
        ({"methods": [{"type": "gkd", "beta": 1.5}]}, ["outside (0, 1)"]),
        ({"methods": [{"type": "gkd", "lmbda": 1.2}]}, ["methods[0].lmbda", "less than or equal"]),
        ({"methods": ["word-kd"]}, ["unknown method 'word-kd'", "did you mean 'word_kd'"]),
        ({"methods": ["sft", "sft"]}, ["methods", "listed twice"]),
        (
            {"students": ["zoo-l"], "teachers": [{"model": "zoo-l", "finetune": False}]},
            ["its own teacher"],
        ),
        ({"students": []}, ["students"]),
        ({"teachers": []}, ["teachers", "add one"]),
        ({"benchmarks": []}, ["benchmarks"]),
        ({"name": "../up"}, ["name"]),
        ({"trian": {}}, ["trian", "did you mean 'train'"]),
        ({"train": {"learning_rte": 1}}, ["train.learning_rte", "did you mean 'learning_rate'"]),
        ({"train": {"epochs": "many"}}, ["train.epochs", "'many'"]),
        ({"generation": {"samples": 3}}, ["generation", "temperature"]),
        ({"template": "alpca"}, ["template", "alpaca"]),
        ({"corpus": {"path": "a", "dataset": "b"}}, ["corpus", "exactly one"]),
        ({"protocol": "referense"}, ["protocol", "reference"]),
        ({"methods": ["sft"], "ablations": {"noise": {}}}, ["ablations.noise", "word_kd"]),
        ({"ablations": {"students": ["zoo-xl"]}}, ["ablations.students", "zoo-xl"]),
    ],
)  # fmt: skip
def test_what_is_meaningless_is_refused_with_file_field_and_remedy(tmp_path, fields, expected):
    message = refusal(tmp_path, **fields)
    assert str(tmp_path / "study.yaml") in message
    for part in expected:
        assert part in message


def test_the_line_is_named(tmp_path):
    text = yaml.safe_dump(GOOD) + "train:\n  epochs: 2\n  warmup_stepz: 3\n"
    line = text.split("\n").index("  warmup_stepz: 3") + 1
    with pytest.raises(InputError, match=f"line {line}: train.warmup_stepz"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [unclosed", "line 1"),
        ("", "is not a study"),
        ("- a\n- b\n", "is not a study"),
        ("name: a\nname: b\n", "'name' is written twice"),
    ],
)
def test_a_file_that_is_no_study(tmp_path, text, expected):
    with pytest.raises(InputError, match=expected):
        read(tmp_path, text)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "study.yaml").write_text("")
    with pytest.raises(InputError, match=r"did you mean .*study\.yaml"):
        read_study(tmp_path / "stduy.yaml")


def test_reference_expands_into_fields_that_the_user_can_override(tmp_path):
    study = read(tmp_path, GOOD | {"protocol": "reference", "train": {"loss_tokens": "response"}})
    assert study.train.normalisation == "micro_batches"
    assert study.train.select_by == "cross_entropy"
    assert study.train.loss_tokens == "response"
    assert study.generation.temperature == 1
    assert [m.type for m in study.methods] == ["sft", "word_kd", "revkd", "gkd"]
    fields = {d["field"] for d in differences(study)}
    assert "train.normalisation" in fields
    assert "train.loss_tokens" not in fields
    assert {"methods.word_kd.probability_epsilon", "methods.gkd.mixture"} <= fields


def test_reference_reaches_into_methods_that_the_user_lists(tmp_path):
    methods = ["gkd", {"type": "revkd", "probability_epsilon": 0.0}]
    study = read(tmp_path, GOOD | {"protocol": "reference", "methods": methods})
    gkd, revkd = study.methods
    assert (gkd.mixture, gkd.tau_squared, gkd.on_policy_text) == ("released", False, "retokenised")
    assert (revkd.normalisation, revkd.probability_epsilon) == ("sequences", 0.0)


def test_corrected_differs_in_nothing(tmp_path):
    assert differences(read(tmp_path, GOOD)) == []


def test_a_reason_is_given_where_it_is_the_reason(tmp_path):
    reference = {d["field"]: d["why"] for d in differences(read(tmp_path, GOOD | REFERENCE))}
    assert "released" in reference["methods"] and "indents" in reference["template"]
    own = GOOD | {"generation": {"temperature": 0.7}, "train": {"max_truncated_share": 0.5}}
    own = {d["field"]: d["why"] for d in differences(read(tmp_path, own))}
    assert own == dict.fromkeys(("train.max_truncated_share", "generation.temperature"),
                                "chosen in the study file")  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_study_reads_and_names_the_schema(path):
    assert read_study(path).name
    assert path.read_text().startswith("# yaml-language-server: $schema=study.schema.json\n")


def test_the_shipped_schema_is_the_one_that_kdstudy_prints():
    shipped = json.loads((SHIPPED[0].parent / "study.schema.json").read_text())
    assert shipped["properties"] == schema.Study.model_json_schema()["properties"]
    assert shipped["$defs"] == schema.Study.model_json_schema()["$defs"]


def test_every_field_is_described():
    document = schema.Study.model_json_schema()
    for part in (document, *document["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), (part["title"], name)


def test_the_docs_list_every_field_as_it_is():
    docs = Path(__file__).parents[1] / "docs"
    written = (docs / "study.md").read_text("utf-8")
    assert written == describe.markdown(), "kdstudy schema --markdown > docs/study.md"
    document = schema.Study.model_json_schema()
    for part in (document, *document["$defs"].values()):
        for name, field in part["properties"].items():
            assert f"| `{name}` |" in written, name
            assert " ".join(field["description"].replace("|", "\\|").split()) in written, name


@pytest.mark.parametrize("methods", [["sft"], ["sft", "word_kd"], ["word_kd", "revkd", "gkd"]])
def test_fewer_methods_are_no_deviation(tmp_path, methods):
    assert differences(read(tmp_path, GOOD | {"methods": methods})) == []
    study = read(tmp_path, GOOD | {"protocol": "reference", "methods": methods})
    assert "methods" not in {d["field"] for d in differences(study)}


def test_reference_says_that_its_own_list_has_word_kd_for_seqkd(tmp_path):
    rows = {d["field"]: d for d in differences(read(tmp_path, GOOD | {"protocol": "reference"}))}
    assert "SeqKD" in rows["methods"]["why"]
    assert "micro-batch" in rows["train.normalisation"]["why"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"generation": {"temperature": 0.7}}, "generation.temperature"),
        ({"template": "alpaca"}, "template"),
        ({"train": {"max_truncated_share": 0.25}}, "train.max_truncated_share"),
        ({"train": {"loss_tokens": "all"}}, "train.loss_tokens"),
        ({"methods": ["sft", {"type": "word_kd", "probability_epsilon": 1e-6}]},
         "methods.word_kd.probability_epsilon"),
    ],
)  # fmt: skip
def test_a_users_own_value_is_not_explained_by_the_released_code(tmp_path, fields, field):
    (row,) = differences(read(tmp_path, GOOD | fields))
    assert row["field"] == field
    assert row["why"] == "chosen in the study file"
