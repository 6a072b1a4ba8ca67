"""Study files that are wrong, in every way that people and chance have: one clear refusal each."""

from copy import deepcopy

import forked
import huggingface_hub.constants
import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import call, examined, refused

from kdstudy.config.read import read_study
from kdstudy.config.schema import Study

GOOD = {
    "name": "name: t",
    "teachers": "teachers: [zoo-l]",
    "students": "students: [zoo-s]",
    "corpus": "corpus: synthetic",
    "benchmarks": "benchmarks: [synth_addsub]",
}
QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """A refusal's time is its own, not that of the first import."""
    folder = tmp_path_factory.mktemp("first")
    assert write(folder, "\n".join(GOOD.values())).read_text()
    assert call("plan", folder / "study.yaml", "--store", folder / "store").code == 0


def write(folder, text):
    path = folder / "study.yaml"
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return path


def refusal(folder, text):
    return refused(folder, "plan", write(folder, text), "--store", folder / "store")


# The line that stands in for the good one of that name ("" for one more), and what is to be said.
MISTAKES = [
    ("teachers", "teacher: zoo-l", "did you mean 'teachers'?"),
    ("students", "student: [zoo-s]", "did you mean 'students'?"),
    ("benchmarks", "benchmark: [gsm8k]", "did you mean 'benchmarks'?"),
    ("benchmarks", "benchmarks: gsm8k, svamp", "must be a list; got 'gsm8k, svamp'; write [gsm8k,"),
    ("benchmarks", "benchmarks: [gsm9k]", "did you mean gsm8k?"),
    ("benchmarks", "benchmarks: [gsm8k, GSM-8K]", "gsm8k is listed twice"),
    ("benchmarks", "benchmarks: [{path: rows.jsonl}]", "add `name:`"),
    ("benchmarks", "benchmarks: [{name: m, path: rows.jsonl}]", "path needs kind"),
    ("benchmarks", "benchmarks: [{name: gsm8k, path: a, kind: number}]", "choose another name"),
    ("benchmarks", "benchmarks: [{name: m, path: gone.jsonl, kind: number}]", "gone.jsonl"),
    ("benchmarks", "benchmarks: [{name: m, path: a, kind: numbers}]", "'number', 'choice'"),
    ("benchmarks", "benchmarks: [{name: average, path: a, kind: text}]", "taken by the tables"),
    ("benchmarks", "benchmarks: [{name: m, path: a, kind: text, labels: [a]}]", "kind: choice"),
    (
        "benchmarks",
        "benchmarks: [{name: m, path: a, kind: choice, labels: [1, 2]}]",
        "in quotes",
    ),
    ("", "methods: sft, gkd", "write [sft, gkd]"),
    ("", "methods: [wordkd]", "did you mean 'word_kd'?"),
    ("", "methods: [Word-KD]", "did you mean 'word_kd'?"),
    ("", "methods: [SFT]", "did you mean 'sft'?"),
    ("", "methods: {gkd: {beta: 0.5}}", "line 6: methods: must be a list"),
    ("", "methods:\n  - gkd:\n      beta: 0.5", "needs `type:`, the method's name"),
    ("", "methods:\n  - type: gkd\n    lambda: 0.5", "line 8: methods[0].lambda"),
    ("", "methods: [{type: gkd, beta: 1}]", "write revkd"),
    ("", "methods: [{type: word_kd, temperature: 0}]", "should be greater than 0; got 0"),
    ("", "methods: [gkd, {type: gkd, beta: 0.1}]", "gkd is listed twice"),
    ("", "train:\n  lr: 3e-4", "did you mean 'learning_rate'?"),
    ("", "train:\n  learning_rate: 3e-4x", "line 7: train.learning_rate"),
    ("", "train:\n  learning_rate: 0", "greater than 0"),
    ("", "train:\n  learning_rate: '3,0e-4'", "unable to parse string as a number"),
    ("", "train:\n  epoch: 3", "did you mean 'epochs'?"),
    ("", "train:\n  epochs: three", "got 'three'"),
    ("", "train:\n  epochs: yes", "got 'yes'"),
    ("", "train:\n  epochs: true", "is a truth value; write a number"),
    ("", "limit: 1:30", "got '1:30'"),
    ("", "\n\nseeds: [3, 4, 3]", "line 8: seeds: 3 is listed twice"),
    ("students", "students: [zoo-s, zoo-s]", "line 5: students: zoo-s is listed twice"),
    ("", "ablations:\n  noise: {methods: [revkd]}\nmethods: [sft]", "line 7: ablations.noise"),
    ("", "train:\n  epochs: inf", "train.epochs: inf is no number"),
    ("", "train:\n  batch_size: 16.5", "fractional part"),
    ("", "train:\n  batch_size: auto", "valid integer"),
    ("", "train:\n  batch_size: 16\n  batch_size: 32", "line 8: 'batch_size' is written twice"),
    ("", "train:\n batch_size: 16\n  epochs: 3", "line 8: mapping values are not allowed here"),
    ("", "train:\n\tepochs: 3", "indent with spaces"),
    ("", "train: none", "must be `key: value` pairs; got 'none'"),
    ("", "ablations:\n  noise: false", "write null for none"),
    ("", "train:\n  lora: true", "must be `key: value` pairs; got True"),
    ("", "train:\n  lora: {rank: 8}", "did you mean 'r'?"),
    ("", "train:\n  lora: {target_modules: q_proj}", "write [q_proj]"),
    ("", "train:\n  lora: {target_modules: []}", "at least 1 item"),
    ("", "train:\n  precision: fp16", "'auto', 'float32' or 'bfloat16'"),
    ("", "train:\n  max_length: 4", "greater than or equal to 8"),
    ("", "train:\n  report_to: wandb", "write [wandb]"),
    ("", "train:\n  report_to: [wnadb]", "'wandb'"),
    ("", "learning_rate: 1e-4", "it belongs under `train:`"),
    ("", "max_new_tokens: 99", "it belongs under `generation:`"),
    ("", "generation:\n  temperature: -0.1", "greater than or equal to 0"),
    ("", "generation:\n  samples: 5", "set temperature above 0 or samples to 1"),
    ("", "generation:\n  max_tokens: 256", "did you mean 'max_new_tokens'?"),
    ("", "generation:\n  do_sample: true", "did you mean 'temperature'?"),
    ("", "seeds: 0", "write [0]"),
    ("", "seeds: [0, 0]", "0 is listed twice"),
    ("", "seeds: [-1]", "greater than or equal to 0"),
    ("", "seeds: [4294967296]", "less than 4294967296"),
    ("", "seed: 0", "did you mean 'seeds'?"),
    ("corpus", "corpus: ./rows.jsonl", "write `corpus: {path: my.jsonl}`"),
    ("corpus", "corpus: {path: row.jsonl}", "row.jsonl: no such file"),
    ("corpus", "corpus: {path: .}", "is a folder"),
    (
        "corpus",
        "corpus: {path: a, rows: 100, validation_rows: 100}",
        "rows: 100 leaves nothing to train on",
    ),
    ("corpus", "corpus: {name: synthetic, path: a}", "exactly one of name, path and dataset"),
    ("corpus", "corpus:", "line 5: corpus: must be `key: value` pairs; got nothing"),
    ("corpus", "corpus: math10k", "--data-dir"),
    ("teachers", "teachers: []", "every method but sft learns from one"),
    ("teachers", "teachers: [{model: zoo-s, finetune: false}]", "is its own teacher"),
    (
        "teachers",
        "teachers: [zoo-s]\nablations: {base_teacher: {}}",
        "line 6: ablations.base_teacher: zoo-s is its own teacher",
    ),
    ("", "methods: [{type: word_kd, generations: 0}]", "greater than or equal to 1"),
    (
        "",
        "methods: [word_kd]\nablations: [{vary: generations, values: [2], methods: [word_kd]}]",
        "has a run for each already",
    ),
    ("teachers", "teachers: [[zoo-l]]", "teachers[0].together: list should have at least 2"),
    ("teachers", "teachers: [[zoo-l, zoo-l]]", "zoo-l is listed twice"),
    ("teachers", "teachers: [[zoo-l, zoo-m], [zoo-m, zoo-l]]", "zoo-l + zoo-m"),
    ("teachers", "teachers: [[zoo-l, zoo-m]]", "seqkd learns a text, which one teacher writes"),
    (
        "teachers",
        "teachers: [[zoo-l, zoo-m]]\nmethods: [hidden_kd]",
        "hidden_kd learns one teacher's hidden states",
    ),
    (
        "teachers",
        "teachers: [{together: [zoo-l, {model: zoo-s, finetune: false}], "
        "route: {a: zoo-l, b: zoo-s}}]\nmethods: [word_kd]",
        "columns: {tag: topic}",
    ),
    (
        "teachers",
        "teachers: [{model: zoo-l, finetune: false}, [zoo-l, zoo-m]]\nmethods: [word_kd]",
        "zoo-l is written in two ways",
    ),
    ("teachers", "teachers: [{together: [zoo-l, zoo-m], mixture: mean}]", "'arithmetic' or"),
    (
        "teachers",
        "teachers: [{together: [zoo-l, zoo-m], weights: [1]}]",
        "1 numbers for 2 teachers",
    ),
    ("teachers", "teachers: [{together: [zoo-l, zoo-m], weights: [1, 0]}]", "greater than 0"),
    ("teachers", "teachers: [{together: [zoo-l, zoo-m], weights: perrow}]", "'equal' or 'per_row'"),
    (
        "teachers",
        "teachers: [{together: [zoo-l, zoo-m], route: {a: zoo-l}}]",
        "no tag goes to zoo-m",
    ),
    ("teachers", "teachers: [{together: [zoo-l, zoo-m], route: {a: zoo-x}}]", "is not among"),
    (
        "teachers",
        "teachers: [{together: [zoo-l, zoo-m], mixture: geometric, route: {a: zoo-l, b: zoo-m}}]",
        "write one or the other",
    ),
    (
        "teachers",
        "teachers: [{together: [zoo-l, zoo-m], route: {a: zoo-l, b: zoo-m}}]",
        "columns: {tag: topic}",
    ),
    ("teachers", "teachers: [zoo-xxl]", "shipped models: zoo-xs"),
    ("teachers", "teachers: [./gone]", "no such folder"),
    ("teachers", "teachers: [~nobody-at-all/model]", "home folder of nobody"),
    ("teachers", "teachers: [{name: zoo-l}]", "write {model: zoo-l}"),
    ("teachers", "teachers: [{model: zoo-l, finetune: maybe}]", "got 'maybe'"),
    ("teachers", "teachers: [zoo-l", "line 6: expected ',' or ']'"),
    ("teachers", "teachers:\n- zoo-l\n-zoo-m", "could not find expected ':'"),
    ("name", "name: my study", "must be letters, digits"),
    ("name", "name: 2024", "put it in quotes"),
    ("name", "name: 2024-02-30", "'2024-02-30' is no timestamp"),
    ("name", 'name: "a\\0b"', "holds the character U+0000"),
    ("", "protocol: paper", "write corrected or reference"),
    ("", "template: 'Q: {question}'", "{instruction} in it"),
    ("", 'template: "{instruction} \\ud800"', "holds the character U+D800"),
    ("", "extraction: strict", "'corrected' or 'reference'"),
    ("", "limit: 10%", "valid integer"),
    ("", "methods: [sft, {type: gkd, tau_squared: 0}]", "is the number 0; write true or false"),
    ("", "limit: .inf", "line 6: '.inf' is not a finite number"),
    ("", f"limit: {'9' * 5000}", "is no int"),
    ("", "ablations: {temperature: [1, 2]}", "ablations.temperature: must be `key: value` pairs"),
    ("", "ablations: {temperature: {values: [0, 1]}}", "values[0]"),
    ("", "methods: [sft]\nablations: {noise: {}}", "add it to methods or take it out"),
    ("", "ablations: {students: [zoo-m]}", "zoo-m is not among students"),
    ("", "limit: &x [*x]", "an alias stands inside what it refers to"),
    ("", "limit: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    ("", "name: again", "'name' is written twice"),
]


@pytest.mark.parametrize(("instead", "line", "said"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_real_mistake_is_named_with_what_to_write(tmp_path, instead, line, said):
    text = "\n".join([*(v for k, v in GOOD.items() if k != instead), line]) + "\n"
    message = refusal(tmp_path, text)
    assert "study.yaml" in message
    assert said in message


def test_yes_no_and_leading_zeros_are_what_people_expect(tmp_path):
    text = "\n".join(
        [
            *GOOD.values(),
            "seeds: [010, 8, 0o17, 1_000, -0]",
            "train: {teacher_cache: off, learning_rate: 3e-4, epochs: 1.5, weight_decay: .5}",
            "generation: {temperature: 1e0, samples: 07, max_new_tokens: 0x10}",
        ]
    ).replace(GOOD["teachers"], "teachers: [{model: zoo-l, finetune: no}]")
    text = text.replace(
        GOOD["benchmarks"],
        "benchmarks: [{name: m, path: a, kind: choice, labels: [yes, no]}, "
        "{name: n, path: a, kind: choice, labels: [true, False]}]",
    )
    study = read_study(write(tmp_path, text))
    assert study.seeds == [10, 8, 15, 1000, 0]
    assert study.train.teacher_cache == "off"
    assert (study.train.learning_rate, study.train.epochs, study.train.weight_decay) == (
        *(3e-4, 1.5, 0.5),
    )
    made = study.generation
    assert (made.temperature, made.samples, made.max_new_tokens) == (1.0, 7, 16)
    assert study.teachers[0].finetune is False
    assert [b.labels for b in study.benchmarks] == [["yes", "no"], ["true", "false"]]


def laughs(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


NO_STUDIES = {
    "bomb": laughs(9),
    "bomb in a field": f"{laughs(9)}\nname: *a8",
    "deep": "name: " + "[" * 5000,
    "deep, closed": "name: " + "[" * 900 + "]" * 900,
    "many keys": "\n".join(f"k{i}: 1" for i in range(9000)),
    "many wrong values": "seeds: [" + "x, " * 5000 + "]",
    "one long text": f"template: {'a' * 90_000}",
    "one long key": f"? {'a' * 90_000}\n: 1",
    "too long": "# " + "a" * 200_000,
    "NUL": "name: a\0b",
    "NUL bytes alone": b"\0" * 100,
    "not UTF-8": b"name: \xff\xfe",
    "UTF-16": "name: t".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbfname: t\nx: 1\n",
    "surrogate bytes": "name: \ud800",
    "bell": "name: a\x07",
    "empty": "",
    "blank": "\n\n  \n",
    "comment": "# nothing",
    "list": "- a\n- b\n",
    "text": "just words",
    "number": "3",
    "two documents": "name: a\n---\nname: b\n",
    "JSON, cut": '{"name": "t", ',
    "anchor alone": "&a",
    "unknown alias": "name: *a",
    "unknown tag": "name: !mine x",
    "other YAML": "%YAML 9.9\n---\nname: t\n",
    "list as key": "? [a, b]\n: 1\n",
    "null as key": "null: 1\n",
    "merge of a text": "<<: text\n",
    "merge twice": "<<: {name: a}\n<<: {name: b}\n",
    "bad integer": "limit: !!int x\n",
    "bad float": "limit: !!float x\n",
    "bad date": "limit: !!timestamp x\n",
    "bad bytes": "limit: !!binary x\n",
    "Windows line ends": "name: t\r\nlimit: x\r\n",
    "escapes": 'name: "\\e[31mred"\n',
}


@pytest.mark.parametrize("text", NO_STUDIES.values(), ids=NO_STUDIES)
def test_what_is_no_study_is_refused_whatever_it_is(tmp_path, text):
    assert "study.yaml" in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["gone.yaml", ".", "x" * 5000, "study.yaml/x", "loop", "a\nb"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    write(tmp_path, "name: t")
    refused(tmp_path, "plan", tmp_path / name, "--store", tmp_path / "store")


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    assert "larger than any study" in refused(tmp_path, "plan", "/dev/zero")


def whole_study():
    """Return a study that states every field, and the paths of all its values."""
    fields = yaml.safe_load("\n".join(GOOD.values()))
    noise = {"temperature": {}, "noise": {}, "base_teacher": {}, "students": ["zoo-s"]}
    document = Study.model_validate(fields | {"ablations": noise}).model_dump(mode="json")

    def paths(value, at=()):
        yield at
        parts = enumerate(value) if isinstance(value, list) else ()
        for key, part in value.items() if isinstance(value, dict) else parts:
            yield from paths(part, (*at, key))

    return document, [path for path in paths(document) if path]


WHOLE, PATHS = whole_study()
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ORACLE = jsonschema.Draft202012Validator(Study.model_json_schema())
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 10**9, 2**63, 10**30, -(10**30)]),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        ["", " ", "\0", "a" * 20_000, "../x", "/", "~", "{}", "nan", "é", "\u202e", "😀"]
    ),
    st.recursive(
        st.none() | st.text(max_size=3),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part),
        max_leaves=6,
    ),
)


def changed(document, path, how, junk):
    """Return a copy in which one place holds something else, or one key more or less."""
    copy = deepcopy(document)
    *above, last = path
    node = copy
    for part in above:
        node = node[part]
    if how == "replace":
        node[last] = junk
    elif how == "remove":
        del node[last]
    elif isinstance(node[last], dict):
        node[last][str(junk)[:20] or "x"] = 1
    else:
        node[last] = [node[last], junk]
    return copy


def surely_wrong(document, how, junk):
    """Say whether the published JSON Schema refuses a document for a reason that must hold.

    It knows no short forms and takes no text for a number, and `off` is false in YAML.
    """
    short = how != "remove" and (junk is None or isinstance(junk, str | bool))
    return not short and not ORACLE.is_valid(document)


def test_a_whole_study_changed_in_one_place_is_refused_or_still_a_study(tmp_path):
    """The oracle is jsonschema on the published schema; 300 changes, most of them refused."""
    outcomes = []

    @settings(QUIET, max_examples=300)
    @given(st.sampled_from(PATHS), st.sampled_from(["replace"] * 4 + ["remove", "add"]), JUNK)
    def check(path, how, junk):
        document = changed(WHOLE, path, how, junk)
        file = write(tmp_path, yaml.dump(document, Dumper=DUMPER))
        done = call("plan", file, "--store", tmp_path / "store")
        wrong = surely_wrong(document, how, junk)
        outcomes.append("study" if done.code == 0 else "wrong" if wrong else "refused")
        if wrong or done.code:
            examined(done)

    check()
    assert outcomes.count("wrong") >= 100
    assert len(outcomes) - outcomes.count("study") >= 200


def test_a_study_with_some_bytes_changed_never_ends_in_a_traceback(tmp_path):
    """200 changes of one to three bytes, anywhere."""
    good = "\n".join(GOOD.values()).encode()
    refusals = []
    place = st.tuples(st.integers(0, len(good) - 1), st.binary(min_size=0, max_size=3))

    @settings(QUIET, max_examples=200)
    @given(st.lists(place, min_size=1, max_size=3))
    def check(changes):
        data = good
        for at, piece in changes:
            data = data[:at] + piece + data[at + 1 :]
        done = call("plan", write(tmp_path, data), "--store", tmp_path / "store")
        if done.code:
            examined(done)
            refusals.append(data)

    check()
    assert len(refusals) >= 150


@pytest.mark.parametrize("text", [laughs(9), "name: [", b"\xff", "seeds: [yes]"], ids=range(4))
def test_the_same_in_a_process_of_its_own(tmp_path, text):
    write(tmp_path, text)
    done = forked.kdstudy("run", "study.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("kdstudy: study.yaml")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]
