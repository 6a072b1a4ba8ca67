"""Corpora: what is read, what is dropped and counted, what is refused and where."""

import json
import os
from pathlib import Path

import pytest
from study_folder import plan_of, write_folder

from kdstudy.config.schema import CorpusRef
from kdstudy.data import corpora
from kdstudy.data import stages as corpus_stages
from kdstudy.data.corpora import load, locate
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation.stages import teacher_text
from kdstudy.records import Example, read_records, write_records
from kdstudy.stage import Work

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


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (10, 1), (37, 3), (300, 30),
                                             (4999, 499), (5000, 500), (6001, 500)])  # fmt: skip
def test_a_tenth_validates_and_500_at_most_where_nobody_says(tmp_path, count, held):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(count)]
    data = corpus(tmp_path, lines(*rows), validation_rows=None)
    assert (len(data.train), len(data.validation)) == (count - held, held)
    chosen = corpus(tmp_path, lines(*rows, *ROWS), rows=20, validation_rows=None)
    assert (len(chosen.train), len(chosen.validation)) == (18, 2)


def test_code_is_learnt_as_it_is_indented(tmp_path):
    row = {"prompt": "def add(a, b):\n", "completion": "    return a + b\n"}
    data = corpus(tmp_path, lines(*ROWS, row))
    (found,) = [e for e in (*data.train, *data.validation) if "add" in e.instruction]
    assert (found.instruction, found.response) == (row["prompt"], row["completion"])


TALK = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]


def test_the_account_counts_what_was_left_out_of_conversations(tmp_path):
    rows = [{"messages": [*TALK, TALK[0]]}, {"messages": TALK}, {"messages": []}]
    (tmp_path / "r.jsonl").write_text(lines(*ROWS, *rows))
    config, local = stage_of(tmp_path, "r.jsonl")
    done = corpus_stages.corpus(Work(config=config, inputs={}, local=local, out=out(tmp_path)))
    account = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert (account["shortened"], account["dropped"]) == (1, {"empty conversation": 1})
    assert (account["read"], account["kept"], account["repeated"]) == (23, 22, 1)
    assert "1 dropped; 1 kept up to the last answer" in done
    parts = [read_records(tmp_path / "out" / f"{n}.parquet", Example)
             for n in ("train", "validation")]  # fmt: skip
    chats = [e for part in parts for e in part if e.chat]
    assert [json.loads(e.chat) for e in chats] == [{"messages": TALK}] * 2


def out(folder):
    (folder / "out").mkdir(exist_ok=True)
    return folder / "out"


def stage_of(folder, path, **fields):
    """Return what a plan gives the corpus stage."""
    write_folder(folder)
    plan = plan_of(folder, corpus={"path": path, **fields})
    (stage,) = [s for s in plan.stages.values() if s.kind == "corpus"]
    return stage.config, stage.local


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_changes_after_planning_stops_the_stage(tmp_path, monkeypatch, when):
    (tmp_path / "mine.jsonl").write_text(lines(*ROWS))
    config, local = stage_of(tmp_path, "mine.jsonl")

    def replaced(source, **settings):
        data = load(source, **settings)
        (tmp_path / "mine.jsonl").write_text(lines(*ROWS[1:]))
        return data

    if when == "before":
        (tmp_path / "mine.jsonl").write_text(lines(*ROWS[1:]))
    else:
        monkeypatch.setattr(corpus_stages, "load", replaced)
    work = Work(config=config, inputs={}, local=local, out=out(tmp_path))
    with pytest.raises(StageError, match="mine: its file has changed since the study was planned"):
        corpus_stages.corpus(work)
    assert list(work.out.iterdir()) == []


def test_what_is_read_is_in_the_key(tmp_path):
    """The same bytes under another type, and under other names of columns."""
    write_folder(tmp_path)
    for name in ("r.csv", "r.tsv"):
        (tmp_path / name).write_text("prompt\tcompletion,text\na\tb,c\nd\te,f\n")
    keys, told = set(), []
    for name, columns in (
        ("r.csv", {"text": "text"}),
        ("r.csv", {"text": "prompt\tcompletion"}),
        ("r.tsv", {"prompt": "prompt", "completion": "completion,text"}),
    ):
        ref = {"path": name, "columns": columns}
        plan = plan_of(tmp_path, corpus=ref, methods=["sft"], ablations={})
        keys |= {k for k, s in plan.stages.items() if s.kind == "corpus"}
        source = locate(CorpusRef(**ref), tmp_path, None, {})
        told.append([e.response for _, e, _ in corpora.read(source)])
    assert told == [["c", "f"], ["a\tb", "d\te"], ["b,c", "e,f"]]
    assert len(keys) == 3


def test_a_folder_of_shards_is_one_corpus(tmp_path):
    (tmp_path / "parts").mkdir()
    for n in range(4):
        (tmp_path / "parts" / f"p{n}.jsonl").write_text(lines(*ROWS[5 * n : 5 * n + 5]))
    (tmp_path / "whole.jsonl").write_text(lines(*ROWS))
    read = [
        load(locate(CorpusRef(path=p), tmp_path, None, {}), rows=None, validation_rows=4, seed=1)
        for p in ("parts", "whole.jsonl")
    ]
    assert read[0] == read[1]
    before = locate(CorpusRef(path="parts"), tmp_path, None, {}).fingerprint
    (tmp_path / "parts" / "p3.jsonl").rename(tmp_path / "parts" / "a.jsonl")
    assert locate(CorpusRef(path="parts"), tmp_path, None, {}).fingerprint != before
    (tmp_path / "parts" / "p1.jsonl").write_text('{"prompt": "q"}\n')
    with pytest.raises(InputError, match=r"p1\.jsonl, line 1: has the fields prompt"):
        corpora.contents(locate(CorpusRef(path="parts"), tmp_path, None, {}), {})


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (ROWS[:9], {"validation_rows": 9}, "9 rows, and validation_rows is 9"),
        (ROWS[:1], {}, "1 rows, and validation_rows is 1"),
        (ROWS, {"rows": 8, "validation_rows": 7}, None),
        ([*ROWS, {"prompt": "q"}], {}, "line 21: has the fields prompt"),
        ([{"messages": TALK[:1]}], {}, "line 1: its last message is by user, not the assistant"),
        ([{"messages": []}], {}, "holds no usable row"),
        ([*ROWS, {"text": "t"}], {}, r"1 of 21 rows are text without a prompt, and seqkd, gkd"),
    ],
)
def test_a_plan_refuses_what_the_run_would(tmp_path, rows, fields, said):
    (tmp_path / "mine.jsonl").write_text(lines(*rows))
    write_folder(tmp_path)
    if said is None:
        assert plan_of(tmp_path, corpus={"path": "mine.jsonl", **fields})
        return
    with pytest.raises(InputError, match=said):
        plan_of(tmp_path, corpus={"path": "mine.jsonl", **fields})


def test_text_without_prompts_suits_methods_that_learn_the_corpus(tmp_path):
    (tmp_path / "mine.jsonl").write_text(lines(*({"text": f" t{i}\n"} for i in range(20))))
    write_folder(tmp_path)
    methods = ["sft", "word_kd", {"type": "gkd", "lmbda": 0}]
    assert plan_of(tmp_path, corpus={"path": "mine.jsonl"}, methods=methods, ablations={})
    data = corpus(tmp_path, (tmp_path / "mine.jsonl").read_text())
    assert {(e.instruction, e.chat) for e in data.train} == {("", "")}
    assert {e.response for e in (*data.train, *data.validation)} == {f" t{i}\n" for i in range(20)}


def test_no_teacher_answers_a_text_without_a_prompt(tmp_path):
    """What a Hub data set holds is not known when it is planned."""
    data = corpus(tmp_path, lines(*ROWS, {"text": "t"}), validation_rows=2)
    write_records(tmp_path / "train.parquet", data.train, Example)
    write_records(tmp_path / "validation.parquet", data.validation, Example)
    work = Work(config={}, inputs={"items": tmp_path}, local={}, out=tmp_path)
    with pytest.raises(InputError, match="1 of 21 corpus rows are text without a prompt"):
        teacher_text(work)


def test_a_corpus_is_read_once_for_plans_and_again_when_it_changes(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text(lines(*ROWS))
    read, reads = corpora.read, []
    monkeypatch.setattr(corpora, "read", lambda source: reads.append(source) or read(source))
    ref, pins = CorpusRef(path="mine.jsonl"), {}
    first = corpora.contents(locate(ref, tmp_path, None, pins), pins)
    assert corpora.contents(locate(ref, tmp_path, None, pins), pins) == first
    assert (first.rows, first.unprompted, first.chats, len(reads)) == (20, 0, 0, 1)
    (tmp_path / "mine.jsonl").write_text(lines(*ROWS, {"messages": TALK}, {"text": "t"}))
    again = corpora.contents(locate(ref, tmp_path, None, pins), pins)
    assert (again.rows, again.unprompted, again.chats, len(reads)) == (22, 1, 1, 2)
    pins = dict.fromkeys(pins, "{")
    assert corpora.contents(locate(ref, tmp_path, None, {}), pins) == again


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"columns": {"query": "q"}}, "'query' is no column that kdstudy reads"),
        ({"columns": {"prompt": "q", "output": "a"}}, "no row has prompt, output together"),
        ({"config": "main"}, "config: belongs to a dataset"),
    ],
)
def test_columns_that_name_no_layout_are_refused_in_the_study(fields, said):
    with pytest.raises(ValueError, match=said):
        CorpusRef(path="r.jsonl", **fields)


def test_the_varied_corpus_has_the_same_answers_in_seven_wordings(tmp_path):
    texts = {}
    for name in ("synthetic", "synthetic_varied"):
        source = locate(CorpusRef(name=name), tmp_path, None, {})
        texts[name] = [row["output"] for _, row in corpora.raw_rows(source)]
    one, seven = ([t.replace("\n", " ") for t in texts[n]] for n in texts)
    assert len(one) == len(seven) == 2000
    # Study style always ends alike; of the seven wordings, one in about five endings is that.
    assert all("The answer is" in t for t in one)
    assert 0.1 < sum("The answer is" in t for t in seven) / 2000 < 0.9
    assert len({t.split()[0] for t in seven if not t[0].isdigit()}) > 3


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
