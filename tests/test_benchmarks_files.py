"""Where benchmark files are found, what is checked of them, and the real ones."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
from file_server import serving

from kdstudy.cli.listing import listing
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.benchmarks.commonsense import wrap_hellaswag
from kdstudy.evaluation.benchmarks.files import FileSource, Pin
from kdstudy.evaluation.score import score
from kdstudy.records import Generation

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))
ROWS = [{"instruction": "What is 2 + 2?", "input": "", "output": "5", "answer": "4.0"}]
PUBLISHED = json.dumps(ROWS).encode()

# Name: items (Table 6 of the paper; MiniLLM's counts), chance, majority, counted by another script.
KNOWN = {
    "gsm8k": (1319, 0, 40 / 1319),
    "svamp": (1000, 0, 77 / 1000),
    "multiarith": (600, 0, 43 / 600),
    "addsub": (395, 0, 12 / 395),
    "aqua": (254, 1 / 5, 63 / 254),
    "singleeq": (508, 0, 17 / 508),
    "hellaswag": (10042, 1 / 4, 2584 / 10042),
    "winogrande": (1267, 1 / 2, 639 / 1267),
    "arc_c": (1172, (4 / 3 + 1165 / 4 + 3 / 5) / 1172, 311 / 1172),
    "arc_e": (2376, (7 / 3 + 2365 / 4 + 4 / 5) / 2376, 633 / 2376),
    "obqa": (500, 1 / 4, 138 / 500),
    "boolq": (3270, 1 / 2, 2033 / 3270),
    "piqa": (1838, 1 / 2, 928 / 1838),
    "siqa": (1954, 1 / 3, 657 / 1954),
    "dolly": (500, 0, None),
    "self_inst": (242, 0, None),
    "vicuna": (80, 0, None),
    "sni": (1694, 0, None),
}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("KDSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def repinned(monkeypatch):
    """Let a benchmark's published file be another one, and return its source."""

    def act(name: str, **changes) -> FileSource:
        source = dataclasses.replace(benchmarks._SOURCES[name], **changes)
        monkeypatch.setitem(benchmarks._SOURCES, name, source)
        return source

    return act


def pin(url: str = "http://127.0.0.1:9/x.json", data: bytes = PUBLISHED, wrap=None) -> Pin:
    return Pin(url=url, sha256=hashlib.sha256(data).hexdigest(), wrap=wrap)


def data_dir(folder: Path, data: bytes = PUBLISHED, where: str = "math/gsm8k/test.json") -> Path:
    file = folder / "data" / where
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return folder / "data"


def test_folders_are_found_in_any_case(tmp_path, repinned):
    repinned("gsm8k", pin=pin())
    folder = data_dir(tmp_path, where="math/GSM8K/test.json")
    assert len(benchmarks.load("gsm8k", folder).examples) == 1


def test_the_data_folder_comes_first_then_the_cache_then_the_network(tmp_path, repinned):
    with serving(PUBLISHED) as server:
        source = repinned("gsm8k", pin=pin(server.url))
        folder = data_dir(tmp_path)
        assert source.place(None) == "nowhere"
        assert benchmarks.fingerprint("gsm8k") == source.pin.sha256
        assert benchmarks.load("gsm8k", folder).examples
        assert not server.asked and source.place(folder) == "data folder"
        first = benchmarks.load("gsm8k")
        assert len(server.asked) == 1 and source.place(None) == "cache"
        assert benchmarks.load("gsm8k") == first == benchmarks.load("gsm8k", folder)
        (folder / "math/gsm8k/test.json").unlink()
        assert benchmarks.load("gsm8k", folder) == first
    assert len(server.asked) == 1


def test_a_download_can_be_watched(repinned):
    seen = []
    with serving(PUBLISHED) as server:
        repinned("gsm8k", pin=pin(server.url))
        benchmarks.fetch("gsm8k", progress=lambda done, total: seen.append((done, total)))
        benchmarks.fetch("gsm8k")
        benchmarks.fetch("synth_addsub")
    assert seen[-1] == (len(PUBLISHED), len(PUBLISHED))
    assert len(server.asked) == 1


def test_the_fingerprint_is_the_hash_of_the_bytes_that_are_read(tmp_path, repinned):
    repinned("gsm8k", pin=pin())
    for data in (PUBLISHED, PUBLISHED + b" "):
        folder = data_dir(tmp_path, data)
        assert benchmarks.fingerprint("GSM8K", folder) == hashlib.sha256(data).hexdigest()


def test_an_edited_file_is_used_and_recognised(tmp_path, repinned):
    repinned("gsm8k", pin=pin())
    folder = data_dir(tmp_path, PUBLISHED.replace(b"4.0", b"5.0"))
    with pytest.warns(benchmarks.EditedBenchmark, match="is not the published file"):
        loaded = benchmarks.load("gsm8k", folder)
    assert loaded.examples[0].answer == "5.0"
    assert benchmarks.published("gsm8k", benchmarks.fingerprint("gsm8k", folder)) is False
    assert benchmarks.published("gsm8k", benchmarks.fingerprint("gsm8k")) is True
    assert benchmarks.published("synth_addsub", benchmarks.fingerprint("synth_addsub")) is None
    known = benchmarks.overview("gsm8k", folder)
    assert (known.found, known.items, known.published) == ("data folder, edited", 1, 1319)
    assert "the published set has 1319 items" in known.note


def test_a_damaged_cache_is_named_and_mended(tmp_path, repinned):
    with serving(PUBLISHED) as server:
        source = repinned("gsm8k", pin=pin(server.url))
        benchmarks.fetch("gsm8k")
        cached = source.fetch(None)
        cached.write_bytes(b"[]")
        known = benchmarks.overview("gsm8k")
        assert (known.found, known.items) == ("cache, damaged", None)
        assert "downloaded again" in known.note
        assert benchmarks.fingerprint("gsm8k") == source.pin.sha256
        with pytest.warns(UserWarning, match="is damaged"):
            assert len(benchmarks.load("gsm8k").examples) == 1
    assert len(server.asked) == 2


def test_offline_a_plan_works_and_a_load_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in benchmarks.names():
        if name != "unni":
            assert len(benchmarks.fingerprint(name)) == 64
    with pytest.raises(InputError, match=r"^gsm8k: .*is not here") as error:
        benchmarks.load("gsm8k")
    assert "HF_HUB_OFFLINE" in str(error.value)
    assert "DIR/math/gsm8k/test.json and give --data-dir DIR" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        benchmarks.load("arc_c", tmp_path / "empty")
    wanted = tmp_path / "empty" / "commonsense" / "ARC-Challenge" / "test.json"
    assert f"put it at {wanted}" in str(error.value)


def test_a_failed_download_names_the_benchmark(repinned):
    with serving(PUBLISHED, 404) as server:
        repinned("gsm8k", pin=pin(server.url))
        with pytest.raises(StageError, match=r"^gsm8k: .*404") as error:
            benchmarks.load("gsm8k")
    assert "math/gsm8k/test.json" in error.value.remedy


def test_unni_is_never_the_short_set_and_says_where_to_get_it(tmp_path):
    folder = data_dir(tmp_path, b'{"instruction": "a", "output": "b"}', "instruct/uinst_short/x")
    for act in (benchmarks.load, benchmarks.fingerprint, benchmarks.fetch):
        with pytest.raises(InputError, match=r"^unni: its file is not here") as error:
            act("unni", folder)
        assert "MiniLLM/uinst" in error.value.remedy
        assert str(folder / "instruct" / "uinst_11_" / "test.jsonl") in error.value.remedy
    known = benchmarks.overview("unni", folder)
    assert (known.found, known.items, known.published) == ("nowhere", None, 10000)
    assert "MiniLLM/uinst" in known.note


def test_unni_is_the_first_ten_thousand(tmp_path):
    lines = [json.dumps({"instruction": f"i{n}", "output": ["a", "b"]}) for n in range(10_007)]
    folder = data_dir(tmp_path, "\n".join(lines).encode(), "instruct/uinst_11_/test.jsonl")
    loaded = benchmarks.load("unni", folder)
    assert len(loaded.examples) == 10_000
    assert loaded.examples[-1].instruction == "i9999"
    assert benchmarks.overview("unni", folder).found == "data folder, unchecked"


def test_a_data_folder_that_is_not_there_starts_no_download(tmp_path):
    for act in (benchmarks.load, benchmarks.fingerprint, benchmarks.fetch, benchmarks.overview):
        with pytest.raises(InputError, match="there is no such data folder") as error:
            act("gsm8k", tmp_path / "nowhere")
        assert "KDSTUDY_DATA" in str(error.value)


def test_a_malformed_line_is_named_with_its_file(tmp_path):
    text = '{"instruction": "a", "output": "b"}\n\n{"instruction": "a"}\n'
    folder = data_dir(tmp_path, text.encode(), "instruct/uinst_11_/test.jsonl")
    with pytest.raises(InputError, match=r'uinst_11_/test\.jsonl, line 3: "output" is missing'):
        benchmarks.load("unni", folder)
    assert "line 3" in benchmarks.overview("unni", folder).note


def test_hellaswag_comes_in_its_original_form_and_is_worded_anew(tmp_path, repinned):
    row = {"activity_label": "X", "ctx": "He", "endings": list("abcd"), "label": 2}
    original = json.dumps(row) + "\n"
    with serving(original.encode()) as server:
        url = server.url + ".jsonl"
        source = repinned("hellaswag", pin=pin(url, original.encode(), wrap_hellaswag))
        (example,) = benchmarks.load("hellaswag").examples
        assert example.answer == "ending3"
        assert example.instruction.endswith("Ending4: d\n\nAnswer format: " + "/".join(LABELS))
        bad = (original + '{"ctx": 1}\n').encode()
        server.content = bad
        repinned("hellaswag", pin=pin(url, bad, wrap_hellaswag))
        with pytest.raises(InputError, match='line 2: "activity_label" is missing'):
            benchmarks.load("hellaswag")
    ours = {"instruction": example.instruction, "answer": "ending1"}
    where = "commonsense/hellaswag/test.json"
    folder = data_dir(tmp_path, json.dumps([ours]).encode(), where)
    assert benchmarks.load("hellaswag", folder).examples[0].answer == "ending1"
    assert source.place(folder) == "data folder, unchecked"


LABELS = ("ending1", "ending2", "ending3", "ending4")


def test_pins_are_whole_and_all_different():
    pins = {s.name: s.pin for s in benchmarks._FILES if s.pin}
    assert set(pins) == set(KNOWN)
    assert all(len(bytes.fromhex(p.sha256)) == 32 for p in pins.values())
    assert len({p.sha256 for p in pins.values()}) == len(pins)
    for p in pins.values():
        assert p.url.startswith("https://raw.githubusercontent.com/")
        assert len(bytes.fromhex(p.url.split("/")[5])) == 20


def test_ls_lists_what_is_here_and_where_the_rest_comes_from(tmp_path):
    rows = {r["name"]: r for r in listing("benchmarks", tmp_path, None)}
    assert set(rows) == set(benchmarks.names())
    assert (rows["gsm8k"]["items"], rows["gsm8k"]["found"]) == ("-", "nowhere")
    assert "downloaded from AGI-Edgerunners/LLM-Adapters" in rows["gsm8k"]["note"]
    assert (rows["synth_svamp"]["items"], rows["synth_svamp"]["found"]) == ("300", "built in")
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def shared() -> Path:
    if not (DATA / "commonsense").is_dir() or not (DATA / "instruct").is_dir():
        pytest.skip(f"needs the benchmark files under {DATA}; set KDSTUDY_DATA")
    return DATA


@pytest.mark.filterwarnings("error::kdstudy.evaluation.benchmarks.EditedBenchmark")
@pytest.mark.parametrize("name", KNOWN)
def test_the_real_files_are_read_whole(name, shared):
    items, chance, majority = KNOWN[name]
    loaded = benchmarks.load(name, shared)
    assert len(loaded.examples) == items == benchmarks.overview(name, shared).published
    assert len({e.id for e in loaded.examples}) == items
    assert loaded.chance == pytest.approx(chance)
    if majority is not None:
        assert loaded.majority == pytest.approx(majority)
    assert all(e.instruction == e.instruction.strip() for e in loaded.examples)
    gold = [
        Generation(
            benchmark=name, example_id=e.id, sample=0, completion=e.answer, stop="eos", tokens=1
        )
        for e in loaded.examples
    ]
    perfect = sum(s.quality == 1 for s in score(gold, loaded, "corrected"))
    # ROUGE knows letters and digits of English only, and one reference is made of smileys.
    assert perfect == items - (name == "self_inst")
    found = benchmarks.overview(name, shared).found
    assert found == ("data folder, unchecked" if name == "hellaswag" else "data folder")


@pytest.mark.parametrize(
    ("name", "repeated", "conflicting"),
    [("multiarith", 20, 0), ("siqa", 24, 5), ("dolly", 1, 0), ("arc_e", 0, 0)],
)
def test_repeats_in_the_real_files_are_counted(name, repeated, conflicting, shared):
    loaded = benchmarks.load(name, shared)
    assert (loaded.repeated, loaded.conflicting) == (repeated, conflicting)


def test_the_real_texts_keep_context_and_all_references(shared):
    sni, dolly = benchmarks.load("sni", shared), benchmarks.load("dolly", shared)
    assert sum(len(e.references) == 1 for e in sni.examples) == 1306
    assert sum(len(e.references) == 2 for e in sni.examples) == 172
    assert all(e.context for e in sni.examples)
    assert sum(bool(e.context) for e in dolly.examples) == 91


def test_the_reader_of_the_original_hellaswag_words_a_row_as_the_real_file_does(shared):
    # The first validation row as its authors published it.
    original = {
        "activity_label": "Roof shingle removal",
        "ctx": "A man is sitting on a roof. he",
        "endings": [
            "is using wrap to wrap a pair of skis.",
            "is ripping level tiles off.",
            "is holding a rubik's cube.",
            "starts pulling up roofing on a roof.",
        ],
        "label": 3,
    }
    first = benchmarks.load("hellaswag", shared).examples[0]
    assert wrap_hellaswag(original) == {"instruction": first.instruction, "answer": first.answer}
