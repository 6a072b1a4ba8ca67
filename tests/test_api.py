"""The library: each function says what its verb says, prints nothing, and imports nothing early."""

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import kdstudy
from kdstudy import analyze, compare, evaluate, run_study
from kdstudy.analysis.results import read_csv
from kdstudy.cli import app
from kdstudy.config.read import study_of
from kdstudy.errors import InputError
from kdstudy.models import zoo

STUDY = {
    "name": "small",
    "teachers": [{"model": "zoo-s", "finetune": False}],
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 40, "validation_rows": 8},
    "benchmarks": ["synth_addsub", "synth_multiarith"],
    "methods": ["sft", "word_kd"],
    "limit": 8,
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "max_length": 192},
    "generation": {"max_new_tokens": 32},
}  # fmt: skip
ASKED = {"limit": 10, "max_new_tokens": 32}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.delenv("KDSTUDY_DATA", raising=False)
    monkeypatch.delenv("KDSTUDY_STORE", raising=False)


@pytest.fixture
def verb(capfd):
    def call(*arguments):
        capfd.readouterr()
        app([str(a) for a in arguments], standalone_mode=False)
        return capfd.readouterr().out

    return call


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study that the library has run: its folder and result."""
    folder = tmp_path_factory.mktemp("studied")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder, run_study(folder / "study.yaml", store=folder / "store")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, evaluate("zoo-s", "synth_addsub", store=folder / "store", **ASKED)


def same(a, b):
    """Whether numbers and texts are the same, NaN too."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def told(tests):
    """Return tests as `analyze --json` prints them."""
    rows = [{k: getattr(t, k) for k in t.__slots__} for t in tests]
    return [{k: None if v != v else v for k, v in row.items()} for row in rows]


LAZY = """
import os, sys
import kdstudy
names = ("run_study", "evaluate", "compare", "analyze")
assert {*names} <= {*dir(kdstudy)}
assert not {"torch", "pandas", "pydantic"} & {*sys.modules}
import kdstudy.evaluation.score, kdstudy.analysis.analysis, kdstudy.api.comparing
for name in names:
    if os.fork() == 0:  # each as if it were the only one
        exec(f"from kdstudy import {name}; assert callable({name}) and callable(kdstudy.{name})")
        assert "torch" not in sys.modules
        break
    _, status = os.wait()
    assert status == 0, name
"""


def test_a_function_is_one_whatever_was_imported_before_and_imports_nothing_early():
    subprocess.run([sys.executable, "-c", LAZY], check=True)


def test_a_study_is_what_the_verb_makes_of_it(studied, verb):
    folder, result = studied
    said = verb("run", folder / "study.yaml", "--store", folder / "verb")
    output = folder / "verb" / "studies" / "small"
    assert said.strip() == str(output / "report.html")
    ours = result.report.parent
    assert ours == folder / "store" / "studies" / "small"
    assert (ours / "results.csv").read_bytes() == (output / "results.csv").read_bytes()
    pd.testing.assert_frame_equal(result.results, read_csv(output / "results.csv"))
    items = pd.read_parquet(output / "items.parquet")
    pd.testing.assert_frame_equal(result.items[[*items]], items)
    tests = next((folder / "verb").rglob("tests.json"))
    written = json.loads(tests.read_text())
    assert result.tests and same(told(result.tests), [
        {k: None if v != v else v for k, v in row.items()} for row in written
    ])  # fmt: skip


def test_a_studys_systems_are_those_of_the_verb_models(studied, verb):
    folder, result = studied
    shown = json.loads(verb("models", folder / "study.yaml", "--store", folder / "store", "--json"))
    assert [*result.systems.index] == [row["system"] for row in shown]
    for row in shown:
        ours = result.systems.loc[row["system"]]
        assert all(ours[k] == row[k] for k in ("kind", "method", "teacher", "accuracy", "origin"))
        assert (ours["path"], ours["parameters"]) == (row["path"], row["parameters"])
        assert pd.isna(ours["seed"]) if row["seed"] is None else ours["seed"] == row["seed"]
    path = result.model_path("zoo-xs/word_kd")  # the beginning is enough
    assert str(path) == result.systems.loc["zoo-xs/word_kd/zoo-s", "path"]
    assert AutoPeftModelForCausalLM.from_pretrained(path).peft_config


def test_a_study_without_a_file_is_the_same_study(studied, capfd, monkeypatch):
    folder, result = studied
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KDSTUDY_STORE", str(folder / "store"))
    for again in (STUDY, study_of(STUDY)):
        # Another file has the name, as it would with the verb: its report stays its own.
        with pytest.raises(InputError, match="another study file is called small as well"):
            run_study(again)
    monkeypatch.setenv("KDSTUDY_STORE", str(folder / "other"))
    found = run_study(STUDY | {"methods": ["sft"], "teachers": []})
    assert run_study(STUDY | {"methods": ["sft"], "teachers": []}).results.equals(found.results)
    shared = result.results.query("system == 'zoo-xs/sft' and metric == 'accuracy'")
    ours = found.results.query("system == 'zoo-xs/sft' and metric == 'accuracy'")
    assert [*shared.value] == [*ours.value]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"train": {"epochs": "many"}}, "study: train.epochs: "),
        ({"trian": {}}, "did you mean 'train'"),
        ({"protocol": "referense"}, "study: protocol: unknown 'referense'; write reference"),
        ({"seeds": [True]}, "is a truth value"),
        ({"students": ["./gone"]}, "no such folder"),
    ],
)
def test_a_wrong_field_is_refused_in_the_words_of_a_study_file(fields, expected, tmp_path):
    with pytest.raises(InputError) as caught:
        run_study(STUDY | fields, store=tmp_path)
    assert expected in str(caught.value)


def test_a_model_that_the_study_uses_as_it_is_has_no_path(studied):
    _, result = studied
    with pytest.raises(InputError, match=r"zoo-s: was not trained here; it is the model in"):
        result.model_path("zoo-s")
    with pytest.raises(InputError, match="no such model"):
        result.model_path("zoo-xs/gkd")


def test_an_evaluation_is_that_of_the_verb(evaluated, verb, tmp_path):
    _, result = evaluated
    shown = verb("eval", "--model", "zoo-s", "--benchmark", "synth_addsub", "--limit", 10,
                 "--max-new-tokens", 32, "--store", tmp_path / "store", "--out", tmp_path / "out",
                 "--json")  # fmt: skip
    assert same(result.document, json.loads(shown))
    assert result.metrics["synth_addsub"]["n"] == len(result.items) == 10
    right = (result.items.outcome == "correct").mean()
    assert result.metrics["synth_addsub"]["accuracy"] == pytest.approx(right)
    result.save(tmp_path / "ours")
    for name in ("eval.json", "scores.parquet"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("benchmark", ["synth_addsub", "own"])
def test_a_loaded_model_answers_as_the_same_model_by_name(benchmark, tmp_path, capfd):
    if benchmark == "own":
        rows = [{"question": f"Say {w}.", "references": [w]} for w in ("hello", "seven", "tree")]
        (tmp_path / "own.json").write_text(json.dumps(rows))
        benchmark = {"name": "own", "path": str(tmp_path / "own.json"), "kind": "text"}
    named = evaluate(str(zoo.path("zoo-s")), benchmark, store=tmp_path / "store", **ASKED)
    model = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-s"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("zoo-s"))
    model.train()
    capfd.readouterr()
    loaded = evaluate(model, [benchmark], tokenizer=tokenizer, **ASKED)
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert same(loaded.document, named.document)
    pd.testing.assert_frame_equal(loaded.items, named.items)


@pytest.mark.parametrize("fields", [{}, {"tokenizer": object(), "adapter": "x"}])
def test_a_loaded_model_needs_its_tokenizer_and_no_adapter(fields):
    with pytest.raises(InputError, match="a loaded model and its tokenizer"):
        evaluate(object(), "synth_addsub", **fields)


def test_a_benchmark_or_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no benchmark 'synth_adsub'"):
        evaluate("zoo-s", "synth_adsub", store=tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        evaluate("./gone", "synth_addsub", store=tmp_path)


# Ten items: both right on the first two, a alone on five, b alone on two, neither on the last.
A = pd.DataFrame({"example_id": [*range(10)], "correct": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]})
B = pd.DataFrame({"example_id": [*range(10)], "correct": [1, 1, 0, 0, 0, 0, 0, 1, 1, 0]})


def test_a_difference_by_hand():
    (test,) = compare(A, B)
    assert test.estimate == pytest.approx(0.3) and test.n == 10
    # McNemar, exact: seven items differ, two of them against a: 2 (1 + 7 + 21) / 2^7.
    assert test.p == pytest.approx(2 * (1 + 7 + 21) / 128)
    # Items' differences: five 1, two -1, three 0. The interval's half width is near 1.96 standard
    # errors of their mean, and it is no wider than the range.
    error = (((5 + 2) / 10 - 0.3**2) / 9) ** 0.5
    assert -1 < test.low < 0.3 < test.high < 1
    assert (test.high - test.low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert "a − b" in test.sentence and "5 right by a alone, 2 by b alone" in test.sentence
    (other,) = compare(B, A)
    assert other.estimate == pytest.approx(-0.3) and other.p == test.p


def test_rows_in_another_order_and_items_of_one_side_change_nothing():
    more = pd.concat([B.sample(frac=1, random_state=0), B.tail(1).assign(example_id=99)])
    (test,), (other,) = compare(A, B), compare(A, more)
    assert (test.estimate, test.low, test.high, test.p, test.n) == (
        other.estimate, other.low, other.high, other.p, other.n,
    )  # fmt: skip


def test_a_comparison_is_that_of_the_verb_on_the_written_scores(evaluated, verb, tmp_path):
    folder, good = evaluated
    bad = evaluate("zoo-xs", "synth_addsub", store=folder / "store", **ASKED)
    good.save(tmp_path / "zoo-s")
    bad.save(tmp_path / "zoo-xs")
    files = [tmp_path / name / "scores.parquet" for name in ("zoo-xs", "zoo-s")]
    shown = json.loads(verb("analyze", *files, "--json"))["tests"]
    by_path = compare(tmp_path / "zoo-s", files[0])
    for tests in (compare(good, bad), analyze([bad, good]), compare(good.items, bad.items)):
        assert len(tests) == len(shown) == len(by_path) == 1
        for ours, theirs in zip(tests, shown, strict=True):
            numbers = ("estimate", "low", "high", "p", "n", "scope")
            assert [getattr(ours, k) for k in numbers] == [theirs[k] for k in numbers]
    assert [t.p for t in by_path] == [t["p"] for t in shown]
    (alike,) = compare(good, good)
    assert alike.estimate == 0 and "zoo-s (2) − zoo-s (1)" in alike.sentence


def test_tables_are_analysed_as_their_files(studied, verb, tmp_path):
    _, result = studied
    runs = pd.DataFrame(
        [
            {"student": f"s{i}", "method": m, "task": t, "score": 0.4 + 0.03 * i + gain + 0.01 * j}
            for i in range(6)
            for m, gain in (("sft", 0), ("kd", 0.02 + 0.004 * i), ("gkd", 0.03 - 0.002 * i))
            for j, t in enumerate(("x", "y"))
        ]
    )
    items = pd.concat([A.assign(system="a", student="s", method="kd"),
                       B.assign(system="b", student="s", method="sft")])  # fmt: skip
    runs.to_csv(tmp_path / "runs.csv", index=False)
    items.to_csv(tmp_path / "items.csv", index=False)
    own = result.report.parent / "results.csv"
    for frame, path in ((runs, "runs.csv"), (items, "items.csv"), (result.results, own)):
        shown = json.loads(verb("analyze", tmp_path / path, "--json"))["tests"]
        assert shown
        assert same(told(analyze(frame)), shown)
        assert same(told(analyze(tmp_path / path)), shown)
    shown = json.loads(verb("analyze", tmp_path / "runs.csv", "--protocol", "paper", "--json"))
    assert same(told(analyze(runs, protocol="paper")), shown["tests"])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: compare(A.drop(columns="correct"), B), "no column correct"),
        (lambda: compare(A.drop(columns="example_id"), B), "no column example_id"),
        (lambda: compare(A.replace(1, 3), B), "correct of row 0 is 3, not 0 or 1"),
        (lambda: compare(A.assign(example_id=range(20, 30)), B), "no item of items in common"),
        (lambda: compare(A.assign(system=[*"xy"] * 5), B), "a: the table holds 2 systems"),
        (lambda: compare(A, "gone"), "gone"),
        (lambda: analyze(A), "no column student"),
        (lambda: analyze(A.assign(system="a", correct=2)), "the table, line 2: correct is '2'"),
        (lambda: analyze([A]), "one system is compared with nothing"),
        (lambda: analyze("scores.parquet"), "is one system"),
        (lambda: analyze("gone.csv"), "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, expected):
    with pytest.raises(InputError) as caught:
        call()
    assert expected in str(caught.value)


def test_type_checkers_are_told_that_the_package_is_typed():
    root = Path(kdstudy.__file__).parents[2]
    assert (root / "src" / "kdstudy" / "py.typed").is_file()
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["kdstudy"]
    # What a checker is told and what is imported are one list.
    assert {*kdstudy.__all__} == {*kdstudy._WHERE, "__version__"}
    for name in ("run_study", "evaluate", "compare", "analyze"):
        function = getattr(kdstudy, name)
        signature = inspect.signature(function)
        assert function.__doc__ and signature.return_annotation is not signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name
