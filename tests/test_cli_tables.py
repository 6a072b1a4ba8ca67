"""The verbs `score` and `audit`: their JSON, what they write, and what they refuse."""

import csv
import gzip
import json
import math
import os

import forked
import pytest
import sacrebleu
from statsmodels.stats.proportion import proportion_confint

from kdstudy.data.synthetic import benchmark_rows, corpus_rows
from kdstudy.records import PairScore, Score, read_records

ITEMS = benchmark_rows("synth_addsub", n=300, seed=0)
CLEAN_ENV = {k: v for k, v in os.environ.items() if k != "KDSTUDY_DATA"}


def kdstudy(*arguments, cwd):
    return forked.kdstudy(*arguments, cwd=cwd, env=CLEAN_ENV)


def answers(right, **fields):
    """Return a completion per item; the first `right` of them are right."""
    return [
        {
            "question": row["instruction"],
            "completion": f"It is so. The answer is {float(row['answer']) + (i >= right):g}.",
            "stop": "stop",
        }
        | fields
        for i, row in enumerate(ITEMS)
    ]


def save(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_score_as_json_holds_the_contract(tmp_path):
    rows = answers(240)
    rows[0]["completion"] = ""
    rows[299] |= {"completion": "He has 3 + 4", "stop": "length"}
    save(tmp_path / "a.jsonl", [*rows[:290], rows[299], rows[5], {"id": "?", "completion": "1"}])
    done = kdstudy(
        "score", "--benchmark", "Synth-AddSub", "--generations", "a.jsonl", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["benchmark"] == "synth_addsub"
    assert found["rule"] == "corrected"
    assert found["outcomes"] == {"correct": 239, "wrong": 50, "unparsed": 1, "truncated": 1}
    counts = {k: found["rows"][k] for k in ("matched", "missing", "doubled", "unknown")}
    assert counts == {"matched": 291, "missing": 9, "doubled": 1, "unknown": 1}
    assert found["n"] == 291
    assert math.isclose(found["accuracy"], 239 / 291)
    assert math.isclose(found["accuracy_completed"], 239 / 290)
    assert math.isclose(found["parse_rate"], 289 / 291)
    interval = proportion_confint(239, 291, method="wilson")
    assert (found["low"], found["high"]) == pytest.approx(interval)
    assert not {"agreement", "fidelity"} & set(found)
    assert "a.jsonl, line 292: " in done.stderr
    assert "a.jsonl, line 293: ?" in done.stderr
    assert "9 answers to the 300 items are missing" in done.stderr


def test_score_against_another_system(tmp_path):
    mine, theirs = answers(200), answers(100)[:250]
    theirs[0]["completion"] += " So be it."
    save(tmp_path / "a.jsonl", mine)
    save(tmp_path / "b.jsonl", theirs)
    command = ["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--against=b.jsonl"]
    done = kdstudy(*command, "--json", "--out", "o/p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n"] == 300
    assert (found["against"]["n"], found["against"]["rows"]["missing"]) == (250, 50)
    # Of the 250 both have: 100 right by both, 100 by the first alone, 50 wrong alike (gold + 1).
    same = found["agreement"]
    assert (found["compared"], same["n"], same["both_wrong_n"]) == (250, 250, 50)
    assert (same["rate"], same["both_wrong_rate"]) == (0.6, 1.0)
    assert (same["lower"], same["upper"]) == pytest.approx((0.2, 0.6))
    hypotheses, references = ([r["completion"] for r in s[:250]] for s in (mine, theirs))
    bleu = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert found["fidelity"]["corpus_bleu"] == pytest.approx(bleu)
    assert 0 < found["fidelity"]["mean_sentence_bleu"] <= 100 + 1e-9
    assert "version:" in found["fidelity"]["signature"]
    assert len(read_records(tmp_path / "o" / "p" / "scores.parquet", Score)) == 300
    assert len(read_records(tmp_path / "o" / "p" / "pairs.parquet", PairScore)) == 250
    shown = kdstudy(*command, cwd=tmp_path).stdout
    assert "accuracy    66.7% [61.2, 71.8] of 300" in shown
    assert "60.0%" in shown


def test_a_comparison_without_any_wrong_answer_has_null_and_no_nan(tmp_path):
    save(tmp_path / "a.jsonl", answers(300))
    done = kdstudy(
        *["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--against=a.jsonl"],
        *["--rule=reference", "--json"],
        cwd=tmp_path,
    )
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["rule"] == "reference"
    assert found["agreement"]["both_wrong_rate"] is None
    assert found["agreement"]["rate"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["score", "--benchmark=synth_addsub", "--generations=gone.jsonl"], "gone.jsonl"),
        (["score", "--benchmark=gsm9k", "--generations=a.jsonl"], "did you mean gsm8k"),
        (["score", "--benchmark=synth_svamp", "--generations=a.jsonl"], "no row matches an item"),
        (["score", "--benchmark=synth_addsub", "--generations=x.jsonl"], "x.jsonl, line 1"),
        (["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--rule=best"], "best"),
        (["score", "--benchmark=synth_addsub"], "Missing option"),
        (
            ["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--against=s.jsonl"],
            "different samples: 0 against 1",
        ),
        (
            ["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--out=x.jsonl"],
            "--out x.jsonl: cannot be written",
        ),
        (["audit", "--corpus=gone.jsonl"], "no such file, and no corpus of that name"),
        (["audit", "--corpus=math_standin", "--benchmarks=synth_svamp"], "--data-dir"),
        (["audit", "--corpus=c.jsonl", "--benchmarks=,"], "names none"),
        (["audit", "--corpus=c.jsonl", "--benchmarks=synth_svamp,x"], "no benchmark 'x'"),
        (["audit", "--corpus=c.jsonl", "--benchmarks=synth_svamp", "--out=c.jsonl"], "itself"),
        (["audit", "--corpus=c.jsonl", "--list=l.txt"], ".csv or .jsonl"),
        (["audit", "--corpus=x.jsonl", "--benchmarks=synth_svamp"], "x.jsonl, line 1"),
        (["audit", "--corpus=c.jsonl", "--level=fuzzy"], "fuzzy"),
        (["audit", "--corpus=gone/c.jsonl"], "no such file, and no corpus of that name"),
        (["audit", "--corpus=c.jsonl", "--columns=prompt"], "--columns prompt: is no list of name"),
        (["audit", "--corpus=c.jsonl", "--columns=ask=prompt"], "'ask' is no column that kdstudy"),
        (["audit", "--corpus=c.jsonl", "--columns=prompt=q,completion=a"], "has no column q, a"),
        (
            ["audit", "--corpus=c.jsonl", "--benchmarks=synth_svamp", "--out=c.csv"],
            "named as csv, and c.jsonl is jsonl",
        ),
        (
            ["distill", "--data=c.csv", "--student=zoo-xs", "--method=sft", "--out=o"],
            "--data c.csv: no such file",
        ),
        (
            ["distill", "--data=c.jsonl", "--student=zoo-xs", "--method=sft", "--out=o"],
            "corpus c: 1 rows",
        ),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_clear_message(tmp_path, arguments, expected):
    save(tmp_path / "a.jsonl", answers(300))
    save(tmp_path / "s.jsonl", answers(300, sample=1))
    save(tmp_path / "c.jsonl", [{"prompt": "q", "completion": "a"}])
    (tmp_path / "x.jsonl").write_text("no JSON\n")
    done = kdstudy(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def planted_corpus():
    """Return 30 rows: five test items in four disguises, and 25 rows about something else."""
    texts = [row["instruction"] for row in ITEMS[:5]]
    digits = str.maketrans("123456789", "234567891")
    leaks = [
        texts[0],
        texts[1].upper() + " !",
        texts[2].translate(digits),
        texts[3],
        texts[4].replace(" ", "  "),
    ]
    other = [f"Name a town whose name has the letter {c}." for c in "abcdefghijklmnopqrstuvwxy"]
    return [
        {"prompt": text, "completion": "It is 5."} for text in [*other[:10], *leaks, *other[10:]]
    ]


def test_audit_finds_what_was_planted(tmp_path):
    rows = planted_corpus()
    save(tmp_path / "c.jsonl", rows)
    done = kdstudy(
        *["audit", "--corpus", "c.jsonl", "--benchmarks", "synth_addsub,synth-svamp", "--json"],
        *["--out", "clean.jsonl", "--list", "found.csv", "--level", "normalised"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = found["benchmarks"]["synth_addsub"]
    assert counts["items"] == 300
    assert counts["exact"] == 2
    assert counts["normalised"] == 4
    assert counts["masked"] >= 5
    assert set(found["benchmarks"]) == {"synth_addsub", "synth_svamp"}
    assert found["clean_rows"] == 26
    clean = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert clean == [row for i, row in enumerate(rows) if i not in (10, 11, 13, 14)]
    with (tmp_path / "found.csv").open(newline="") as f:
        listed = {row["question"]: row for row in csv.DictReader(f)}
    expected = [
        ("exact", 11),
        ("normalised", 12),
        ("masked", 13),
        ("exact", 14),
        ("normalised", 15),
    ]
    for item, (overlap, number) in zip(ITEMS, expected, strict=False):
        row = listed[item["instruction"]]
        assert (row["benchmark"], row["overlap"], int(row["row"])) == (
            "synth_addsub",
            overlap,
            number,
        )
        assert row["row_question"] == rows[number - 1]["prompt"].strip()


def test_audit_reads_conversations_in_columns_of_any_name(tmp_path):
    """The planted questions are second turns, in a packed CSV of somebody else's columns."""
    rows = planted_corpus()
    turns = [
        [{"from": "human", "value": "Hello!"}, {"from": "gpt", "value": "Hello."},
         {"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": row["completion"]},
         {"from": "human", "value": "Thanks."}, {"from": "gpt", "value": "Always."}]
        for row in rows
    ]  # fmt: skip
    with gzip.open(tmp_path / "talks.csv.gz", "wt", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["n", "talk"])
        writer.writerows([n, json.dumps(talk)] for n, talk in enumerate(turns))
    done = kdstudy(
        *["audit", "--corpus", "talks.csv.gz", "--columns", "conversations=talk", "--json"],
        *["--benchmarks", "synth_addsub", "--level", "normalised"],
        *["--out", "clean.csv.gz", "--list", "found.jsonl"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["benchmarks"]["synth_addsub"]
    assert (counts["exact"], counts["normalised"]) == (2, 4)
    with gzip.open(tmp_path / "clean.csv.gz", "rt", newline="") as f:
        kept = [int(row["n"]) for row in csv.DictReader(f)]
    assert kept == [n for n in range(30) if n not in (10, 11, 13, 14)]
    listed = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert listed[0]["row_question"] == rows[10]["prompt"]


def test_audit_by_default_masks_and_takes_every_benchmark_at_hand(tmp_path):
    rows = planted_corpus()
    save(tmp_path / "c.jsonl", rows)
    done = kdstudy("audit", "--corpus", "c.jsonl", "--list", "l.jsonl", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["level"] == "masked"
    assert {"synth_addsub", "synth_threestep"} <= set(found["benchmarks"])
    assert not set(found["benchmarks"]) & set(found["not_at_hand"])
    assert all(found["not_at_hand"].values())
    assert found["clean_rows"] == 25
    listed = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert len(listed) == sum(n["masked"] for n in found["benchmarks"].values())


def test_the_synthetic_corpus_by_name(tmp_path):
    done = kdstudy(
        *["audit", "--corpus=synthetic", "--benchmarks=synth_addsub", "--level=exact"],
        *["--out=clean.jsonl"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    asked = {row["instruction"] for row in ITEMS}
    made = corpus_rows(2000, seed=0)
    clean = [row for row in made if row["instruction"] not in asked]
    assert f"{len(clean)} of its 2000 rows are clean" in done.stdout
    written = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    assert written == clean


def test_a_rows_own_words_cannot_steer_the_terminal(tmp_path):
    strange = [{"id": f"\x1b[2Jstranger-{i}", "completion": "1"} for i in range(3)]
    path = save(tmp_path / "rows.jsonl", [*answers(3)[:3], *strange])
    done = kdstudy("score", "--generations", path, "--benchmark", "synth_addsub", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stranger-0" in done.stderr and "\x1b" not in done.stderr


def test_a_kappa_that_no_chance_leaves_room_for_is_undefined_in_words(tmp_path):
    always = [row | {"completion": "The answer is 7."} for row in answers(0)]
    save(tmp_path / "a.jsonl", always)
    call = ["score", "--benchmark=synth_addsub", "--generations=a.jsonl", "--against=a.jsonl"]
    done = kdstudy(*call, cwd=tmp_path)
    assert "100.0%, kappa undefined" in done.stdout and "nan" not in done.stdout
