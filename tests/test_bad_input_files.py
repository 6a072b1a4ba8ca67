"""Corpora, completions, benchmarks and tables that are wrong: one clear refusal each."""

import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import call, examined, refused

from kdstudy.analysis.results import COLUMNS
from kdstudy.config.schema import CorpusRef
from kdstudy.data import audit as audits
from kdstudy.data.corpora import locate
from kdstudy.data.synthetic import benchmark_rows
from kdstudy.errors import InputError
from kdstudy.evaluation.completion_rows import answers

QUIET = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
ROW = json.dumps({"prompt": "What is 1 + 1?", "completion": "2"})
DONE = json.dumps({"id": "a", "completion": "2"})
HUGE = '{"prompt": "' + "a" * 10_000_000 + '", "completion": 3}'


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """A refusal's time is its own, not that of the first import."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "a.jsonl").write_text(ROW)
    (folder / "b.jsonl").write_text("{}")
    audit(folder / "a.jsonl")
    score(folder / "b.jsonl")
    call("analyze", folder / "a.jsonl")
    (folder / "c.parquet").write_text("")
    score(folder / "c.parquet")


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


def audit(path):
    return call("audit", "--corpus", path, "--benchmarks", "synth_addsub")


def score(path, *more):
    return call("score", "--benchmark", "synth_addsub", "--generations", path, *more)


CORPORA = {
    "cut.jsonl": (f'{ROW}\n{{"prompt": "x', "line 2: is not JSON"),
    "other columns.jsonl": ('{"words": "a"}', "has the fields words"),
    "half the columns.jsonl": ('{"prompt": "a"}', "has the fields prompt"),
    "null.jsonl": ('{"prompt": null, "completion": "a"}', "must be text"),
    "number.jsonl": ('{"prompt": 3, "completion": "a"}', "must be text"),
    "list as text.jsonl": ('{"prompt": ["a"], "completion": "a"}', "must be text"),
    "10 MB.jsonl": (HUGE, "line 1: prompt and response must be text"),
    "10 MB number.jsonl": (f'{{"prompt": {"9" * 10_000_000}}}', "cannot be read"),
    "deep.jsonl": ("[" * 100_000, "cannot be read"),
    "deep object.jsonl": ('{"a":' * 100_000, "cannot be read"),
    "surrogate.jsonl": ('{"prompt": "\\ud800", "completion": "a"}', "surrogate"),
    "surrogate answer.jsonl": (
        '{"prompt": "b", "completion": "a", "answer": "\\ud800"}', "surrogate",
    ),
    "NaN.jsonl": ("NaN", "is not a JSON object"),
    "list.jsonl": ("[1]", "is not a JSON object"),
    "byte order mark.jsonl": (b'\xef\xbb\xbf{"prompt": 3}', "has the fields prompt"),
    "UTF-16.jsonl": (ROW.encode("utf-16"), "is not UTF-8"),
    "bytes.jsonl": (b"\xff\x00", "is not UTF-8"),
    "Windows.jsonl": (f"{ROW}\r\n{{'prompt': 3}}\r\n", "line 2: is not JSON"),
    "empty.jsonl": ("", "no usable row"),
    "blank.jsonl": ("\n \n", "no usable row"),
    "blank texts.jsonl": ('{"prompt": " ", "completion": " "}', "no usable row"),
    "NUL.jsonl": ("\0", "line 1: is not JSON"),
    "Python.jsonl": ("{'prompt': 'a', 'completion': 'b'}", "double quotes"),
    "comma.jsonl": (f"{ROW},", "is not JSON"),
    "cut.json": ('[{"prompt": "a"', "is not JSON"),
    "object.json": (ROW, "no JSON list"),
    "lines.json": (f"{ROW}\n{ROW}", "must end in .jsonl"),
    "empty.json": ("", "is not JSON"),
    "empty list.json": ("[]", "no usable row"),
    "deep.json": ("[" * 100_000, "cannot be read"),
    "big number.json": (f"[{'9' * 5000}]", "cannot be read"),
    "mixed.json": (f"[{ROW}, 3]", "row 2: is not an object"),
    "mixed forms.json": (f'[{ROW}, {{"instruction": "a"}}]', "row 2: has the fields instruction"),
    "null.json": ("null", "no JSON list"),
    "table.txt": ("prompt,completion\na,b\n", ".csv, .tsv"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_refused_with_the_place(tmp_path, name):
    data, said = CORPORA[name]
    path = save(tmp_path / name, data)
    done = audit(path)
    examined(done)
    assert said in done.err
    assert path.stem in done.err


def test_a_study_stops_at_its_corpus_before_anything_is_trained(tmp_path):
    save(tmp_path / "rows.jsonl", f'{ROW}\n{{"prompt": 3, "completion": 4}}\n')
    study = save(
        tmp_path / "study.yaml",
        "name: t\nteachers: [zoo-m]\nstudents: [zoo-s]\nbenchmarks: [synth_addsub]\n"
        "corpus: {path: rows.jsonl, validation_rows: 1}\n",
    )
    done = call("run", study, "--store", tmp_path / "store")
    assert done.code == 2
    assert "rows.jsonl, line 2: prompt and response must be text" in done.err
    assert not list((tmp_path / "store").glob("stages/*/manifest.json"))


COMPLETIONS = [
    ("", "holds no completions"),
    ("[", "is not JSON"),
    (f"[{DONE},", "is not JSON"),
    ("[" * 100_000, "cannot be read"),
    (f'{{"id": "a", "tokens": {"9" * 5000}}}', "cannot be read"),
    (b"\xff", "is not UTF-8"),
    ("3", "is not a JSON object"),
    ('{"id": "a"}', "has no completion"),
    ('{"completion": "a"}', "neither which item it answers"),
    ('{"id": 1, "completion": 3}', "is not a text"),
    ('{"id": 1, "completion": null}', "is not a text"),
    ('{"id": null, "question": " ", "completion": "a"}', "neither which item"),
    ('{"id": "a", "text": "a", "output": "b"}', "name the field"),
    ('{"id": "a", "completion": "b", "sample": -1}', "not a whole number from 0"),
    ('{"id": "a", "completion": "b", "sample": 1e5}', "not a whole number"),
    ('{"id": "a", "completion": "b", "sample": true}', "not a whole number"),
    ('{"id": "a", "completion": "b", "tokens": 1e999}', "not a whole number"),
    (f'{{"id": "a", "completion": "b", "tokens": {"9" * 30}}}', "not a whole number"),
    ('{"id": "a", "completion": "b", "stop": {}}', "does not say how the text ended"),
    ('{"id": "a", "completion": "b", "stop": "\\u001b[31m"}', "does not say how"),
    (f'{{"id": "a", "completion": "b", "stop": "{"z" * 100_000}"}}', "does not say how"),
    ('{"id": "a", "completion": "b", "benchmark": "gsm8k"}', "is of the benchmark gsm8k"),
    ('{"id": "a", "completion": "b", "benchmark": {"a": 1}}', "is of the benchmark"),
    ('{"id": "\\ud800", "completion": "b"}', "no row matches"),
    ('{"id": "\\u001b[31m", "completion": "b"}', "no row matches"),
    ('{"question": "Why?", "completion": "b"}', "no row matches"),
    ('{"messages": 3}', "no chat row"),
    ('{"messages": []}', "neither which item"),
    ('{"messages": [{"role": [], "content": 3}]}', "no chat row"),
    ('{"messages": [{"role": "user", "content": {"a": 1}}]}', "neither which item"),
    ('{"id": "a", "choices": []}', "holds no completions"),
    ('{"id": "a", "choices": {"a": 1}}', "no server's answer"),
    ('{"id": "a", "choices": [{"text": "a"}, {"text": "b"}]}', "no server's answer"),
    ('{"id": "a", "choices": [{"message": null}]}', "no server's answer"),
    ('{"id": "a", "choices": [{"text": "a"}], "usage": [1]}', "no server's answer"),
    ('{"id": "a", "response": {"body": 3}}', "no server's answer"),
    ('{"id": "a", "error": "429", "response": null}', "leave a row out that failed"),
]


@pytest.mark.parametrize(("data", "said"), COMPLETIONS, ids=range(len(COMPLETIONS)))
def test_completions_are_refused_with_the_place(tmp_path, data, said):
    out = tmp_path / "out"
    path = save(tmp_path / "made.jsonl", data)
    arguments = ("--benchmark", "synth_addsub", "--generations", path, "--out", out)
    message = refused(tmp_path, "score", *arguments)
    assert said in message
    assert "made.jsonl" in message
    assert not out.exists()


GENERATION = {
    **{"benchmark": "synth_addsub", "example_id": "a", "sample": 0},
    **{"completion": "x", "stop": "eos", "tokens": 1},
}


@pytest.mark.parametrize(
    "change",
    [{"sample": -1}, {"sample": 0.5}, {"stop": "never"}, {"completion": None}, {"completion": 3},
     {"tokens": "3"}, {"example_id": None}, {"benchmark": "gsm8k"}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_our_own_format_with_other_contents_is_refused(tmp_path, change):
    pd.DataFrame([GENERATION | change]).to_parquet(tmp_path / "made.parquet")
    done = score(tmp_path / "made.parquet")
    examined(done)
    assert "made.parquet" in done.err


def test_damaged_parquet_is_refused_wherever_the_damage_is(tmp_path):
    path = tmp_path / "made.parquet"
    rows = [GENERATION | {"example_id": str(i)} for i in range(20)]
    pd.DataFrame(rows).to_parquet(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        with pytest.raises(InputError, match="does not hold Generation rows"):
            list(answers(save(path, whole[:size]), "synth_addsub"))


ITEMS = [
    *('{"question": "1 + 1?"}', '{"answer": "2"}', '{"question": "1 + 1?", "answer": "two"}'),
    *('{"question": 3, "answer": []}', '{"question": "a", "answer": 1e999}', "[]", "3", "null"),
    *('{"question": "\\ud800", "answer": "2"}', '{"question": "", "answer": "2"}'),
    *('{"question": "a", "answer": NaN}', '{"question": "a", "input": 3, "answer": "2"}'),
]


@pytest.mark.parametrize("row", ITEMS)
def test_a_known_benchmarks_file_is_refused_with_the_row(tmp_path, row):
    good = json.dumps({"instruction": "What is 1 + 1?", "answer": "2"})
    path = save(tmp_path / "math" / "SVAMP" / "test.json", f"[{good}, {row}]")
    made = save(tmp_path / "made.jsonl", DONE)
    arguments = ("--benchmark", "svamp", "--generations", made, "--data-dir", tmp_path)
    message = refused(tmp_path, "score", *arguments)
    assert f"{path}, row 2: " in message


@pytest.mark.parametrize("data", ["", "[", "{}", "[]", b"\xff", "[" * 100_000, f"[{'9' * 5000}]"])
def test_a_known_benchmarks_file_that_is_something_else_is_refused(tmp_path, data):
    path = save(tmp_path / "math" / "svamp" / "test.json", data)
    made = save(tmp_path / "made.jsonl", DONE)
    arguments = ("--benchmark", "svamp", "--generations", made, "--data-dir", tmp_path)
    assert str(path) in refused(tmp_path, "score", *arguments)


HEAD = "student,teacher,method,task,score,seed\n"
RUNS = f"{HEAD}a,T,sft,t,0.5,0\na,T,kd,t,0.6,0\n"
TABLES = [
    ("", "is not a CSV table"),
    (HEAD, "no row of a distilled run"),
    (f"{HEAD}a,T,sft,t,0.5,0\n", "no row of a distilled run"),
    (f"{HEAD}a,T,kd,t,0.5,0\n", "line 2: no SFT row is the baseline"),
    (f"{RUNS}b,T,kd,t,x,0\n", "line 4: score 'x' is no number"),
    (f"{RUNS}b,T,kd,t,inf,0\n", "line 4: score 'inf' is no number"),
    (f"{RUNS}b,T,kd,t,1e999,0\n", "is no number"),
    (f"{RUNS}b,T,kd,t,nan,0\n", "line 4: no score"),
    (f"{RUNS}b,T,kd,t,-1,0\n", "out of range"),
    (f'{RUNS}b,T,kd,t,"0,4",0\n', "score '0,4' is no number"),
    (f"{RUNS}b,T,kd,t,0.4,1.5\n", "seed '1.5' is no whole number"),
    (f"{RUNS}b,T,kd,t,0.4,1e30\n", "seed '1e30' is no whole number"),
    (f"{RUNS}b,T,kd,t,0.4,-99999999999999999999\n", "is no whole number"),
    (f"{RUNS}b,T,kd,t,\x1b[31m,0\n", "is no number"),
    (f"{RUNS}a,T,kd,t,0.6,0\n", "lines 3, 4: the same run and task twice"),
    (f"{RUNS},T,kd,t,0.5,0\n", "line 4: no student"),
    (f"{RUNS}a,b,c,d,e,f,g,h\n", "line 4: is not a CSV table"),
    (f'{HEAD}"a', "is not a CSV table"),
    (RUNS.replace(",", ";"), "has no column student"),
    (RUNS.replace("method", "how"), "has no column method"),
    (RUNS.replace("seed", "size").replace(",0\n", ",-1\n"), "size '-1' is no number above 0"),
    (RUNS.replace("seed", "temperature"), "temperature '0' is no number above 0"),
    (RUNS.encode("utf-16"), "is not a CSV table"),
    (b"\xff\xfe\x00", "is not a CSV table"),
    (b"PAR1", "has no column student"),
    ('[{"a": 1}]', "has no column student"),
    (",".join(COLUMNS) + "\n", "no distilled run"),
    (
        ",".join(COLUMNS) + "\n" + ",".join("x" for _ in COLUMNS) + "\n",
        "not a table of results",
    ),
]


@pytest.mark.parametrize(("data", "said"), TABLES, ids=range(len(TABLES)))
def test_a_table_of_results_is_refused_with_its_line(tmp_path, data, said):
    save(tmp_path / "r.csv", data)
    assert said in refused(tmp_path, "analyze", tmp_path / "r.csv")


@pytest.mark.parametrize("name", ["gone.csv", ".", "http:/127.0.0.1/r.csv", "s3:/b/r.csv"])
def test_a_table_is_a_file_here_and_no_address(tmp_path, name):
    assert "cannot be read" in refused(tmp_path, "analyze", tmp_path / name)
    assert "cannot be read" in refused(tmp_path, "analyze", name)


def test_a_table_inside_an_archive_is_not_unpacked(tmp_path):
    pd.DataFrame({"student": ["a"]}).to_csv(tmp_path / "r.csv.gz", index=False)
    assert "is not a CSV table" in refused(tmp_path, "analyze", tmp_path / "r.csv.gz")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part),
    max_leaves=5,
)


@pytest.mark.parametrize("known", [("prompt", "completion"), ("id", "completion", "messages")])
def test_rows_of_anything_never_end_in_a_traceback(tmp_path, known):
    """Twice 150 rows whose known fields hold anything, as a corpus or as completions."""
    refusals = []
    fields = dict.fromkeys((*known, "stop", "choices"), JSON)

    @settings(QUIET, max_examples=150)
    @given(st.fixed_dictionaries({}, optional=fields))
    def check(row):
        path = save(tmp_path / "made.jsonl", json.dumps(row))
        try:
            if "prompt" in known:
                audits.read(locate(CorpusRef(path=str(path)), tmp_path, None, {}))
            else:
                list(answers(path, "synth_addsub"))
        except InputError as e:
            assert "made" in str(e)
            refusals.append(row)

    check()
    assert len(refusals) >= 120


def test_the_same_rows_are_taken_when_they_are_right(tmp_path):
    """The refusals above are not for want of a good file."""
    asked = benchmark_rows("synth_addsub", n=300, seed=0)[0]["instruction"]
    made = json.dumps({"question": asked, "completion": "The answer is 2."})
    assert score(save(tmp_path / "made.jsonl", b"\xef\xbb\xbf" + made.encode())).code == 0
    assert audit(save(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + ROW.encode())).code == 0
