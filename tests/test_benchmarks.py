"""The benchmark registry, rows, and grading."""

import math
from pathlib import Path

import pytest

from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.benchmarks.commonsense import wrap_hellaswag
from kdstudy.evaluation.benchmarks.rows import parse
from kdstudy.records import Example, content_id

MATH = ["gsm8k", "svamp", "multiarith", "addsub", "aqua", "singleeq"]
COMMONSENSE = ["hellaswag", "winogrande", "arc_c", "arc_e", "obqa", "boolq", "piqa", "siqa"]
INSTRUCT = ["dolly", "self_inst", "vicuna", "sni", "unni"]
SYNTHETIC = ["synth_addsub", "synth_multiarith", "synth_svamp", "synth_threestep"]
SIQA = ("answer1", "answer2", "answer3")


def item(instruction: str = "What is 2 + 2?", answer: object = "4.0") -> dict[str, object]:
    return {"instruction": instruction, "input": "", "output": "5", "answer": answer}


def made(rows: list, kind: str = "number", labels: tuple[str, ...] = ()) -> benchmarks.Benchmark:
    return benchmarks.from_rows("mine", rows, kind, labels=labels, where="mine.json")


def test_names_are_those_of_the_study() -> None:
    assert benchmarks.names() == [*MATH, *COMMONSENSE, *INSTRUCT, *SYNTHETIC]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("MultiArith", "multiarith"),
        ("multi-arith", "multiarith"),
        ("MULTI ARITH", "multiarith"),
        ("ARC-Challenge", "arc_c"),
        ("arc-e", "arc_e"),
        ("arceasy", "arc_e"),
        ("OpenBookQA", "obqa"),
        ("social_i_qa", "siqa"),
        ("SocialIQA", "siqa"),
        ("self-instruct", "self_inst"),
        ("self-inst", "self_inst"),
        ("S-NI", "sni"),
        ("sinst", "sni"),
        ("UnNI", "unni"),
    ],
)
def test_names_are_forgiven(given: str, name: str) -> None:
    assert benchmarks.canonical(given) == name


def test_an_unknown_name_lists_the_nearest_and_all() -> None:
    with pytest.raises(InputError) as error:
        benchmarks.load("GSM-8")
    assert "there is no benchmark 'GSM-8'" in str(error.value)
    assert "did you mean gsm8k?" in str(error.value)
    assert all(name in str(error.value) for name in benchmarks.names())
    with pytest.raises(InputError, match="the benchmarks are gsm8k"):
        benchmarks.canonical("")
    with pytest.raises(InputError, match=r"did you mean obqa\?"):
        benchmarks.canonical("openbook")


def test_kinds_are_known_without_a_file() -> None:
    kinds = {name: benchmarks.kind(name) for name in benchmarks.names()}
    assert {name for name in kinds if kinds[name] == "text"} == set(INSTRUCT)
    assert {name for name in kinds if kinds[name] == "choice"} == {"aqua", *COMMONSENSE}


def test_rows_become_examples() -> None:
    loaded = made([item("  What? "), item("Who?", "5"), item("What?", "4")])
    first = content_id("What?")
    assert loaded.examples == (
        Example(id=first, instruction="What?", answer="4.0"),
        Example(id=content_id("Who?"), instruction="Who?", answer="5"),
        Example(id=f"{first}-2", instruction="What?", answer="4"),
    )
    assert loaded.majority == pytest.approx(2 / 3)
    assert (loaded.chance, loaded.repeated, loaded.conflicting) == (0, 1, 0)


def test_repeats_with_other_answers_are_kept_and_counted() -> None:
    rows = [item("A?", a) for a in ("1", "2", "3")] + [item("B?"), item("B?"), item("C?")]
    loaded = made(rows)
    assert [e.answer for e in loaded.examples[:3]] == ["1", "2", "3"]
    assert (loaded.repeated, loaded.conflicting) == (3, 1)


def test_fields_have_several_names() -> None:
    for row in (
        {"instruction": "Add.", "input": "2 and 2 ", "answer": "4"},
        {"question": "Add.", "context": "2 and 2", "answer": 4},
        {"prompt": "Add.", "context": "2 and 2", "input": "", "answer": "4"},
    ):
        (example,) = made([row]).examples
        assert (example.question, example.answer) == ("Add.\n\n2 and 2", "4")
        assert example.id == content_id("Add.", "2 and 2")


def test_texts_have_references() -> None:
    rows = [
        {"instruction": "Write.", "output": " One. "},
        {"instruction": "Write more.", "input": "Words", "output": ["One.", "Two."]},
        {"question": "Go on.", "references": ["Three."], "output": "not read"},
        {"question": "Stop.", "answer": "Four."},
    ]
    loaded = made(rows, "text")
    references = [("One.",), ("One.", "Two."), ("Three.",), ("Four.",)]
    assert [e.references for e in loaded.examples] == references
    assert [e.answer for e in loaded.examples] == [r[0] for r in references]
    assert loaded.chance == 0 and math.isnan(loaded.majority)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "is not a JSON object"),
        (item(" "), '"instruction" is missing'),
        ({"question": None, "answer": "1"}, '"question" is missing'),
        ({"answer": "1"}, '"instruction" is missing'),
        (item(answer=[4]), '"answer" is missing, empty or not a text'),
        ({"instruction": "x"}, '"answer" is missing'),
        (item(answer="four"), "\"answer\" is 'four', not a number"),
        (item(answer=True), "'true', not a number"),
        (item(answer=math.nan), "not a text"),
        (item(answer="1e99999"), "not a number"),
        (item(answer="1e400"), "not a number"),
        (item(answer="2/3"), "not a number"),
        ({**item(), "input": 3}, '"input" is not a text'),
        (item("\ud800"), "surrogate"),
    ],
)
def test_malformed_rows_are_refused_by_place(row: object, message: str) -> None:
    with pytest.raises(InputError, match=r"^mine\.json, row 2: ") as error:
        made([item(), row])
    assert message in str(error.value)


@pytest.mark.parametrize("output", ["", " ", None, [], ["a", ""], [1, None], {"a": 1}])
def test_texts_without_a_reference_are_refused(output: object) -> None:
    with pytest.raises(InputError, match='row 1: "output" is missing, or holds'):
        made([{"instruction": "Write.", "output": output}], "text")


def test_chance_is_read_from_the_options_of_each_item() -> None:
    asked = "Which?\n\nAnswer1: a Answer2: b{}\n\nAnswer format: answer1/answer2{}"
    rows = [
        item(asked.format("", ""), "answer1"),
        item(asked.format(" Answer3: c", "/answer3"), "answer3"),
        item(asked.format(" Answer3: c Answer4: d", "/answer3/answer4"), "answer1"),
        item("Which of them?", "answer4"),
    ]
    loaded = made(rows, "choice", ("answer1", "answer2", "answer3", "answer4"))
    assert loaded.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 4) / 4)
    assert loaded.majority == 0.5
    lettered = [item("Q? Answer Choices: (A) 3 (B) 4", "B"), item("(A) 1 (B) 2 (C) 3", "A")]
    assert made(lettered, "choice").chance == pytest.approx((1 / 2 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("question", "answer", "labels", "message"),
    [
        ("Which? Answer Choices: (A) 3 (B) 4", "AB", (), "offers A, B"),
        ("Which? Answer Choices: (A) 3 (B) 4", "C", (), "\"answer\" is 'C', and the item offers"),
        ("Which? Answer Choices: (A) 3 (B) 4", "b", (), "offers A, B"),
        ("Which?", "A", (), "offers the options (none)"),
        ("Which? Answer Choices: (A) 3", "A", (), "offers the options A, not"),
        ("Which? Answer Choices: (A) 3 (C) 4", "A", (), "offers the options A, C"),
        ("Which?", "answer4", SIQA, "offers answer1, answer2, answer3"),
        ("Which? Answer format: answer1/answer2", "answer3", SIQA, "offers answer1, answer2"),
        ("Which? Answer format: answer1/answer9", "answer1", SIQA, "'answer1/answer9'"),
        ("Which? Answer format: answer1/answer1", "answer1", SIQA, "'answer1/answer1'"),
    ],
)
def test_a_gold_that_is_not_offered_is_refused(question, answer, labels, message) -> None:
    with pytest.raises(InputError, match=r"^mine\.json, row 1: ") as error:
        made([item(question, answer)], "choice", labels)
    assert message in str(error.value)


def test_truth_values_are_labels() -> None:
    rows = [{"question": "Is it?", "answer": True}, {"question": "Is it not?", "answer": False}]
    loaded = made(rows, "choice", ("true", "false"))
    assert [e.answer for e in loaded.examples] == ["true", "false"]


def test_options_are_appended_in_aquas_form() -> None:
    row = {"question": "How many?", "options": [3, "4 apples", "5"], "answer": "B"}
    (example,) = made([row], "choice").examples
    assert example.question == "How many? Answer Choices: (A) 3 (B) 4 apples (C) 5"
    (example,) = made([{**row, "context": "Apples."}], "choice").examples
    assert example.question.endswith(
        "How many?\n\nApples. Answer Choices: (A) 3 (B) 4 apples (C) 5"
    )


@pytest.mark.parametrize(
    ("options", "labels", "question", "message"),
    [
        (["1"], (), "Q?", "list of 2 to 5"),
        (list("123456"), (), "Q?", "list of 2 to 5"),
        ("AB", (), "Q?", "list of 2 to 5"),
        (["1", ""], (), "Q?", "holds something that is empty"),
        (["1", None], (), "Q?", "holds something that is empty"),
        (["1", "2"], ("yes", "no"), "Q?", "there are labels"),
        (["1", "2"], (), "Q? Answer Choices: (A) 1 (B) 2", "already"),
    ],
)
def test_options_that_cannot_be_are_refused(options, labels, question, message) -> None:
    with pytest.raises(InputError, match="row 1") as error:
        made([{"question": question, "options": options, "answer": "A"}], "choice", labels)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "lines", "message"),
    [
        (b"{", False, "f, line 1: is not JSON text"),
        (b'[\n{"a": 1},\n{"a" 2}]', False, "f, line 3: is not JSON text"),
        (b"[" * 100_000, False, "f, line 1: is not JSON text"),
        (b'{"a": 1}', False, "f: is not a JSON list of rows"),
        (b'{"a": 1}\n\n{"a": }', True, "f, line 3: is not JSON text"),
        (b'[{"a":\n"\xff"}]', False, "f, line 2: is not UTF-8 text"),
        ('[{"a": "ä"}]'.encode("latin-1"), False, "f, line 1: is not UTF-8 text"),
        ("[]".encode("utf-16"), False, "f, line 1: is not UTF-8 text"),
    ],
)
def test_files_that_are_no_rows_are_refused_by_line(data, lines, message) -> None:
    with pytest.raises(InputError) as error:
        parse(data, "f", lines=lines)
    assert message in str(error.value)


def test_a_byte_order_mark_and_blank_lines_change_nothing() -> None:
    text = '{"a": "\u2028"}\n\n{"a": "ä"}\n'
    rows = parse(b"\xef\xbb\xbf" + text.encode(), "f", lines=True)
    assert rows == [("line 1", {"a": "\u2028"}), ("line 3", {"a": "ä"})]
    assert parse(b"\xef\xbb\xbf[7]", "f", lines=False) == [("row 1", 7)]


def test_no_items_is_no_benchmark() -> None:
    with pytest.raises(InputError, match=r"mine\.json: a benchmark with no items"):
        made([])


def test_choice_benchmarks_know_guessing_and_the_commonest_answer() -> None:
    loaded = made([item("Which? Answer Choices: (A) 3 (B) 4", "B")], "choice")
    assert (loaded.kind, loaded.chance, loaded.majority) == ("choice", 0.5, 1.0)


def test_an_original_hellaswag_row_becomes_the_known_prompt() -> None:
    row = {
        "ind": 0,
        "activity_label": "Baking",
        "ctx_a": "A woman opens an oven.",
        "ctx_b": "she",
        "ctx": "[header] A woman opens an oven. she",
        "endings": ["sings.", "[step] bakes.", "sleeps.", "swims."],
        "label": 1,
        "source_id": "made up",
    }
    assert wrap_hellaswag(row) == {
        "instruction": "Please choose the correct ending to complete the given sentence: Baking: "
        "[header] A woman opens an oven. she\n\nEnding1: sings. Ending2: [step] bakes. Ending3: "
        "sleeps. Ending4: swims.\n\nAnswer format: ending1/ending2/ending3/ending4",
        "answer": "ending2",
    }
    for field, value in (("label", 4), ("label", "1"), ("endings", ["a"]), ("ctx", None)):
        with pytest.raises(ValueError, match=f'"{field}"'):
            wrap_hellaswag({**row, field: value})
    with pytest.raises(ValueError, match="not a JSON object"):
        wrap_hellaswag([])


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_sets_are_the_same_every_time(name: str) -> None:
    loaded = benchmarks.load(name)
    assert len(loaded.examples) == 300
    assert len({e.id for e in loaded.examples}) == 300
    assert loaded == benchmarks.load(name, Path("ignored"))
    assert len(benchmarks.fingerprint(name)) == 64
    assert benchmarks.fingerprint(name) != benchmarks.fingerprint(
        SYNTHETIC[SYNTHETIC.index(name) - 1]
    )
