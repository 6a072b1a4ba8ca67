"""Corpora: what is read, what is dropped and counted, what is refused and where."""

import json
import os
from pathlib import Path

import pytest

from kdstudy.data.corpora import load, locate
from kdstudy.errors import InputError
from kdstudy.study.schema import CorpusRef

DATA = Path(
    os.environ.get("KDSTUDY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)
needs_data = pytest.mark.skipif(
    not (DATA / "math").is_dir(), reason="set KDSTUDY_DATA to the folder with the benchmark files"
)


def corpus(folder, content, name="rows.jsonl", rows=None, validation_rows=1, seed=6):
    (folder / name).write_text(content)
    ref = CorpusRef(path=name, validation_rows=validation_rows)
    source = locate(ref, folder, None, {})
    return load(source, rows=rows, validation_rows=validation_rows, seed=seed)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(20)]


def test_prompt_completion_lines(tmp_path):
    data = corpus(tmp_path, lines(*ROWS), validation_rows=5)
    assert (len(data.train), len(data.validation), data.read) == (15, 5, 20)
    everything = {(e.instruction, e.response) for e in (*data.train, *data.validation)}
    assert everything == {(r["prompt"], r["completion"]) for r in ROWS}


def test_llm_adapters_json_keeps_input_and_answer(tmp_path):
    row = {"instruction": " Add. ", "input": "1 and 2", "output": "3\n", "answer": "3.0"}
    other = {"instruction": "q", "input": "", "output": "r", "answer": "x"}
    data = corpus(tmp_path, json.dumps([row, other]), name="rows.json")
    (found,) = [e for e in (*data.train, *data.validation) if e.answer == "3.0"]
    assert (found.instruction, found.context) == (" Add. ", "1 and 2")
    assert found.response == "3\n"


def test_the_split_is_seeded_and_blind_to_the_files_order(tmp_path):
    one = corpus(tmp_path, lines(*ROWS), validation_rows=5)
    other = corpus(tmp_path, lines(*reversed(ROWS)), validation_rows=5)
    assert one.train == other.train
    assert one.validation == other.validation
    again = corpus(tmp_path, lines(*ROWS), validation_rows=5, seed=7)
    assert again.validation != one.validation


def test_fewer_rows_are_a_choice_from_all(tmp_path):
    data = corpus(tmp_path, lines(*ROWS), rows=8, validation_rows=3)
    assert (len(data.train), len(data.validation)) == (5, 3)


def test_rows_without_text_are_dropped_and_counted(tmp_path):
    empty = [{"prompt": " ", "completion": "a"}, {"prompt": "q", "completion": ""}]
    data = corpus(tmp_path, lines(*ROWS, *empty, *empty[1:]))
    assert data.dropped == {"empty prompt": 1, "empty response": 2}
    assert data.read == 23


def test_repeated_rows_stay_with_ids_of_their_own(tmp_path):
    data = corpus(tmp_path, lines(*ROWS, ROWS[0], ROWS[0]))
    ids = [e.id for e in (*data.train, *data.validation)]
    assert len(ids) == len(set(ids)) == 22
    assert data.repeated == 2


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.jsonl", '{"prompt": "q", "completion": "a"}\n{"prompt": \n', "r.jsonl, line 2"),
        ("r.jsonl", lines(ROWS[0], {"question": "q"}), "r.jsonl, line 2: has the fields question"),
        ("r.jsonl", lines(ROWS[0], {"question": "q"}), "messages; conversations; prompt and compl"),
        (
            "r.jsonl",
            lines(ROWS[0], {"prompt": 3, "completion": "a"}),
            "line 2: prompt and response",
        ),
        ("r.jsonl", "[1, 2]\n", "r.jsonl, line 1: is not a JSON object"),
        ("r.jsonl", "", "holds no usable row"),
        ("r.jsonl", lines({"prompt": "", "completion": "x"}), "1 rows were read, 1 of them"),
        ("r.jsonl", lines(ROWS[0]), "1 rows, and validation_rows is 1"),
        ("r.json", "[]", "holds no usable row"),
        ("r.json", '{"a": 1}', "is no JSON list"),
        ("r.json", '[\n{"a": 1},\n]', "r.json, line [23]: is not JSON"),
        ("r.json", lines(*ROWS), "must end in .jsonl"),
        ("r.json", '[{"prompt": "q", "completion": "a"}, 7]', "row 2: is not an object"),
    ],
)
def test_malformed_files_are_refused_with_the_place(tmp_path, name, content, expected):
    with pytest.raises(InputError, match=expected):
        corpus(tmp_path, content, name=name)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b'{"prompt": "\xff"}')
    source = locate(CorpusRef(path="r.jsonl", validation_rows=1), tmp_path, None, {})
    with pytest.raises(InputError, match="UTF-8"):
        load(source, rows=None, validation_rows=1, seed=0)


def test_the_fingerprint_is_the_files_sha256(tmp_path):
    (tmp_path / "r.jsonl").write_text("one")
    source = locate(CorpusRef(path="r.jsonl", validation_rows=1), tmp_path, None, {})
    # from coreutils' sha256sum
    assert source.fingerprint == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_the_synthetic_corpus_needs_nothing(tmp_path):
    ref = CorpusRef(name="synthetic", rows=200, validation_rows=50)
    data = load(locate(ref, tmp_path, None, {}), rows=200, validation_rows=50, seed=6)
    assert (len(data.train), len(data.validation)) == (150, 50)
    assert all("The answer is" in e.response for e in data.train)


@needs_data
def test_the_real_stand_in_loads_whole():
    ref = CorpusRef(name="math_standin")
    data = load(locate(ref, Path(), DATA, {}), rows=None, validation_rows=500, seed=6)
    # The folder's README counts 10,402 rows.
    assert data.read == 10402
    assert data.dropped == {}
    assert len(data.train) == 9902
