"""The benchmark registry, its files, and grading."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from kdstudy.errors import InputError
from kdstudy.evaluate import benchmarks
from kdstudy.records import Example, content_id

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))
ROWS = {
    "gsm8k": 1319,
    "svamp": 1000,
    "multiarith": 600,
    "addsub": 395,
    "aqua": 254,
    "singleeq": 508,
}
SYNTHETIC = ["synth_addsub", "synth_multiarith", "synth_svamp", "synth_threestep"]


def data_dir(folder: Path, rows: object, name: str = "gsm8k") -> Path:
    file = folder / "math" / name / "test.json"
    file.parent.mkdir(parents=True)
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return folder


def item(instruction: str = "What is 2 + 2?", answer: object = "4.0") -> dict[str, object]:
    return {"instruction": instruction, "input": "", "output": "5", "answer": answer}


def test_names_are_those_of_the_study() -> None:
    assert benchmarks.names() == [*ROWS, *SYNTHETIC]


@pytest.mark.parametrize(
    "name", ["multiarith", "MultiArith", "multi-arith", "Multi_Arith", "MULTI ARITH"]
)
def test_names_are_forgiven(name: str) -> None:
    assert benchmarks.canonical(name) == "multiarith"


def test_an_unknown_name_lists_the_nearest_and_all() -> None:
    with pytest.raises(InputError) as error:
        benchmarks.load("GSM-8")
    assert "there is no benchmark 'GSM-8'" in str(error.value)
    assert "did you mean gsm8k?" in str(error.value)
    assert all(name in str(error.value) for name in benchmarks.names())
    with pytest.raises(InputError, match="the benchmarks are gsm8k"):
        benchmarks.canonical("")


def test_rows_become_examples(tmp_path: Path) -> None:
    rows = [item("  What? "), item("Who?", "5"), item("What?", "4")]
    loaded = benchmarks.load("gsm8k", data_dir(tmp_path, rows))
    first = content_id("What?")
    assert loaded.examples == (
        Example(id=first, instruction="What?", answer="4.0"),
        Example(id=content_id("Who?"), instruction="Who?", answer="5"),
        Example(id=f"{first}-2", instruction="What?", answer="4"),
    )
    assert loaded.majority == pytest.approx(2 / 3)


def test_an_input_is_the_items_context(tmp_path: Path) -> None:
    loaded = benchmarks.load("gsm8k", data_dir(tmp_path, [{**item("Add."), "input": "2 and 2 "}]))
    assert loaded.examples[0].question == "Add.\n\n2 and 2"


def test_folders_are_found_in_any_case(tmp_path: Path) -> None:
    assert len(benchmarks.load("gsm8k", data_dir(tmp_path, [item()], "GSM8K")).examples) == 1


def test_the_fingerprint_is_the_files_hash(tmp_path: Path) -> None:
    folder = data_dir(tmp_path, [item()])
    content = (folder / "math" / "gsm8k" / "test.json").read_bytes()
    assert benchmarks.fingerprint("GSM8K", folder) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a benchmark with no items"),
        ("{", "is not JSON text"),
        ('{"a": 1}', "is not a JSON list"),
        ([item(), 3], "row 2: is not a JSON object"),
        ([item(), item(" ")], 'row 2: "instruction" is missing'),
        ([item(answer=4)], 'row 1: "answer" is missing, empty or not a text'),
        ([{"instruction": "x"}], 'row 1: "answer" is missing'),
        ([item(answer="four")], "row 1: \"answer\" is 'four', not a number"),
        ([item(answer="nan")], "not a number"),
        ([item(answer="1e99999")], "not a number"),
        ([item(answer="1e400")], "not a number"),
        ([item(answer="2/3")], "not a number"),
        ([{**item(), "input": 3}], 'row 1: "input" is not a text'),
        ('[{"instruction": "\\ud800", "answer": "1"}]', "surrogate"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=r"test\.json.*") as error:
        benchmarks.load("gsm8k", data_dir(tmp_path, content))
    assert message in str(error.value)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    folder = data_dir(tmp_path, [item()])
    (folder / "math" / "gsm8k" / "test.json").write_bytes(b'[{"instruction": "\xff"}]')
    with pytest.raises(InputError, match="is not JSON text"):
        benchmarks.load("gsm8k", folder)


def test_an_aqua_gold_must_be_a_letter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a letter from A to E"):
        benchmarks.load("aqua", data_dir(tmp_path, [item(answer="AB")], "AQuA"))


@pytest.mark.parametrize("act", [benchmarks.load, benchmarks.fingerprint])
def test_missing_data_says_where_it_looked(tmp_path: Path, act: object) -> None:
    with pytest.raises(InputError, match="KDSTUDY_DATA"):
        act("gsm8k")
    with pytest.raises(InputError) as error:
        act("gsm8k", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / "math" / "gsm8k" / "test.json") in str(error.value)
    assert "KDSTUDY_DATA" in str(error.value)


def test_grading_follows_the_rule(tmp_path: Path) -> None:
    loaded = benchmarks.load(
        "addsub", data_dir(tmp_path, [item(answer="0.6666666666666666")], "AddSub")
    )
    example = loaded.examples[0]
    assert loaded.extract("The answer is 0.67. It is 3.", example, "corrected") == "0.67"
    assert loaded.extract("The answer is 0.67. It is 3.", example, "reference") == "3"
    assert loaded.grade("0.67", example, "corrected")
    assert not loaded.grade("0.67", example, "reference")
    assert not loaded.grade("", example, "corrected")


def test_choice_benchmarks_grade_letters(tmp_path: Path) -> None:
    rows = [item("Which? Answer Choices: (A) 3 (B) 4", "B")]
    loaded = benchmarks.load("aqua", data_dir(tmp_path, rows, "AQuA"))
    example = loaded.examples[0]
    assert (loaded.kind, loaded.chance, loaded.majority) == ("choice", 0.2, 1.0)
    assert loaded.extract("A guess: it is 4", example, "corrected") == "B"
    assert loaded.extract("A guess: it is 4", example, "reference") == "A"
    assert loaded.grade("B", example, "corrected")
    assert not loaded.grade("", example, "reference")


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


@pytest.mark.parametrize("name", ROWS)
def test_shipped_sets(name: str) -> None:
    if not (DATA / "math").is_dir():
        pytest.skip(f"needs {DATA / 'math'}; set KDSTUDY_DATA")
    loaded = benchmarks.load(name, DATA)
    assert len(loaded.examples) == ROWS[name]
    assert len({e.id for e in loaded.examples}) == ROWS[name]
    assert all(e.instruction == e.instruction.strip() for e in loaded.examples)
    assert all(loaded.grade(e.answer, e, "corrected") for e in loaded.examples)
    repeats = Counter(e.id.partition("-")[0] for e in loaded.examples)
    if name == "multiarith":
        assert sum(n - 1 for n in repeats.values()) == 20
    if name == "aqua":
        assert loaded.majority == pytest.approx(63 / 254)
