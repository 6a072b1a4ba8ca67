"""Benchmarks of one's own in `score`, `eval`, `audit` and `analyze`, in the forms people have."""

import csv
import json
import shlex

import pandas as pd
import pytest
import yaml
from refusals import call
from scipy.stats import binomtest

from kdstudy.cli import app
from kdstudy.errors import InputError

CAPITALS = [
    {"id": "jp", "question": "Capital of Japan?", "choices": ["Kyoto", "Tokyo"], "answer": "Tokyo"},
    {"id": "pe", "question": "Capital of Peru?", "choices": ["Lima", "Cusco"], "answer": "A"},
    {"id": "it", "question": "Capital of Italy?", "choices": ["Rome", "Milan"], "answer": "A"},
]
SUMS = [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in range(1, 41)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSTUDY_DATA", raising=False)
    lines("capitals.jsonl", CAPITALS, encoding="utf-8-sig")
    lines("sums.jsonl", SUMS)
    return tmp_path


def lines(name, rows, encoding="utf-8"):
    with open(name, "w", encoding=encoding) as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def read(name):
    with open(name, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def sums(name, right, **fields):
    """Write an answer to each sum of which those in `right` are right."""
    rows = [
        {"question": row["question"], "completion": f"The answer is {2 * i + (i not in right)}."}
        for i, row in enumerate(SUMS, start=1)
    ]
    lines(name, [row | fields for row in rows])


@pytest.fixture
def kdstudy(capsys):
    def call(*arguments):
        capsys.readouterr()
        app([str(a) for a in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_score_with_a_file_of_choices_with_ids_of_its_own(here, kdstudy):
    lines("a.jsonl", [{"id": r["id"], "completion": f"The answer is {c}."}
                      for r, c in zip(CAPITALS, "BAB", strict=True)])  # fmt: skip
    asked = ["score", "--benchmark", "capitals.jsonl", "--kind", "choice"]
    found = json.loads(kdstudy(*asked, "--generations", "a.jsonl", "--json"))
    assert (found["benchmark"], found["n"], found["items"], found["of"]) == ("capitals", 3, 3, 3)
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_labels_in_any_case_and_free_texts(here, kdstudy):
    lines("wet.jsonl", [{"question": "Is water wet?", "answer": "Yes"},
                        {"question": "Is fire wet?", "answer": "no"}])  # fmt: skip
    lines("w.jsonl", [{"question": "is water wet", "completion": "Yes."}])
    asked = ["--kind", "choice", "--labels", "Yes, No", "--generations", "w.jsonl"]
    shown = kdstudy("score", "--benchmark", "wet.jsonl", *asked)
    assert "1 matched (1 by wording alike), 1 missing" in shown
    assert "accuracy    100.0%" in shown and "of 1 of 2 items" in shown
    lines("say.jsonl", [{"question": "Say hello.", "references": ["hello friend", "hi"]}])
    lines("s.jsonl", [{"question": "Say hello.", "completion": "hi"}])
    shown = kdstudy("score", "--benchmark", "say.jsonl", "--kind", "text", "--generations=s.jsonl")
    assert "ROUGE-L     100.0%" in shown


def test_texts_of_another_script_are_rated_where_that_is_asked_for(here, kdstudy):
    lines("zh.jsonl", [{"question": "水果?", "references": ["他昨天吃苹果"]}])
    lines("a.jsonl", [{"question": "水果?", "completion": "他吃了一个苹果。"}])
    lines("b.jsonl", [{"question": "水果?", "completion": "他昨天吃苹果"}])
    asked = ["score", "--benchmark=zh.jsonl", "--kind=text", "--generations=a.jsonl", "--json"]
    assert json.loads(kdstudy(*asked))["rouge_l"] == 0
    found = json.loads(kdstudy(*asked, "--rouge-tokenizer=unicode", "--against=b.jsonl", "--out=u"))
    # Four characters in order of seven and of six.
    assert found["rouge_l"] == found["fidelity"]["rouge_l"] == pytest.approx(8 / 13)
    assert found["against"]["rouge_l"] == 1 and found["rule"] == "rouge_l-unicode"
    assert "tok:unicode" in found["fidelity"]["rouge_signature"]
    kdstudy(*asked, "--out=p")
    with pytest.raises(InputError, match="rule"):
        kdstudy("analyze", "u/scores.parquet", "p/scores.parquet")


def test_accuracy_over_a_part_names_the_part_everywhere(here, kdstudy):
    sums("a.jsonl", range(1, 31))
    rows = read("a.jsonl")
    lines("a.jsonl", rows[:25])
    asked = ["score", "--benchmark=sums.jsonl", "--kind=number", "--generations=a.jsonl"]
    shown = kdstudy(*asked, "--out", "a")
    assert "100.0% [86.7, 100.0] of 25 of 40 items" in shown
    found = json.loads(kdstudy(*asked, "--json"))
    assert (found["items"], found["of"]) == (25, 40)
    assert "accuracy 100.0% of 25 of 40 items" in kdstudy("analyze", "a/scores.parquet")


def test_the_paired_difference_is_mcnemars(here, kdstudy):
    # Of 40: 22 both right, 11 only the first, 3 only the second, 4 none.
    sums("a.jsonl", range(1, 34))
    sums("b.jsonl", [*range(1, 23), 34, 35, 36])
    asked = ["score", "--benchmark=sums.jsonl", "--kind=number", "--generations=a.jsonl"]
    found = json.loads(kdstudy(*asked, "--against=b.jsonl", "--json", "--out=a"))["difference"]
    p = binomtest(3, 14).pvalue
    assert found["p"] == pytest.approx(p)
    assert found["estimate"] == pytest.approx(8 / 40)
    # p = 0.057 does not refuse 0, and neither may the interval.
    assert p > 0.05 and found["low"] == 0 and 8 / 40 < found["high"] < 11 / 40 + 0.2
    shown = kdstudy(*asked, "--against=b.jsonl")
    assert "difference  +20.0 points, 95% interval +" in shown
    assert f"11 right by this system alone, 3 by the other alone, p = {p:.4f} (exact M" in shown
    kdstudy(*asked[:-1], "--generations=b.jsonl", "--out=b")
    tests = json.loads(kdstudy("analyze", "b/scores.parquet", "a/scores.parquet", "--json"))
    (test,) = tests["tests"]
    assert test["subject"] == "a − b"
    assert (test["estimate"], test["p"]) == (pytest.approx(0.2), pytest.approx(p))
    assert [s["system"] for s in tests["systems"]] == ["b", "a"]
    assert [s["value"] for s in tests["systems"]] == pytest.approx([25 / 40, 33 / 40])


def test_several_systems_are_corrected_together_and_kept_to_the_items_they_share(here, kdstudy):
    for name, right in {"x": range(1, 31), "y": range(5, 39), "z": range(1, 12)}.items():
        sums("c.jsonl", right)
        if name == "z":
            lines("c.jsonl", read("c.jsonl")[:30])
        kdstudy("score", "--benchmark=sums.jsonl", "--kind=number", "--generations=c.jsonl",
                f"--out={name}")  # fmt: skip
    files = [f"{name}/scores.parquet" for name in "xyz"]
    shown = kdstudy("analyze", *files)
    assert "z on sums: accuracy 36.7% of 30 of 40 items" in shown
    y, z = json.loads(kdstudy("analyze", *files, "--json"))["tests"]
    assert (y["n"], z["n"]) == (40, 30)
    assert (y["p"], z["p"]) == (
        pytest.approx(binomtest(4, 12).pvalue), pytest.approx(binomtest(0, 19).pvalue)
    )  # fmt: skip
    assert z["p_adjusted"] == pytest.approx(2 * z["p"])
    assert y["p_adjusted"] == pytest.approx(max(y["p"], 2 * z["p"]))


def test_draws_have_an_interval_and_say_why_there_is_no_exact_p(here, kdstudy):
    for name, right in (("a", range(1, 31)), ("b", range(1, 16))):
        rows = []
        for sample in range(2):
            sums("c.jsonl", right, sample=sample)
            rows += read("c.jsonl")
        lines(f"{name}.jsonl", rows)
    asked = ["--kind=number", "--generations=a.jsonl", "--against=b.jsonl", "--json"]
    found = json.loads(kdstudy("score", "--benchmark=sums.jsonl", *asked))
    assert (found["n"], found["items"], found["difference"]["n"]) == (80, 40, 40)
    assert found["difference"]["estimate"] == pytest.approx(15 / 40)
    assert "several answers per item" in found["difference"]["sentence"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark=sums.jsonl"], "needs --kind"),
        (["--benchmark=sums.jsonl", "--kind=number", "--labels=a,b"], "for --kind choice"),
        (["--benchmark=gone.jsonl", "--kind=number"], r"gone\.jsonl: cannot be read"),
        (["--benchmark=gsm8k", "--kind=number"], "gsm8k is none"),
        (["--benchmark=sums.jsonl,capitals.jsonl", "--kind=number"], "these are 2: sums, capitals"),
        (["--study=s.yaml"], "has 2: sums, synth_addsub"),
        (["--study=s.yaml", "--benchmark=gsm8k"], "has no such benchmark"),
        (["--study=s.yaml", "--benchmark=sums", "--kind=number"], "a study says them"),
        (["--benchmark=capitals.jsonl", "--kind=number"], "line 1: .*not a number"),
        (["--benchmark=a.csv", "--kind=number"], "is not JSON text"),
        ([], "Missing option '--benchmark'"),
    ],
)
def test_what_names_no_benchmark_is_refused(here, kdstudy, arguments, message):
    sums("a.jsonl", [])
    (here / "a.csv").write_text("question,answer\n1 + 1?,2\n")
    study(here / "s.yaml")
    with pytest.raises(InputError, match=message):
        kdstudy("score", "--generations=a.jsonl", *arguments)


def study(path, **fields):
    own = {"name": "sums", "path": "sums.jsonl", "kind": "number"}
    given = {"name": "t", "teachers": ["zoo-l"], "students": ["zoo-s"], "methods": ["sft"],
             "corpus": {"path": "rows.json", "validation_rows": 2},
             "benchmarks": [own, "synth_addsub"]}  # fmt: skip
    path.write_text(yaml.safe_dump(given | fields))


def test_the_benchmarks_of_a_study_are_found_from_its_folder(here, kdstudy, monkeypatch):
    study(here / "s.yaml")
    sums("a.jsonl", range(1, 21))
    (here / "else").mkdir()
    monkeypatch.chdir(here / "else")
    asked = ["score", "--study=../s.yaml", "--benchmark=Sums", "--generations=../a.jsonl"]
    assert json.loads(kdstudy(*asked, "--json"))["accuracy"] == 0.5


def test_names_and_files_of_reports(here, kdstudy):
    """A file may be called like a known set, or like another file, and is still its own set."""
    (here / "x").mkdir()
    for name in ("svamp.jsonl", "x/sums.jsonl", "my sums.jsonl"):
        lines(name, SUMS)
    lines("c.jsonl", [{"prompt": "What is 3 and 3?", "completion": "6"}] * 2)
    names = "sums.jsonl,x/sums.jsonl,svamp.jsonl,my sums.jsonl,synth-addsub"
    asked = ["audit", "--corpus=c.jsonl", "--benchmarks", names, "--kind=number", "--json"]
    found = json.loads(kdstudy(*asked))["benchmarks"]
    (root,) = {here.name}
    assert set(found) == {f"{root}-sums", "x-sums", "svamp.jsonl", "my-sums", "synth_addsub"}
    assert found["x-sums"] == {"items": 40, "exact": 1, "normalised": 1, "masked": 40}


def test_eval_of_ones_own_with_limit_and_what_it_leaves_for_analyze(here, kdstudy):
    asked = [
        "eval",
        "--model=zoo-xs",
        "--benchmark=sums.jsonl,capitals.jsonl",
        "--max-new-tokens=4",
    ]
    with pytest.raises(InputError, match="line 1"):  # a capital is no number
        kdstudy(*asked, "--kind=number", "--store=st")
    asked[2] = "--benchmark=sums.jsonl"
    shown = kdstudy(*asked, "--kind=number", "--limit=10", "--store=st", "--out=e")
    assert "sums       10 of 40  accuracy" in shown
    found = json.loads((here / "e" / "eval.json").read_text())["benchmarks"]["sums"]
    assert (found["n"], found["of"]) == (10, 40)
    assert "of 10 of 40 items" in kdstudy("analyze", "e/scores.parquet")
    assert len(pd.read_parquet("e/scores.parquet")) == 10
    study(here / "s.yaml")
    by_study = kdstudy("eval", "--model=zoo-xs", "--study=s.yaml", "--benchmark=sums",
                       "--max-new-tokens=4", "--limit=10", "--store=st")  # fmt: skip
    assert by_study == shown


def printed_command(text):
    """Return what a shell makes of the command in a doctor's words."""
    whole = text[text.index("kdstudy audit") :].replace("\\\n", "")
    return shlex.split(whole.split("\n")[0])


@pytest.mark.parametrize("corpus", ["rows.json", "my rows.jsonl"])
def test_the_audit_that_doctor_recommends_runs_as_printed(here, kdstudy, monkeypatch, corpus):
    from rich.console import Console

    from kdstudy.doctor.checks import check
    from kdstudy.doctor.gather import gather
    from kdstudy.doctor.view import show

    folder = here / "a folder"
    folder.mkdir()
    rows = [{"prompt": row["question"], "completion": "It is so."} for row in SUMS[:3]]
    rows += [{"prompt": f"Say {c}.", "completion": c} for c in "abcdefgh"]
    text = json.dumps(rows) if corpus.endswith(".json") else "\n".join(map(json.dumps, rows))
    (folder / corpus).write_text(text)
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, SUMS)))
    study(folder / "s.yaml", corpus={"path": corpus, "validation_rows": 2}, students=["./none"])
    monkeypatch.setattr("kdstudy.doctor.gather._Gathering._resolve", lambda *_: None)
    findings = check(gather(here / "a folder" / "s.yaml", here / "st", None))
    (finding,) = [f for f in findings if f.check == "contamination" and "3 of 40" in f.what]
    console = Console(record=True, width=80, file=open("shown.txt", "w"))  # noqa: SIM115
    show("t", [finding], console)
    commands = [printed_command(console.export_text()), printed_command(finding.remedy)]
    assert commands[0] == commands[1]
    name, *arguments = commands[0]
    assert name == "kdstudy"
    assert "holds questions of 1 of 1 benchmarks" in kdstudy(*arguments)
    with open("items.csv", newline="") as f:
        assert [row["question"] for row in csv.DictReader(f)][:3] == [r["prompt"] for r in rows[:3]]
    clean = "clean" + corpus[corpus.index(".") :]
    study(folder / "s.yaml", corpus={"path": f"../{clean}", "validation_rows": 2})
    again = json.loads(kdstudy("audit", "--study", folder / "s.yaml", "--benchmark=sums", "--json"))
    assert again["rows"] == 8
    assert again["benchmarks"]["sums"]["masked"] == 0


def test_one_text_has_no_interval_and_says_so(tmp_path):
    item = {"question": "What is rain?", "references": ["Water that falls."]}
    (tmp_path / "one.jsonl").write_text(json.dumps(item))
    row = {"question": item["question"], "completion": "Water falls.", "stop": "stop"}
    (tmp_path / "said.jsonl").write_text(json.dumps(row))
    given = ("--generations", tmp_path / "said.jsonl", "--against", tmp_path / "said.jsonl")
    own = ("--benchmark", tmp_path / "one.jsonl", "--kind", "text")
    done = call("score", *given, *own)
    assert done.code == 0, done.err
    assert "nan" not in done.out and "no interval" in done.out and "1 item." in done.out
