"""Rows that are refused after they were read: file and line are named; what is not there, too."""

import datetime
import json

import chat_models as models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_models import CALL, TALK, TOOL, assistant, learnt, user

from kdstudy.artifacts import Corpus
from kdstudy.config import schema
from kdstudy.config.schema import CorpusRef
from kdstudy.data import corpora
from kdstudy.data.formats import to_example
from kdstudy.data.prompts import PromptFormat, encode_prompt, row_of
from kdstudy.data.stages import corpus
from kdstudy.distill.rows import encode_dataset, encode_rows, require_enough
from kdstudy.doctor import text as doctor_text
from kdstudy.errors import InputError
from kdstudy.models.export import shown_prompts
from kdstudy.records import Example, read_records
from kdstudy.stage import Work

GOOD = {"messages": TALK[:2]}
BAD = {"messages": [user("how much\nis it?"), {"role": "critic", "content": "x"}, assistant("y")]}


def lines_of(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv_of(rows) -> str:
    cells = ['"' + json.dumps(r["messages"], indent=1).replace('"', '""') + '"' for r in rows]
    return "note,messages\r\n" + "".join(f'"two\nlines",{cell}\r\n\r\n' for cell in cells)


def placed(tmp_path, name, write, columns=None):
    """Return what the stage, doctor and its reader say of the only row that is refused."""
    path = tmp_path / name
    write(path)
    source = corpora.locate(CorpusRef(path=str(path), columns=columns or {}), tmp_path, None, {})
    data = corpora.load(source, rows=None, validation_rows=1, seed=0)
    out = tmp_path / "out"
    out.mkdir()
    fields = {k: getattr(source, k) for k in ("name", "fingerprint", "path", "kind")}
    config = {k: fields[k] for k in ("name", "fingerprint", "kind")}
    config |= {"columns": {}, "rows": None, "validation_rows": 1, "seed": 0}
    corpus(Work(config=config, inputs={}, local={"source": fields}, out=out))
    examples = [e for part in ("train", "validation")
                for e in read_records(out / f"{part}.parquet", Example)]  # fmt: skip
    tokenizer = models.tokenizer("gemma")
    with pytest.raises(InputError) as caught:
        encode_rows(examples, tokenizer, "auto", 999, None, Corpus(out).places)
    study = schema.Study(
        name="t", teachers=[], students=["zoo-s"], corpus="synthetic",
        benchmarks=["synth_addsub"], methods=["sft"],
    )  # fmt: skip
    rows = (*data.train, *data.validation)
    facts = doctor_text.read(study, tokenizer, ["m"], rows, {}, data.places)
    assert (facts.refused, facts.refusal.what) == (1, caught.value.what)
    assert str(tmp_path) not in Corpus(out).places_file.path.read_text()
    return caught.value.what


def test_a_row_is_refused_by_its_line_in_json_lines(tmp_path):
    text = "\n" + lines_of([GOOD, GOOD]) + "\n \n" + lines_of([BAD, GOOD])
    said = placed(tmp_path, "talks.jsonl", lambda p: p.write_text(text))
    # By hand: a blank line, two rows, two blank lines.
    assert said.startswith("talks.jsonl, line 6 ('how much is it?'): the chat template cannot")


def test_a_row_is_refused_by_its_line_in_csv_behind_quoted_breaks_and_blank_lines(tmp_path):
    text = csv_of([GOOD, {"messages": TALK}, BAD])
    said = placed(tmp_path, "talks.csv", lambda p: p.write_bytes(text.encode()))
    before = text[: text.index("how much")]
    opened = before.rindex('"two\n')
    assert said.startswith(f"talks.csv, line {text[:opened].count(chr(10)) + 1} (")


@pytest.mark.parametrize("name", ["talks.json", "talks.parquet"])
def test_a_row_is_refused_by_its_number_where_there_are_no_lines(tmp_path, name):
    rows = [GOOD, GOOD, GOOD, BAD, GOOD]

    def write(path):
        if name.endswith("json"):
            path.write_text(json.dumps(rows, indent=2))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)

    assert placed(tmp_path, name, write).startswith(f"{name}, row 4 (")


def test_a_row_of_a_folder_is_refused_by_its_file(tmp_path):
    def write(folder):
        folder.mkdir()
        (folder / "a.jsonl").write_text(lines_of([GOOD] * 3))
        (folder / "b.jsonl").write_text(lines_of([GOOD, BAD]))

    assert placed(tmp_path, "talks", write).startswith("talks/b.jsonl, line 2 (")


def loaded(tmp_path, name, text, columns=None):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    ref = CorpusRef(path=str(tmp_path / name), columns=columns or {})
    return corpora.contents(corpora.locate(ref, tmp_path, None, {}), {})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "", ("holds no usable row", "it is empty", "the file that you mean")),
        ("a.csv", "prompt,completion\n\n", ("holds no usable row", "it is empty")),
        ("a.jsonl", "\n\n", ("it is empty",)),
        (
            "a.jsonl",
            lines_of([{"text": " "}] * 2 + [{"prompt": "", "completion": "a"}]),
            ("3 rows were read, 3 of them", "1 empty prompt, 2 empty response", "columns"),
        ),
        ("a.jsonl", lines_of([{"messages": []}]), ("1 empty conversation",)),
    ],
)  # fmt: skip
def test_a_corpus_of_nothing_says_why_and_what_instead(tmp_path, name, text, words):
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, name, text)
    assert all(word in str(caught.value) for word in words)


def test_a_dataset_of_nothing_is_not_told_to_raise_max_length():
    tokenizer = models.tokenizer(None)
    for rows in ([], [{"prompt": "q", "completion": "  "}] * 3):
        with pytest.raises(InputError) as caught:
            require_enough({"train": encode_dataset(rows, tokenizer, 99).counts}, 99, 0.05)
        assert f"none of the {len(rows)} train rows holds anything to learn" in str(caught.value)
        assert "max_length" not in str(caught.value)
    some = [{"prompt": "q" * 200, "completion": "a"}, {"prompt": "q", "completion": "  "}]
    with pytest.raises(InputError, match="1 are too long, 1 hold nothing"):
        require_enough({"train": encode_dataset(some, tokenizer, 99).counts}, 99, 0.05)


def parquet(rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


ROW = {"query": "q", "completion": "a", "note": "n"}


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.jsonl", lines_of([ROW] * 3), {"prompt": "qery", "completion": "completion"}),
        ("a.csv", "query,completion,note\nq,a,n\n", {"prompt": "qery"}),
        ("a.parquet", parquet([ROW] * 3), {"prompt": "qery"}),
        # A row may lack a context; a column that no row has is misspelt.
        ("a.jsonl", lines_of([ROW] * 3), {"instruction": "query", "response": "completion",
                                          "context": "qery"}),
        ("a.parquet", parquet([ROW] * 3), {"instruction": "query", "response": "completion",
                                           "context": "qery"}),
    ],
)  # fmt: skip
def test_a_misspelt_column_is_refused_with_those_that_are_there(tmp_path, name, text, columns):
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, name, text, columns)
    said = str(caught.value)
    assert "has no column qery" in said
    assert "query" in said.partition("there are")[2]
    if "context" not in columns:
        assert "note" in said


def test_a_column_that_some_rows_lack_is_no_mistake(tmp_path):
    some = [{"q": "1", "a": "2"}, {"q": "1", "a": "2", "c": "about"}]
    columns = {"instruction": "q", "response": "a", "context": "c"}
    assert loaded(tmp_path, "a.jsonl", lines_of(some), columns).rows == 2


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "q", "completion": "a", "tools": [TOOL]}, "tools"),
        ({"prompt": "q", "completion": "a", "tools": json.dumps([TOOL])}, "tools"),
        ({"instruction": "q", "output": "a", "system": "be brief"}, "system"),
        ({"question": "q", "answer": "a", "system": "be brief"}, "system"),
    ],
)
def test_what_only_a_conversation_has_a_place_for_is_not_dropped(row, named):
    with pytest.raises(InputError, match=f"line 3: has {named} beside texts"):
        to_example(row, "f.jsonl, line 3")
    for nothing in ("", None, [], "[]", float("nan")):
        assert to_example({**row, named: nothing}, "f.jsonl, line 3")[0] is not None


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", None])
def test_a_text_that_is_written_with_two_ends_has_one(name):
    tokenizer = models.tokenizer(name)
    end = models.ENDS.get(name, "</s>")
    for given in (f"4{end}{end}", f"4{end}</s>", f"4</s>{end}"):
        for row in ({"instruction": "q", "output": given}, {"prompt": "q", "completion": given}):
            want = [f"4{end}"]
            study = row_of(tokenizer, "auto", to_example(row, "")[0], 999)
            assert learnt(tokenizer, study) == want
            library = encode_dataset([row], tokenizer, 999).rows[0]
            ends = [
                i
                for i in library.ids[library.prompt_length :]
                if tokenizer.decode([i]) in (end, "</s>")
            ]
            assert len(ends) == 1, tokenizer.decode(library.ids)


def test_an_answer_may_repeat_what_its_prompt_opens():
    """DeepSeek-R1's manner: the prompt ends in <think>, and so does the row's answer begin."""
    tokenizer = models.tokenizer(models.OPENED)
    talk = [user("6*7?"), assistant("<think>\nsix times seven\n</think>\n\n42")]
    for row in (
        row_of(tokenizer, "auto", to_example({"messages": talk}, "")[0], 999),
        encode_dataset([{"messages": talk}], tokenizer, 999).rows[0],
    ):
        whole = tokenizer.apply_chat_template(talk, tokenize=False)
        assert whole.startswith(tokenizer.decode(row.ids))
        assert learnt(tokenizer, row) == ["six times seven\n</think>\n\n42<|im_end|>"]
        assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "chat", talk[:1])
    with pytest.raises(InputError, match="own prompt"):
        encode_dataset([{"messages": [user("q"), assistant("42")]}], tokenizer, 999)


def test_a_tool_conversation_is_transformers_own_rendering():
    tokenizer = models.tokenizer(models.THINKING)
    call = {**CALL, "id": "c1"}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "yes"}
    talk = [user("rain?"), assistant("", tool_calls=[call]), answer, assistant("It rains.")]
    written = [*talk]
    arguments = json.dumps(call["function"]["arguments"])
    text_call = {**call, "function": {**call["function"], "arguments": arguments}}
    written[1] = {"role": "assistant", "content": None, "tool_calls": [text_call]}
    whole = tokenizer.apply_chat_template(talk, tools=[TOOL], tokenize=False)
    given = {"messages": written, "tools": json.dumps([TOOL])}
    for row in (
        row_of(tokenizer, "auto", to_example(given, "")[0], 999),
        encode_dataset([given], tokenizer, 999).rows[0],
    ):
        assert whole.startswith(tokenizer.decode(row.ids))
        assert [t.count("<tool_call>") for t in learnt(tokenizer, row)] == [1, 0]


def test_a_card_shows_the_prompts_that_transformers_renders():
    for name in ("chatml", "gemma", "llama3"):
        tokenizer = models.tokenizer(name)
        shown = shown_prompts(tokenizer, PromptFormat(template="chat"))
        asked = [user("{question}")]
        want = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        today = f"{datetime.date.today():%d %b %Y}"
        assert f"```text\n{want.replace(today, '26 Jul 2024')}\n```" in shown
        if name == "gemma":
            assert "no system" in shown.partition("With a system message")[2]
        else:
            assert "{system message}" in shown.partition("With a system message")[2]
    tokenizer.chat_template = "{{ '```' + messages[-1].content + '```' }}"
    assert "````text\n```{question}```\n````" in shown_prompts(tokenizer, PromptFormat())
