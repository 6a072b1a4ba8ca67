"""Contamination: planted cases, brute force, and the leaks that the real sets are known for."""

import dataclasses
import gzip
import json
import os
import random
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdstudy.config.schema import CorpusRef
from kdstudy.data import audit as audits
from kdstudy.data.audit import audit, masked, normalised, overlaps
from kdstudy.data.corpora import locate
from kdstudy.data.formats import to_example
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks
from kdstudy.records import Example

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "math").is_dir(), reason="set KDSTUDY_DATA to the folder with the benchmark files"
)
ORDER = ["exact", "normalised", "masked", "none"]


def examples(*questions, start="e"):
    return [Example(id=f"{start}{i}", instruction=q) for i, q in enumerate(questions)]


def how(one, other):
    (found,) = overlaps(examples(one), examples(other))
    return found[1]


@pytest.mark.parametrize(
    ("level", "one", "other"),
    [
        ("exact", "How many crayons are there?", " How many crayons are there?\n"),
        ("normalised", "How many crayons are there now ?", "How many crayons are there now?"),
        ("normalised", "HOW MANY apples", "how many Apples?"),
        ("normalised", "The town has grown - ups .", "The town has grown-ups."),
        ("normalised", "Alyssa 's dog had “puppies”", 'Alyssa’s dog had "puppies"'),
        ("normalised", "He paid $ 1,234.50 , twice", "He paid $1234.50, twice"),
        ("normalised", "５ apples", "5 apples"),
        ("normalised", "Straße und Café", "STRASSE UND CAFE\u0301"),
        ("normalised", "COVID-19 cases", "Covid 19 cases"),
        ("normalised", "a nice\u200b day\u00a0here", "A nice day here"),
        ("normalised", "2½ cups", "2 1/2 cups"),
        ("normalised", "He has some - 5 of them", "He has some, 5 of them"),
        ("masked", "Tom has 5 apples", "Tom has 17 apples."),
        ("masked", "Tom has 5 apples", "Tom has five apples"),
        ("masked", "Tom has 125 apples", "Tom has one hundred and twenty-five apples"),
        ("masked", "Tom has a hundred apples", "Tom has 3 apples"),
        ("masked", "it costs 5 million dollars", "it costs 0.5 dollars"),
        ("masked", "She ate 1/2 of it", "She ate 0.3333 of it"),
        ("masked", "x has 5, 6 and 7", "x has one, two and three"),
        ("masked", "cost of 1,000 and 2", "cost of 10 and 2,000"),
        ("none", "What is 5 - 3?", "What is 5 + 3?"),
        ("none", "What is 12 * 4?", "What is 12 / 4?"),
        ("none", "It was -5 degrees", "It was 5 degrees"),
        ("none", "Tom has 5 and 6", "Tom has 56"),
        ("none", "Tom has 5 apples", "Ann has 5 apples"),
        ("none", "someone has it", "some 1 has it"),
        ("none", "Tom has 5 apples", "First of all: Tom has 5 apples"),
        ("none", "???", "!"),
    ],
)
def test_planted_cases(level, one, other):
    assert how(one, other) == how(other, one) == level


@pytest.mark.parametrize(
    ("one", "other"), [("1.5 kg", "15 kg"), ("5, 6", "56"), (".5 kg", "5 kg"), ("1, 23", "12, 3")]
)
def test_other_numbers_are_never_merely_another_spelling(one, other):
    assert normalised(one) != normalised(other)


def test_context_belongs_to_the_question():
    row = Example(id="r", instruction="Sum up.", context="A text.")
    items = [
        Example(id="a", instruction="Sum up.", context="a text"),
        Example(id="b", instruction="Sum up.", context="Another text."),
        Example(id="c", instruction="Sum up."),
    ]
    found = overlaps([row], items)
    assert found == [("a", "normalised", "r"), ("b", "none", ""), ("c", "none", "")]


def test_the_first_row_of_the_closest_kind_is_named():
    rows = examples("It is 5", "it is 7 .", "It is 7", "It is 7", start="r")
    assert overlaps(rows, examples("It is 7")) == [("e0", "exact", "r2")]
    assert overlaps(rows, examples("IT IS 7")) == [("e0", "normalised", "r1")]
    assert overlaps(rows, examples("It is 9")) == [("e0", "masked", "r0")]


PIECES = ["Tom", "has", "Ann", "5", "17", "apples", "1,200", "and", "gave", "0.5"]
NOISE = [
    str.upper,
    str.strip,
    lambda t: t.replace(" ", "  "),
    lambda t: t + " ?",
    lambda t: f"“{t}”",
]


def planted(seed, n, words=3):
    """Return texts with their truth: what is left without noise, and without numbers."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        plain = " ".join(rng.choices(PIECES, k=words))
        noisy = plain
        for change in rng.sample(NOISE, rng.randint(0, 2)):
            noisy = change(noisy)
        # The truth is known from the making, not from reading the noisy text.
        made.append((noisy, plain, re.sub(r"[\d.,]+", "#", plain)))
    return made


def literal(row, item):
    for level, place in (("exact", 0), ("normalised", 1), ("masked", 2)):
        if row[place].strip() == item[place].strip():
            return level
    return "none"


@pytest.mark.parametrize("seed", range(5))
def test_equals_comparing_every_row_with_every_item(seed):
    corpus, items = planted(seed, 120), planted(seed + 100, 90)
    rows = examples(*[r[0] for r in corpus], start="r")
    tests = examples(*[i[0] for i in items])
    truth = [[literal(row, item) for row in corpus] for item in items]
    closest = [min(kinds, key=ORDER.index) for kinds in truth]
    found = overlaps(rows, tests)
    assert [kind for _, kind, _ in found] == closest
    assert len(set(closest)) >= 3
    named = [int(row[1:]) if row else None for _, _, row in found]
    assert named == [
        kinds.index(best) if best != "none" else None
        for kinds, best in zip(truth, closest, strict=True)
    ]
    for i, level in enumerate(audits.LEVELS):
        result = audit(rows, {"one": tests[:40], "two": tests[40:]}, level)
        near = ORDER[: i + 1]
        clean = [r for r in range(len(corpus)) if not any(kinds[r] in near for kinds in truth)]
        assert list(result.clean) == clean
        for name, part in (("one", closest[:40]), ("two", closest[40:])):
            counts = {lv: sum(k in ORDER[: j + 1] for k in part) for j, lv in enumerate(ORDER[:3])}
            assert result.counts[name] == {"items": len(part), **counts}
        assert len(result.matches) == sum(k != "none" for k in closest)


def test_counts_are_nested_on_any_text():
    rng = random.Random(3)
    letters = "aA1½5.,-+*/ $%é’'\u200b一५#_\n"
    texts = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(3000)]
    counts = audit(examples(*texts[:1500]), {"b": examples(*texts[1500:])}).counts["b"]
    assert 0 < counts["exact"] < counts["normalised"] < counts["masked"] < 1500


def test_speed():
    rng = random.Random(0)
    words = [*PIECES, "There", "are", "twenty", "marbles", "in", "-", "the", "box", ".", "how"]
    made = [" ".join(rng.choices(words, k=60)) for _ in range(35_000)]
    rows, items = examples(*made[:10_000]), examples(*made[10_000:])
    started = time.process_time()
    audit(rows, {"b": items})
    assert time.process_time() - started < 10  # takes 2 s on a quiet machine


def corpus_file(tmp_path, text, name):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return locate(CorpusRef(path=name, validation_rows=1), tmp_path, None, {})


def test_clean_lines_are_written_as_they_are(tmp_path):
    lines = [
        '{"completion":"a", "prompt": "one","x": 1.50}',
        "",
        '{"prompt": "t\\u00e9n ½", "completion": "b"}',
        '{"prompt": " ", "completion": "without a question"}',
        '{"prompt": "drei",   "completion": "ü"}',
    ]
    source = corpus_file(tmp_path, "\n".join(lines) + "\n", "c.jsonl")
    rows, dropped = audits.read(source)
    assert ([row.number for row in rows], dropped) == ([1, 2, 4], 1)
    audits.write_rows(source, [rows[0], rows[2]], tmp_path / "out.jsonl")
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert written == f"{lines[0]}\n{lines[4]}\n"


def test_a_json_list_stays_one(tmp_path):
    given = [
        {"instruction": f"q {i} é", "input": "", "output": "o", "answer": "1"} for i in range(5)
    ]
    source = corpus_file(tmp_path, json.dumps(given), "c.json")
    rows, _ = audits.read(source)
    audits.write_rows(source, [rows[i] for i in (1, 3)], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [given[1], given[3]]


def test_refusals(tmp_path):
    source = corpus_file(tmp_path, '{"prompt": "q", "completion": "a"}\n', "c.jsonl")
    rows, _ = audits.read(source)
    with pytest.raises(InputError, match="is the corpus itself"):
        audits.write_rows(source, rows, tmp_path / "c.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        audits.write_rows(source, rows, tmp_path)
    half = '{"prompt": "q", "completion": "a"}\n{"prompt": "\\ud83d", "completion": "a"}\n'
    with pytest.raises(InputError, match=r"half\.jsonl, line 2: holds half of a surrogate pair"):
        audits.read(corpus_file(tmp_path, half, "half.jsonl"))
    with pytest.raises(InputError, match="holds no usable row"):
        audits.read(corpus_file(tmp_path, '{"prompt": "", "completion": ""}', "none.jsonl"))


def clean_of(tmp_path, name, data, keep, out):
    """Return a corpus's clean rows as a file, having kept rows `keep` (numbers, from 1)."""
    (tmp_path / name).write_bytes(data)
    source = locate(CorpusRef(path=name), tmp_path, None, {})
    rows, _ = audits.read(source)
    audits.write_rows(source, [row for row in rows if row.number in keep], tmp_path / out)
    return tmp_path / out


LINES = [b'{"prompt": "q%d",  "completion": "a"}' % i for i in range(4)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf \r\n\n"])
def test_lines_keep_their_bytes_behind_a_mark_and_blank_lines(tmp_path, start, end):
    data = start + end.join(LINES) + end
    out = clean_of(tmp_path, "c.jsonl", data, {1, 3, 4}, "out.jsonl")
    assert out.read_bytes() == end.join([LINES[0], LINES[2], LINES[3]]) + end


TABLE = b'completion,prompt,n\r\n"a ""b""\r\nc","q, 1",007\r\na,NA,\r\n"x",q3,1.50\r\n'


def packed(data, how):
    return gzip.compress(data) if how == ".gz" else pa.compress(data, "zstd", asbytes=True)


@pytest.mark.parametrize(("name", "out"), [("c.csv", "out.csv"), ("c.csv.gz", "o.csv.gz"),
                                           ("c.csv.zst", "o"), ("c.csv.gz", "o.csv")])  # fmt: skip
def test_cells_keep_their_quotes_and_breaks(tmp_path, name, out):
    data = TABLE if name == "c.csv" else packed(TABLE, name[5:])
    made = clean_of(tmp_path, name, data, {1, 3}, out)
    text = made.read_bytes() if out.endswith(".csv") else unpacked(made, name)
    lines = TABLE.split(b"\r\n")
    assert text == b"\r\n".join([*lines[:3], lines[4], b""])


def unpacked(path, name):
    if name.endswith(".gz"):
        return gzip.decompress(path.read_bytes())
    with pa.CompressedInputStream(str(path), "zstd") as stream:
        return stream.read()


def test_parquet_keeps_its_schema_and_what_kdstudy_does_not_read(tmp_path):
    talk = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]
            for i in range(3000)]  # fmt: skip
    table = pa.table({
        "messages": talk,
        "when": pa.array(range(3000), pa.timestamp("ns")),
        "blob": [b"\xff" * (i % 3) for i in range(3000)],
        "score": pa.array([None if i % 7 else i / 3 for i in range(3000)], pa.float32()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "given.parquet", row_group_size=700)
    keep = {n for n in range(1, 3001) if n % 5}
    data = (tmp_path / "given.parquet").read_bytes()
    out = clean_of(tmp_path, "c.parquet", data, keep, "out.parquet")
    assert pq.read_table(out).equals(table.take([n - 1 for n in sorted(keep)]))


def test_a_folder_becomes_a_folder(tmp_path):
    (tmp_path / "c").mkdir()
    for n, part in enumerate((LINES[:1], LINES[1:3], LINES[3:])):
        (tmp_path / "c" / f"p{n}.jsonl").write_bytes(b"\n".join(part) + b"\n")
    source = locate(CorpusRef(path="c"), tmp_path, None, {})
    rows, _ = audits.read(source)
    audits.write_rows(source, [rows[0], rows[2]], tmp_path / "clean")
    written = [p.read_bytes() for p in sorted((tmp_path / "clean").iterdir())]
    assert written == [LINES[0] + b"\n", LINES[2] + b"\n", b""]
    with pytest.raises(InputError, match="is the corpus itself"):
        audits.write_rows(source, rows, tmp_path / "c")


def test_the_clean_file_is_whole_or_not_there(tmp_path):
    half = [{"prompt": "q", "completion": "a", "tag": "\ud83d"}, {"prompt": "r", "completion": "b"}]
    out = clean_of(tmp_path, "c.json", json.dumps(half).encode(), {1, 2}, "out.json")
    assert json.loads(out.read_bytes()) == half
    source = locate(CorpusRef(path="c.json"), tmp_path, None, {})
    rows, _ = audits.read(source)
    os.link(tmp_path / "c.json", tmp_path / "same.json")
    with pytest.raises(InputError, match="is the corpus itself"):
        audits.write_rows(source, rows, tmp_path / "same.json")
    with pytest.raises(InputError, match=r"named as jsonl[\s\S]*ends in \.json"):
        audits.write_rows(source, rows, tmp_path / "clean.jsonl")
    (tmp_path / "out.json").write_text("before")
    (tmp_path / "c.json").write_text("[{]")
    with pytest.raises(InputError, match="is not JSON"):
        audits.write_rows(source, rows, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "out.json", "same.json"]


def test_every_turn_of_a_user_is_compared():
    def talk(*said):
        return [{"role": role, "content": text}
                for text in said for role in ("user", "assistant")]  # fmt: skip

    rows = [
        {"messages": talk("Hello!", "How many apples has Tom?", "Thanks")},
        {"conversations": [{"from": "human", "value": "What is 4 - 2?"},
                           {"from": "gpt", "value": "how many apples has Ann?"}]},
        {"text": "What is 7 + 2 ?"},
        {"prompt": "Hello", "completion": "How many pears has Ann?"},
    ]  # fmt: skip
    corpus = [to_example(row, "here")[0] for row in rows]
    corpus = [dataclasses.replace(e, id=str(n)) for n, e in enumerate(corpus)]
    items = examples(
        "How many apples has Tom?", "what is 5 - 2?", "How many apples has Ann?",
        "What is 7 + 2?", "How many pears has Ann?", "thanks",
    )  # fmt: skip
    found = overlaps(corpus, items)
    assert [(kind, row) for _, kind, row in found] == [
        ("exact", "0"),
        ("masked", "1"),
        ("none", ""),  # the assistant says it
        ("normalised", "2"),
        ("none", ""),
        ("normalised", "0"),
    ]
    assert audit(corpus, {"b": items[:1]}).clean == (1, 2, 3)
    assert audits.matched(corpus[0], items[0]) == "How many apples has Tom?"
    assert audits.matched(corpus[0], items[5]) == "Thanks"


def rows_of(path):
    return [
        Example(id=str(i), instruction=row["instruction"], context=row.get("input", "").strip())
        for i, row in enumerate(
            map(json.loads, path.read_text().splitlines())
            if path.suffix == ".jsonl"
            else json.loads(path.read_text())
        )
    ]


@needs_data
def test_the_leaks_that_the_data_folder_documents():
    sets = {name: rows_of(DATA / "math" / name / "test.json") for name in ("AddSub", "SingleEq")}
    counts = audit(sets["SingleEq"], {"AddSub": sets["AddSub"]}).counts["AddSub"]
    assert counts["normalised"] == 126
    mawps = rows_of(DATA / "math" / "mawps" / "test.json")
    found = audit(mawps, sets).counts
    assert (found["AddSub"]["normalised"], found["SingleEq"]["normalised"]) == (58, 62)
    dolly = {name: rows_of(DATA / "instruct/dolly" / f"{name}.jsonl") for name in ("dev", "test")}
    train = rows_of(DATA / "instruct" / "dolly" / "train.jsonl")
    found = audit(train, dolly).counts
    assert (found["test"]["normalised"], found["dev"]["normalised"]) == (10, 31)
    assert audit(dolly["dev"], {"test": dolly["test"]}).counts["test"]["normalised"] == 1


@needs_data
def test_rows_cut_from_a_test_set_are_all_found():
    # These 3,500 rows were taken from the test set, and the folder says which.
    source = locate(CorpusRef(path=str(DATA / "commonsense/train/hellaswag_standin_from_val.json"),
                              validation_rows=1), Path(), None, {})  # fmt: skip
    split = json.loads((DATA / "commonsense/hellaswag/standin_split.json").read_text())
    items = benchmarks.load("hellaswag", DATA).examples
    rows, _ = audits.read(source)
    result = audit([row.example for row in rows], {"hellaswag": items})
    exact = {m.example_id for m in result.matches if m.overlap == "exact"}
    assert {items[i].id for i in split["train_rows_of_test_json"]} <= exact
    assert len(exact) <= 3500 + 5
    assert result.clean == ()


@needs_data
def test_the_math_stand_in_leaks_as_math10k_does():
    source = locate(CorpusRef(name="math_standin"), Path(), DATA, {})
    corpus = [row.example for row in audits.read(source)[0]]
    names = ("gsm8k", "svamp", "multiarith", "addsub", "aqua", "singleeq")
    tests = {name: benchmarks.load(name, DATA).examples for name in names}
    counts = audit(corpus, tests).counts
    for name in ("multiarith", "addsub", "singleeq"):
        assert counts[name]["normalised"] > 0.85 * counts[name]["items"]
    for name in ("gsm8k", "svamp", "aqua"):
        assert counts[name]["normalised"] == 0
    # An independent, cruder reading: letters and digits alone.
    bare = {re.sub(r"[^a-z0-9]", "", e.question.lower()) for e in corpus}
    for name, items in tests.items():
        crude = sum(re.sub(r"[^a-z0-9]", "", e.question.lower()) in bare for e in items)
        assert abs(crude - counts[name]["normalised"]) <= 2
    digits = {re.sub(r"\d+", "", b) for b in bare}
    for name in ("gsm8k", "svamp", "multiarith", "addsub", "singleeq"):
        items = tests[name]
        crude = sum(re.sub(r"[^a-z]", "", e.question.lower()) in digits for e in items)
        assert abs(crude - counts[name]["masked"]) <= 5
    # Three of AQuA are formulas, which only their signs tell apart.
    assert counts["aqua"]["masked"] == 0


def test_masking_leaves_words_that_only_hold_a_number():
    assert masked("someone phoned the tenant") == "someonephonedthetenant"
