"""Rows in every layout and every type of file: the same text, whoever wrote it down and how."""

import csv
import gzip
import io
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdstudy.data import files
from kdstudy.data.formats import CUT_OFF, questions, to_example
from kdstudy.errors import InputError
from kdstudy.records import Example, content_id

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "math").is_dir(), reason="set KDSTUDY_DATA to the folder with the benchmark files"
)
QUIET = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows as other programs write them: json, csv, gzip, pyarrow."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".jsonl" in name or ".ndjson" in name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif ".json" in name:
        text = json.dumps(rows)
    else:
        out = io.StringIO(newline="")
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(out, fields, delimiter="\t" if ".tsv" in name else ",")
        writer.writeheader()
        for row in rows:
            cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
            writer.writerow(cells)
        text = out.getvalue()
    data = text.encode()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as packed:
            packed.write(data)
        return path
    path.write_bytes(data)
    return path


def read(path: Path, columns=None) -> list[tuple[Example | None, str]]:
    rows = files.read(path, {"messages", "conversations", "system", "tools", "prompt", "completion",
                             "instruction", "input", "output", "question", "answer", "text",
                             "context", "response", *(columns or {}).values()})  # fmt: skip
    return [to_example(row, f"{path}, {place}", columns) for place, row in rows]


TYPES = [
    *("r.jsonl", "r.json", "r.csv", "r.tsv", "r.parquet", "r.ndjson", "R.JSONL"),
    *("r.jsonl.gz", "r.json.gz", "r.csv.gz", "r.jsonl.zst", "r.json.zst", "r.tsv.zst"),
]
# Whatever a file could trip over, and what pandas takes for missing.
ODD = [
    *("nan", "NaN", "NA", "null", "None", "007", "1e5", "-", "true", '"', "'", ",", "a\tb", "\\n"),
    *(
        "    return x\n",
        "\n\nlead",
        "tail \t\n",
        "\r\n",
        "a\u2028b",
        "\ufeff",
        "é",
        "日本",
        "{}",
        "[]",
    ),
    *("[1]", "🙂", "<|im_end|>", "\x00", "\x1f"),
]
WORDS = st.lists(
    st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    min_size=1,
    max_size=4,
).map("".join)
TEXTS = WORDS.filter(str.strip)


@st.composite
def conversations(draw) -> list[dict]:
    """Return messages, as OpenAI's clients write them, that end with the assistant's."""
    messages = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        if draw(st.integers(0, 3)) == 0:
            arguments = {"z": draw(WORDS), "a": draw(st.integers())}
            call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": draw(TEXTS)})
        messages.append({"role": "assistant", "content": draw(TEXTS)})
    return messages


SPEAKERS = {
    "system": ["system"],
    "user": ["human", "user", "Human"],
    "assistant": ["gpt", "assistant", "chatgpt"],
    "tool": ["tool", "observation"],
}


def sharegpt(messages, rng):
    made = []
    for m in messages:
        if "tool_calls" in m:
            (call,) = m["tool_calls"]
            made.append({"from": "function_call", "value": json.dumps(call["function"])})
        else:
            made.append({"from": rng.choice(SPEAKERS[m["role"]]), "value": m["content"]})
    return made


def layouts_of(messages, tools, rng):
    """Yield rows that say the same conversation."""
    more = {"tools": rng.choice([tools, json.dumps(tools)])} if tools else {}
    yield {"messages": messages, **more}
    yield {"conversations": sharegpt(messages, rng), **more}
    parts = [{**m, "content": [{"type": "text", "text": c} for c in m["content"]]}
             for m in messages]  # fmt: skip
    yield {"messages": parts, **more}
    yield {"conversations": messages, "source": "elsewhere", **more}
    if messages[0]["role"] == "system":
        rest = sharegpt(messages[1:], rng)
        yield {"conversations": rest, "system": messages[0]["content"], **more}


TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]


def test_a_conversation_is_one_example_however_it_is_written(tmp_path):
    rng = random.Random(5)

    @settings(QUIET, max_examples=60)
    @given(conversations(), st.booleans())
    def check(messages, with_tools):
        tools = TOOLS if with_tools else []
        # Written out here; what is inside a call or a tool keeps its order.
        ordered = [{k: m[k] for k in sorted(m)} for m in messages]
        chat = {"messages": ordered} | ({"tools": tools} if tools else {})
        said = [m["content"] for m in messages if m["role"] == "user"]
        text = json.dumps(chat, ensure_ascii=False, separators=(",", ":"))
        expected = Example(
            id=content_id(text),
            instruction=said[-1],
            response=messages[-1]["content"],
            chat=text,
        )
        for row in layouts_of(messages, tools, rng):
            assert to_example(row, "here") == (expected, "")
            # Parquet has no empty struct: a tool without parameters has its JSON text instead.
            row = row | ({"tools": json.dumps(tools)} if tools else {})
            name = rng.choice(TYPES)
            assert read(write(tmp_path / name, [row])) == [(expected, "")], name
        assert questions(expected) == said

    check()


def test_a_prompt_and_its_completion_are_one_example_in_every_layout_and_file(tmp_path):
    @settings(QUIET, max_examples=60)
    @given(TEXTS, TEXTS)
    def check(prompt, completion):
        expected = Example(
            id=content_id(prompt, completion), instruction=prompt, response=completion
        )
        layouts = [
            ({"prompt": prompt, "completion": completion}, None),
            ({"instruction": prompt, "input": "", "output": completion}, None),
            ({"instruction": prompt, "response": completion, "context": ""}, None),
            ({"question": prompt, "answer": completion, "id": "7"}, None),
            ({"q": prompt, "a": completion}, {"prompt": "q", "completion": "a"}),
            ({"completion": prompt, "prompt": completion},
             {"prompt": "completion", "completion": "prompt"}),
        ]  # fmt: skip
        for row, columns in layouts:
            assert to_example(row, "here", columns) == (expected, "")
        for name in TYPES:
            row, columns = random.Random(prompt + name).choice(layouts)
            assert read(write(tmp_path / name, [row]), columns) == [(expected, "")], name
        alone = Example(id=content_id("", prompt), instruction="", response=prompt)
        assert to_example({"text": prompt}, "here") == (alone, "")
        assert questions(alone) == [prompt]

    check()


def test_message_lists_as_prompt_and_completion_are_learnt_behind_the_prompt():
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]  # fmt: skip
    one, _ = to_example({"prompt": talk[:1], "completion": talk[1:2]}, "here")
    assert one == to_example({"messages": talk[:2]}, "here")[0]
    # With an assistant's turn in the prompt: no loss on that one.
    found, _ = to_example({"prompt": talk[:3], "completion": talk[3:], "system": "s"}, "here")
    assert json.loads(found.chat) == {
        "messages": [{"role": "system", "content": "s"}, *talk],
        "prompt": 4,
    }
    assert (found.instruction, found.response) == ("c", "d")
    begun, _ = to_example({"prompt": talk[:2], "completion": talk[1:2]}, "here")
    assert json.loads(begun.chat)["prompt"] == 2


def test_what_nobody_answers_is_left_out_and_said():
    talk = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    whole, none = to_example({"conversations": talk}, "here")
    cut, said = to_example({"conversations": [*talk, {"from": "human", "value": "c"}]}, "here")
    assert cut == whole
    assert (none, said) == ("", CUT_OFF)


def test_what_else_a_message_carries_stays():
    message = {"role": "assistant", "content": None, "reasoning_content": "clouds", "name": "x",
               "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}],
               "refusal": None}  # fmt: skip
    asked = {"role": "developer", "content": "d"}
    answer = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "4"}]}
    last = {"role": "assistant", "content": "four"}
    user = {"role": "user", "content": "q"}
    found, _ = to_example({"messages": [asked, user, message, answer, last]}, "here")
    kept = json.loads(found.chat)["messages"]
    assert kept[0] == asked
    assert kept[2] == {k: v for k, v in message.items() if v is not None} | {"content": ""}
    assert kept[3] == answer | {"content": "4"}
    called, _ = to_example({"messages": [user, message]}, "here")
    assert called.response == ""


def test_nulls_and_numbers_that_are_none_are_no_text(tmp_path):
    """None of them becomes 'nan', and an `input` that is null is none."""
    for nothing in (None, float("nan"), "", "  "):
        row = {"instruction": "q", "input": nothing, "output": "r", "answer": nothing}
        found, _ = to_example(row, "here")
        assert (found.context, found.answer.strip()) == ("", "")
    table = pa.table({
        "prompt": ["q", None, "NaN", "q"],
        "completion": ["a", "b", "NA", None],
        "answer": [1.0, float("nan"), None, 2.5],
        "other": [None, None, None, None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "r.parquet")
    found = read(tmp_path / "r.parquet")
    assert [why for _, why in found] == ["", "empty prompt", "", "empty response"]
    assert [(e.instruction, e.response, e.answer) for e, _ in found if e] == [
        ("q", "a", "1.0"),
        ("NaN", "NA", ""),
    ]
    (tmp_path / "r.csv").write_text('prompt,completion\n"q",\n,a\nNaN,null\n')
    found = read(tmp_path / "r.csv")
    assert [why for _, why in found] == ["empty response", "empty prompt", ""]
    assert (found[2][0].instruction, found[2][0].response) == ("NaN", "null")
    for row in ({"prompt": None, "completion": "a"}, {"prompt": "q", "completion": float("nan")}):
        with pytest.raises(InputError, match="must be text"):
            to_example(row, "here")


def test_rows_of_several_layouts_in_one_table_are_read_each_as_what_it_is(tmp_path):
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    rows = [
        {"prompt": "p", "completion": "c"},
        {"question": "q", "answer": "a"},
        {"messages": talk},
        {"instruction": "i", "output": "o", "text": "i o"},
        {"text": "t"},
    ]
    expected = [to_example(row, "here")[0] for row in rows]
    assert [e.response for e in expected] == ["c", "a", "v", "o", "t"]
    columns = {key for row in rows for key in row}
    table = [{key: row.get(key) for key in columns} for row in rows]
    for name in ("r.parquet", "r.jsonl"):
        found = read(write(tmp_path / name, rows if name == "r.jsonl" else table))
        assert [e for e, _ in found] == expected


def test_a_table_gives_every_call_its_own_fields_only(tmp_path):
    """Arrow fills a struct's missing fields in with nulls."""
    user = {"role": "user", "content": "q"}

    def talk(arguments):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"messages": [user, answer]}

    plain = {"messages": [user, {"role": "assistant", "content": "no call"}]}
    rows = [talk({"city": "Rome"}), talk({"unit": "C"}), plain]
    found = read(write(tmp_path / "r.parquet", rows))
    assert found == [to_example(row, "here") for row in rows]


USER, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
REFUSED = [
    ({"messages": [USER]}, "by user, not the assistant"),
    ({"messages": [{"role": "assistant", "content": "q"}]}, "nothing precedes its only message"),
    ({"messages": "hello"}, "is text that is no JSON: 'hello'"),
    ({"messages": [{"role": "user"}, SAID]}, "message 1: has no c"),
    ({"messages": [{"content": "q"}]}, "message 1: says not who speaks"),
    ({"messages": ["q", "a"]}, "message 1: is a str"),
    ({"messages": 3}, "not a list"),
    ({"messages": [{"role": "user", "content": 3}]}, "message 1: its content must be text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]},
        "message 1: its content has a part of type image",
    ),
    (
        {"messages": [{"role": "user", "content": "<image>?"}, SAID], "images": ["x.png"]},
        "has images beside its messages",
    ),
    ({"conversations": [{"from": "narrator", "value": "x"}]}, "message 1: is from 'narrator'"),
    ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "f"}]},
     "message 2: a function_call is text that is no JSON"),
    ({"conversations": [{"from": "system", "value": "x"}, {"from": "gpt", "value": "f"}],
      "system": "y"}, "column system says other than its first message"),
    ({"messages": [USER, SAID], "tools": "search"}, "tools is text that is no JSON"),
    ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]}, "both lists of mess"),
    ({"prompt": "q", "completion": 4}, r"must be text \(prompt is a str, completion is a int\)"),
    ({"question": "q", "answer": 4}, "answer is a int"),
    ({"instruction": "q", "output": "a", "input": 4}, "input must be text, and is a int"),
    ({"messages": [USER, SAID], "prompt": "q", "completion": "b"},
     r"read in several ways[\s\S]*columns: {messages"),
    ({"prompt": "q", "completion": "a", "question": "q", "answer": "a"}, "in several ways"),
    ({"prompt": "\ud800", "completion": "a"}, "half of a surrogate pair"),
    ({"messages": [{"role": "user", "content": "\ud800"}, SAID]}, "half of a surrogate pair"),
    ({"query": "q", "response": "a"}, "has the fields query, response"),
    (["q", "a"], "is not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_read_is_refused_with_its_place(row, said):
    with pytest.raises(InputError, match=said) as caught:
        to_example(row, "rows.jsonl, line 3")
    assert str(caught.value).startswith("rows.jsonl, line 3")


def test_columns_say_which_layout_is_meant():
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    row = {"prompt": "p", "completion": "c", "messages": talk, "chosen": talk}
    assert to_example(row, "here", {"prompt": "prompt"})[0].response == "c"
    assert to_example(row, "here", {"messages": "messages"})[0].response == "a"
    with pytest.raises(InputError, match="has no column gone"):
        to_example(row, "here", {"prompt": "gone", "completion": "c"})
    # What a name stands for is not read under its own name as well.
    found, _ = to_example(
        {"question": "q", "answer": "a", "prompt": "other"}, "h", {"prompt": "question",
                                                                  "completion": "answer"}
    )  # fmt: skip
    assert (found.instruction, found.response) == ("q", "a")


DAMAGED = [
    ("r.jsonl.gz", gzip.compress(b'{"prompt": "q", "completion": "a"}\n' * 500)[:-20], "cannot be"),
    ("r.jsonl.gz", b"no gzip", "cannot be read"),
    ("r.jsonl.zst", b"no zstd", "cannot be read"),
    ("r.parquet", b"PAR1 not", "is not Parquet"),
    ("r.csv", b'prompt,completion\nq,a\n"q,a\nq,a\n', "line 3: is not CSV"),
    ("r.csv", b'prompt,completion\n"q\nr",a\nq\n', "line 4: has 1 cells, and the header 2"),
    ("r.csv", b"prompt,completion\nq,a,\n", "line 2: has 3 cells, and the header 2"),
    ("r.csv", b"prompt,prompt\nq,a\n", "line 1: two columns are called prompt"),
    ("r.csv", b"prompt,completion\nq,\xff\n", "line 1: is not UTF-8|line 2: is not UTF-8"),
    (
        "r.jsonl",
        b'{"prompt": "q", "completion": "a"}\n\n{"prompt": "\xff"}',
        "line 3: is not UTF-8",
    ),
]


@pytest.mark.parametrize(("name", "data", "said"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_refused_with_the_line(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_byte_order_marks_and_blank_lines_are_no_rows(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "r.jsonl").write_bytes(mark + b'\r\n\n{"text": "t\\u2028"}\r\n')
    (tmp_path / "r.csv").write_bytes(mark + b"text\r\n\r\nt\r\n")
    (tmp_path / "r.json").write_bytes(mark + b'[{"text": "t"}]')
    assert [e.response for e, _ in read(tmp_path / "r.jsonl")] == ["t\u2028"]
    assert [place for place, _ in files.read(tmp_path / "r.jsonl", ())] == ["line 3"]
    assert [place for place, _ in files.read(tmp_path / "r.csv", ())] == ["line 3"]
    for name in ("r.csv", "r.json"):
        assert [e.response for e, _ in read(tmp_path / name)] == ["t"]


def test_a_folder_is_its_files_and_never_two_splits(tmp_path):
    for name in ("train-00001.jsonl", "train-00000.jsonl"):
        write(tmp_path / name, [{"text": name}])
    (tmp_path / "README.md").write_text("what it is")
    assert [p.name for p in files.shards(tmp_path)] == ["train-00000.jsonl", "train-00001.jsonl"]
    write(tmp_path / "test-00000.jsonl", [{"text": "t"}])
    with pytest.raises(InputError, match=r"several splits \(test, train\)"):
        files.shards(tmp_path)
    write(tmp_path / "more.csv", [{"text": "t"}])
    with pytest.raises(InputError, match="several types"):
        files.shards(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="save_to_disk"):
        files.shards(tmp_path)


@needs_data
def test_real_rows_keep_every_character():
    path = DATA / "math" / "train" / "math_standin.json"
    given = json.loads(path.read_text(encoding="utf-8"))
    found = [example for example, _ in read(path)]
    assert [e.response for e in found] == [row["output"] for row in given]
    assert [e.instruction for e in found] == [row["instruction"] for row in given]
    lines = [json.loads(line) for line in (DATA / "instruct/dolly/train.jsonl").open()]
    dolly = [e for e, _ in read(DATA / "instruct/dolly/train.jsonl")]
    assert [e.context for e in dolly] == [row["input"] for row in lines]


def test_arguments_of_a_call_are_an_object_however_they_are_given():
    """OpenAI's API gives them as JSON text, transformers' templates take them as an object."""
    made = []
    for arguments in ('{"a": 1}', {"a": 1}):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        made.append(to_example({"messages": messages}, "here")[0].chat)
    assert made[0] == made[1]
    assert json.loads(made[0])["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


TALK = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK, "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": TALK, "functions": [{"name": "add"}]},
        {"prompt": TALK[:1], "completion": TALK[1:], "documents": [{"text": "Ann has two."}]},
        {"messages": [TALK[0], TALK[1] | {"weight": 0}]},
        {"messages": [*TALK, TALK[0], TALK[1] | {"train": False}]},
        {"messages": [TALK[0], {"role": "assistant", "content": None,
                                "function_call": {"name": "add", "arguments": "{}"}}]},
    ],
)  # fmt: skip
def test_what_other_programs_read_in_a_row_is_not_dropped_without_a_word(row):
    with pytest.raises(InputError, match="row 7") as refused:
        to_example(row, "row 7")
    assert refused.value.remedy


def test_what_they_say_by_default_is_no_reason_to_refuse_a_row():
    row = {"messages": [TALK[0], TALK[1] | {"weight": 1}], "functions": [], "documents": None}
    example, reason = to_example(row, "row 7")
    assert example is not None and not reason
