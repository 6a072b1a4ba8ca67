"""Contents of files in messages: cut short, and inert on a terminal; paths that are none."""

import pytest
from refusals import call, refused

LONG = "z" * 100_000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f'{{"{LONG}": 1}}', "neither which item"),
        (f'{{"id": "a", "completion": "b", "benchmark": "{LONG}"}}', "is of the benchmark"),
        (f'{{"id": "a", "completion": "b", "sample": "{LONG}"}}', '"sample" is'),
        ('{"x\\u001b[31m": 2}', "the fields x\\x1b[31m"),
    ],
    ids=range(4),
)
def test_a_completion_file_cannot_flood_or_steer_the_terminal(tmp_path, data, said):
    made = tmp_path / "made.jsonl"
    made.write_text(data)
    arguments = ("--benchmark", "synth_addsub", "--generations", made)
    assert said in refused(tmp_path, "score", *arguments)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f"{LONG},b\n1,2\n", "has no column student"),
        (f"student,method,task,score\na,kd,t,{LONG}\n", "line 2: score"),
        (f"student,method,task,score\n{LONG},kd,t,1\n", "no SFT row"),
        ("student,method,task,score\na\0b,kd,t,1\n", "no SFT row"),
    ],
    ids=range(4),
)
def test_a_table_cannot_either(tmp_path, data, said):
    (tmp_path / "r.csv").write_text(data)
    assert said in refused(tmp_path, "analyze", tmp_path / "r.csv")


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "--benchmark", LONG, "--generations", "a.jsonl"),
        ("score", "--benchmark", "gsm8k", "--generations", "a", "--data-dir", "x" * 5000),
        ("audit", "--benchmarks", "synth_addsub", "--corpus", "~nobody-at-all/rows.jsonl"),
        ("audit", "--benchmarks", "synth_addsub", "--corpus", "x" * 5000),
        ("ls", "runs", "--store", "x" * 5000),
    ],
    ids=range(5),
)
def test_what_is_no_name_and_no_path(tmp_path, arguments):
    refused(tmp_path, *arguments)


@pytest.mark.parametrize("data", [b"", b"hello", b"[]", b"3", b"\xff", b"[" * 100_000, b"{}"])
def test_runs_are_listed_whatever_lies_beside_them(tmp_path, data):
    folder = tmp_path / "stages" / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(data)
    done = call("ls", "runs", "--store", tmp_path)
    assert (done.code, done.out) == (0, "")
