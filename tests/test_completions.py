"""Completions made anywhere: what is matched, what is left out and said so, what is refused."""

import json
import math
import os
import random
import time
from pathlib import Path

import pytest

from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.asking import Endings
from kdstudy.evaluation.benchmarks import Benchmark
from kdstudy.evaluation.completions import compare, grade, read
from kdstudy.evaluation.score import summary
from kdstudy.records import Example, Generation, write_records

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))

QUESTIONS = ["What is 1 + 1?", "What is 2 + 2?", "Tell me:\n\n3 + 3 ?", "Twice?", "Twice?"]
TOY = Benchmark(
    name="toy",
    version="1",
    kind="number",
    chance=0.0,
    examples=tuple(
        Example(id=f"id{i}", instruction=text, answer=f"{2 * i + 2}")
        for i, text in enumerate(QUESTIONS)
    ),
)


def given(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_item(generations):
    return {(g.example_id, g.sample): g.completion for g in generations}


def test_rows_are_matched_by_id_and_by_question(tmp_path):
    path = given(
        tmp_path,
        {"id": "id1", "completion": "by id"},
        {"question": " What is 1 + 1?\n", "completion": "as it is"},
        {"question": "tell ME: 3  + 3 ?", "completion": "case and spacing"},
        {"id": "my-own-17", "question": "Twice?", "completion": "its id is not ours"},
        {"prompt": "Twice?", "completion": "the repetition"},
    )
    found, account = read(path, TOY)
    assert by_item(found) == {
        ("id1", 0): "by id",
        ("id0", 0): "as it is",
        ("id2", 0): "case and spacing",
        ("id3", 0): "its id is not ours",
        ("id4", 0): "the repetition",
    }
    assert (account.matched, account.missing, account.doubled, account.unknown) == (5, 0, 0, 0)
    assert account.unstated == 5


def test_what_is_left_out_is_counted_and_named(tmp_path):
    path = given(
        tmp_path,
        {"id": "id1", "completion": "first"},
        {"id": "id1", "completion": "second"},
        {"id": "nobody", "completion": "x"},
        {"question": "What is 9 + 9?", "completion": "x"},
        *[{"question": "Twice?", "completion": str(i)} for i in range(3)],
        {"id": "id1", "sample": 1, "completion": "another draw"},
    )
    found, account = read(path, TOY)
    assert by_item(found) == {
        ("id1", 0): "first",
        ("id1", 1): "another draw",
        ("id3", 0): "0",
        ("id4", 0): "1",
    }
    assert (account.matched, account.doubled, account.unknown) == (4, 2, 2)
    assert account.missing == 2 * 5 - 4
    assert [row.split("rows.jsonl, ")[1] for row in account.left_out] == [
        "line 2: id1",
        "line 7: Twice?",
        "line 3: nobody",
        "line 4: What is 9 + 9?",
    ]


def test_many_unknown_rows_are_counted_and_a_few_named(tmp_path):
    rows = [{"id": f"x{i}", "completion": "5"} for i in range(99)]
    _, account = read(given(tmp_path, {"id": "id0", "completion": "2"}, *rows), TOY)
    assert account.unknown == 99
    assert len(account.left_out) == 5


@pytest.mark.parametrize(
    ("fields", "stop", "tokens"),
    [
        ({}, "eos", 0),
        ({"stop": "length", "tokens": 256}, "length", 256),
        ({"finish_reason": "length"}, "length", 0),
        ({"stop": None, "finish_reason": "MAX_TOKENS"}, "length", 0),
        ({"stop": "eos", "finish_reason": "length"}, "eos", 0),
        ({"finish_reason": "content_filter"}, "eos", 0),
        ({"benchmark": "toy"}, "eos", 0),
    ],
)
def test_how_a_text_ended(tmp_path, fields, stop, tokens):
    (row,), account = read(given(tmp_path, {"id": "id0", "completion": "2"} | fields), TOY)
    assert (row.stop, row.tokens) == (stop, tokens)
    assert account.unstated == ("stop" not in fields and "finish_reason" not in fields)


@pytest.mark.parametrize(
    "row",
    [
        {"id": "id0", "text": "T"},
        {"id": "id0", "output": "T", "answer": "2", "model": "m"},
        {"instruction": "What is 1 + 1?", "input": "", "output": "T"},
        {"id": 7, "question": "What is 1 + 1?", "response": "T"},
        {"id": "id0", "completion": "T", "output": "not this", "prediction": "nor this"},
        {"messages": [{"role": "user", "content": "What is 1 + 1?"},
                      {"role": "assistant", "content": "T"}]},
        {"id": "id0",
         "messages": [{"role": "assistant", "content": [{"type": "text", "text": "T"}]}]},
        {"id": "id0", "choices": [{"message": {"content": "T"}, "finish_reason": "stop"}]},
        {"id": "batch_1", "custom_id": "id0", "error": None,
         "response": {"status_code": 200, "body": {"choices": [{"message": {"content": "T"}}]}}},
    ],
)  # fmt: skip
def test_other_shapes_that_mean_one_thing(tmp_path, row):
    found, _ = read(given(tmp_path, row), TOY)
    assert by_item(found) == {("id0", 0): "T"}


def test_several_choices_are_samples_and_a_refusal_is_an_empty_text(tmp_path):
    choices = [
        {"index": 0, "message": {"content": "2"}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": None, "refusal": "no"}, "finish_reason": "stop"},
        {"index": 2, "message": {"content": "so 1"}, "finish_reason": "length"},
    ]
    found, _ = read(given(tmp_path, {"question": "What is 1 + 1?", "choices": choices}), TOY)
    assert by_item(found) == {("id0", 0): "2", ("id0", 1): "", ("id0", 2): "so 1"}
    outcomes = [score.outcome for score in grade(found, TOY, "corrected")]
    assert outcomes == ["correct", "unparsed", "truncated"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"completion": "x"}, "neither which item it answers nor its question"),
        ({"id": "id0"}, "has no completion"),
        ({"id": "id0", "output": "x", "output_pred": "y"}, "any of output, output_pred may be"),
        ({"id": "id0", "output": "x", "text": "y"}, "any of text, output may be the completion"),
        ({"id": "id0", "completion": 7}, '"completion" is not a text'),
        ({"id": "id0", "completion": None}, '"completion" is not a text'),
        ({"id": "id0", "completion": "x", "sample": -1}, '"sample" is -1'),
        ({"id": "id0", "completion": "x", "sample": True}, '"sample" is True'),
        ({"id": "id0", "completion": "x", "tokens": "9"}, "\"tokens\" is '9'"),
        ({"id": "id0", "completion": "x", "stop": ["\n"]}, 'does not say how the text ended'),
        ({"id": "id0", "completion": "x", "finish_reason": "oops"}, "'oops'"),
        ({"id": "id0", "completion": "x", "benchmark": "gsm8k"}, "benchmark gsm8k, not of toy"),
        ({"id": "id0", "completion": "x", "benchmark": "GSM-8K"}, "benchmark gsm8k, not of toy"),
        ({"custom_id": "id0", "response": None, "error": {"code": 429}}, "KeyError: 'choices'"),
        ({"id": "id0", "choices": 5}, "is no chat row and no server's answer"),
        ({"id": "id0", "messages": ["hello"]}, "is no chat row and no server's answer"),
        ([1, 2], "is not a JSON object"),
    ],
)  # fmt: skip
def test_malformed_rows_are_refused_with_their_line(tmp_path, row, expected):
    path = given(tmp_path, {"id": "id1", "completion": "4"}, row)
    with pytest.raises(InputError) as error:
        read(path, TOY)
    assert "rows.jsonl, line 2: " in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": "id0", "completion": "2"}\n{"id": "caf\xe9"}\n', "line 2: is not UTF-8"),
        ('{"id": "id0", "completion": "2"}'.encode("utf-16"), "line 1: is not UTF-8"),
        (b'{"id": "id0", "completion": "2"}\n{"id": \n', "line 2: is not JSON"),
        (b'[{"id": "id0", "completion": "2"},\n{"id": }]', "line 2: is not JSON"),
        (b'[{"id": "id0", "completion": "2"}, 7]', "row 2: is not a JSON object"),
        (b'{"id": ' + b"[" * 100_000, "line 1: is "),
        (b'{"id": "id0", "completion": "2", "tokens": ' + b"9" * 5000 + b"}", "line 1: is JSON"),
        (b"", "holds no completions"),
        (b'{"question": "What is life?", "completion": "42"}', "no row matches an item of toy"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, expected):
    (tmp_path / "f.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read(tmp_path / "f.jsonl", TOY)


def test_a_missing_file_and_parquet_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read"):
        read(tmp_path / "gone.jsonl", TOY)
    write_records(tmp_path / "e.parquet", TOY.examples, Example)
    with pytest.raises(InputError, match="does not hold Generation rows"):
        read(tmp_path / "e.parquet", TOY)


def test_json_list_byte_order_mark_and_our_own_parquet_are_the_same(tmp_path):
    rows = [{"id": f"id{i}", "completion": f"is {i}", "stop": "eos", "tokens": 3} for i in range(5)]
    lines, _ = read(given(tmp_path, *rows), TOY)
    (tmp_path / "list.json").write_text("\ufeff" + json.dumps(rows, indent=2), encoding="utf-8")
    shared = {"benchmark": "toy", "sample": 0, "stop": "eos", "tokens": 3}
    own = [Generation(**shared, example_id=f"id{i}", completion=f"is {i}") for i in range(5)]
    write_records(tmp_path / "own.parquet", own, Generation)
    assert read(tmp_path / "list.json", TOY)[0] == lines == own
    assert read(tmp_path / "own.parquet", TOY)[0] == own


def test_tokens_of_a_text_are_not_those_of_a_part_of_it(tmp_path):
    texts = ("a</t> b", "a</t> b Q: c</t>")
    shared = {"benchmark": "toy", "sample": 0, "stop": "length", "tokens": 9, "thought": 4}
    own = [Generation(**shared, example_id=f"id{i}", completion=t) for i, t in enumerate(texts)]
    write_records(tmp_path / "own.parquet", own, Generation)
    ends = Endings(stop=("Q:",), thinking="</t>")
    found, _ = read(tmp_path / "own.parquet", TOY, endings=ends)
    assert found[0] == own[0]
    assert (found[1].completion, found[1].stop) == ("a</t> b ", "eos")
    assert (found[1].tokens, found[1].thought) == (0, -1)


def test_text_that_no_file_can_hold_is_mended_and_line_ends_inside_texts_are_kept(tmp_path):
    text = "a\u2028b\x85c\r\nd"
    path = given(
        tmp_path, {"id": "id0", "completion": text}, {"id": "id1", "completion": "x\ud83d"}
    )
    found, _ = read(path, TOY)
    assert by_item(found) == {("id0", 0): text, ("id1", 0): "x\ufffd"}


def test_a_part_of_the_items_is_graded_in_benchmark_order(tmp_path):
    rows = [
        {"id": "id2", "completion": "The answer is 6."},
        {"id": "id0", "completion": "The answer is 3."},
        {"id": "id1", "completion": ""},
        {"id": "id0", "completion": "It is 2", "sample": 3},
    ]
    found, _ = read(given(tmp_path, *rows), TOY)
    scores = grade(found, TOY, "corrected")
    assert [(s.example_id, s.sample, s.outcome) for s in scores] == [
        ("id0", 0, "wrong"),
        ("id0", 3, "correct"),
        ("id1", 0, "unparsed"),
        ("id2", 0, "correct"),
    ]


def test_comparison_is_over_what_both_have(tmp_path):
    first = [{"id": f"id{i}", "completion": f"it is {2 * i + 2}"} for i in range(4)]
    second = [{"id": f"id{i}", "completion": "it is 4"} for i in (1, 2, 4)]
    graded = [
        grade(read(given(tmp_path, *rows), TOY)[0], TOY, "corrected") for rows in (first, second)
    ]
    a, b, pairs = compare(*graded)
    assert [s.example_id for s in a] == [s.example_id for s in b] == ["id1", "id2"]
    assert {p.example_id: p.agree for p in pairs} == {"id1": True, "id2": False}


def test_systems_that_cannot_be_compared(tmp_path):
    def graded(*rows):
        return grade(read(given(tmp_path, *rows), TOY)[0], TOY, "corrected")

    one = graded({"id": "id0", "completion": "2"})
    with pytest.raises(InputError, match="have no item in common"):
        compare(one, graded({"id": "id1", "completion": "2"}))
    with pytest.raises(InputError, match="different samples: 0 against 0, 1"):
        compare(one, graded(*[{"id": "id0", "completion": "2", "sample": i} for i in (0, 1)]))


def test_a_million_characters(tmp_path):
    filler = "The answer is 7. (A) 1,234 ####" * 33_000
    path = given(tmp_path, {"id": "id0", "completion": f"{filler}\nThe answer is 2."})
    started = time.process_time()
    (score,) = grade(read(path, TOY)[0], TOY, "corrected")
    assert score.outcome == "correct"
    assert len(score.completion) > 1_000_000
    assert time.process_time() - started < 10


def test_every_row_is_accounted_for_whatever_the_file(tmp_path):
    rng = random.Random(1)
    for _ in range(50):
        rows = [
            {"sample": rng.randint(0, 1), "completion": "5"}
            | rng.choice(
                [{"id": f"id{rng.randint(0, 7)}"}, {"question": rng.choice([*QUESTIONS, "other"])}]
            )
            for _ in range(rng.randint(1, 30))
        ]
        rows.append({"id": "id0", "completion": "2"})
        found, account = read(given(tmp_path, *rows), TOY)
        assert account.matched + account.doubled + account.unknown == len(rows)
        assert len(by_item(found)) == len(found) == account.matched
        assert account.matched + account.missing == 5 * len({g.sample for g in found})


def test_real_repeated_questions_are_matched_in_order():
    if not (DATA / "math").is_dir():
        pytest.skip("set KDSTUDY_DATA to the folder with the benchmark files")
    benchmark = benchmarks.load("multiarith", DATA)
    found, account = read(DATA / "math" / "MultiArith" / "test.json", benchmark)
    assert (account.matched, account.missing, account.doubled, account.unknown) == (600, 0, 0, 0)
    assert [g.example_id for g in found] == [e.id for e in benchmark.examples]
    # The folder's README: 560 of the 600 rationales end with the right number.
    facts = summary(grade(found, benchmark, "reference"))
    assert facts["outcomes"]["correct"] == 560
    assert math.isclose(facts["accuracy"], 560 / 600)


ALIKE = Benchmark(
    name="alike",
    version="1",
    kind="number",
    chance=0.0,
    examples=tuple(
        Example(id=f"id{i}", instruction=text, answer="1")
        for i, text in enumerate(
            [
                "He had 32 crackers and 98 cakes initially. How many did each eat?",
                "Is it so?",
                "is it so",
                "What is 3! + 2?",
                "What is 3 + 2?",
                "She found 70 shells , gave 27 . How many are left ?",
                "What is 1.5 + 1?",
            ]
        )
    ),
)


@pytest.mark.parametrize(
    ("question", "item"),
    [
        ("He had 32 crackers and 98 cakes initially How many did each eat?", "id0"),
        ("he had 32 crackers and 98  cakes initially.  How many did each eat", "id0"),
        ("She found 70 shells, gave 27. How many are left?", "id5"),
        ("What is 1.5 + 1", "id6"),
        ("what is 3! + 2", "id3"),
        ("what is 3 + 2", "id4"),
    ],
)
def test_case_spacing_and_the_ends_of_sentences_do_not_matter_and_are_counted(
    tmp_path, question, item
):
    found, account = read(given(tmp_path, {"question": question, "completion": "1"}), ALIKE)
    assert by_item(found) == {(item, 0): "1"}
    assert (account.matched, account.alike, account.unknown) == (1, 1, 0)


@pytest.mark.parametrize(
    "question", ["He had 3 crackers and 298 cakes initially. How many did each eat?",
                 "What is 15 + 1?", "What is 1.5 - 1?", "What is 3 + 2! ?"],
)  # fmt: skip
def test_another_question_is_not_matched_by_wording_alike(tmp_path, question):
    rows = [{"id": "id1", "completion": "1"}, {"question": question, "completion": "1"}]
    _, account = read(given(tmp_path, *rows), ALIKE)
    assert (account.matched, account.alike, account.unknown) == (1, 0, 1)


@pytest.mark.parametrize(
    ("question", "matched", "alike"),
    [
        ("What is 1 + 17?", 0, 0),
        ("What is 2 + 2?", 0, 0),
        ("what is  1 + 1", 1, 1),
        ("Answer in one word.\n\nWhat is 1 + 1?\nAnswer:", 1, 0),
        ("What is 1 + 1?", 1, 0),
        ("", 1, 0),
    ],
)
def test_an_id_is_not_believed_against_the_rows_own_question(tmp_path, question, matched, alike):
    row = {"id": "id0", "question": question, "completion": "2"}
    found, account = read(given(tmp_path, {"id": "id3", "completion": "x"}, row), TOY)
    assert len(found) == 1 + matched
    assert (account.alike, account.unknown) == (alike, 1 - matched)
    assert [("id0" in said) for said in account.left_out] == [True] * (1 - matched)


def test_items_that_differ_in_no_more_than_wording_are_told_apart_or_left_out(tmp_path):
    rows = [
        {"question": "Is it so?", "completion": "to the letter"},
        {"question": "Is it so?", "completion": "the same again"},
        {"question": "is it so", "completion": "the other"},
        {"question": "IS IT SO?", "completion": "either"},
    ]
    found, account = read(given(tmp_path, *rows), ALIKE)
    assert by_item(found) == {("id1", 0): "to the letter", ("id2", 0): "the other"}
    assert (account.matched, account.alike) == (2, 0)
    assert (account.doubled, account.ambiguous, account.unknown) == (1, 1, 0)
    assert account.left_out[1].endswith("line 4: IS IT SO?")
    with pytest.raises(InputError, match="could each mean several items"):
        read(given(tmp_path, rows[3]), ALIKE)


def test_every_question_of_a_set_is_found_without_its_punctuation(tmp_path):
    whole = benchmarks.load("synth_addsub")
    rows = [
        {"question": e.question.upper().replace(". ", " ").rstrip("?."), "completion": e.id}
        for e in whole.examples
    ]
    random.Random(5).shuffle(rows)
    found, account = read(given(tmp_path, *rows), whole)
    assert {g.example_id: g.completion for g in found} == {e.id: e.id for e in whole.examples}
    assert (account.alike, account.ambiguous, account.missing) == (len(rows), 0, 0)


def own(tmp_path, *rows, kind="number", labels=()):
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8-sig")
    return benchmarks.from_file("bench", path, kind, labels).load(None)


def test_ids_of_the_files_own_find_items_and_tell_equal_questions_apart(tmp_path):
    mine = own(
        tmp_path,
        {"id": "q1", "question": "Twice?", "answer": 1},
        {"id": "q2", "question": "Twice?", "answer": 2},
        {"id": 7, "question": "Once?", "answer": 3},
    )
    ids = [e.id for e in mine.examples]
    rows = [
        {"id": "q2", "completion": "2"},
        {"id": "q1", "question": "Twice?", "completion": "1"},
        {"id": 7, "question": "a prompt of many words, then: Once?", "completion": "3"},
    ]
    found, account = read(given(tmp_path, *rows), mine)
    assert by_item(found) == dict(zip([(i, 0) for i in ids], "123", strict=True))
    assert [s.outcome for s in grade(found, mine, "corrected")] == ["correct"] * 3
    assert (account.alike, account.ambiguous) == (0, 0)


def test_a_question_says_more_than_an_id_that_may_be_anybodys(tmp_path):
    mine = own(tmp_path, *({"id": i, "question": f"What is {i} + 1?", "answer": i + 1}
                           for i in range(3)))  # fmt: skip
    row = {"id": 0, "question": "What is 2 + 1?", "completion": "3"}
    (found,), _ = read(given(tmp_path, row), mine)
    assert found.example_id == mine.examples[2].id


def test_an_id_that_several_items_have_means_none_of_them(tmp_path):
    mine = own(
        tmp_path,
        {"id": "easy", "question": "What is 1 + 1?", "answer": 2},
        {"id": "easy", "question": "What is 1 + 2?", "answer": 3},
    )
    rows = [{"id": "easy", "completion": "2"}, {"question": "What is 1 + 2?", "completion": "3"}]
    found, account = read(given(tmp_path, *rows), mine)
    assert by_item(found) == {(mine.examples[1].id, 0): "3"}
    assert account.ambiguous == 1


def test_the_bare_question_finds_an_item_whose_options_or_context_were_appended(tmp_path):
    mine = own(
        tmp_path,
        {"question": "Capital of Japan?", "options": ["Kyoto", "Tokyo"], "answer": "B"},
        {"question": "Who?", "context": "Ann sang.", "options": ["Ann", "Bob"], "answer": "A"},
        {"question": "When?", "context": "At 5.", "options": ["5", "6"], "answer": "A"},
        {"question": "When?", "context": "At 6.", "options": ["5", "6"], "answer": "B"},
        kind="choice",
    )
    rows = [{"question": q, "completion": "B"} for q in ("Capital of Japan?", "who?", "When?")]
    found, account = read(given(tmp_path, *rows), mine)
    assert [g.example_id for g in found] == [e.id for e in mine.examples[:2]]
    assert (account.alike, account.ambiguous) == (2, 1)


def test_a_long_question_is_matched_in_linear_time(tmp_path):
    question = "word ... " * 20_000 + "." * 100_000 + " " * 100_000 + "?"
    mine = own(tmp_path, {"question": question, "answer": 1})
    started = time.process_time()
    found, _ = read(given(tmp_path, {"question": question + "?", "completion": "1"}), mine)
    assert found[0].example_id == mine.examples[0].id
    assert time.process_time() - started < 2
