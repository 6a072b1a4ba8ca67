"""The doctor on real folders: a small healthy study, and the same with one thing broken."""

import errno
import functools
import json
import math
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import architectures
import forked
import pytest
import tiny_models as tiny
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from kdstudy.artifacts import Scores
from kdstudy.config.read import read_study
from kdstudy.doctor import machine, text
from kdstudy.doctor.checks import check
from kdstudy.doctor.findings import worst
from kdstudy.doctor.gather import gather
from kdstudy.doctor.timeouts import TimeLimit
from kdstudy.engine.store import Store
from kdstudy.errors import InputError, StageError
from kdstudy.models.resolve import Resolved
from kdstudy.plan.plan import make_plan
from kdstudy.records import Score

STUDY = {
    "name": "t",
    "teachers": ["./big"],
    "students": ["./small"],
    "corpus": {"path": "rows.jsonl", "validation_rows": 10},
    "benchmarks": [{"name": "own", "path": "items.jsonl", "kind": "number"}],
    "methods": ["sft", "seqkd", "word_kd", "gkd"],
    "template": tiny.TEMPLATE,
    "train": {"epochs": 1, "max_length": 64, "batch_size": 8, "evaluations": 2},
    "generation": {"max_new_tokens": 16},
}
ROWS = [
    {"prompt": f"what is {i} plus {n}?", "completion": f"the sum is {i + n}."}
    for i in range(10) for n in (3, 40)
]  # fmt: skip
ITEMS = [{"question": f"and {i} times {i}?", "answer": str(i * i)} for i in range(12)]
FULL = {"lora": None}
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}\n"


def lines(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """A study whose teacher predicts uniformly, which beats its student's loud random guesses."""
    tiny.save(tmp_path / "big", tiny.qwen(1, scale=0.0))
    tiny.save(tmp_path / "small", tiny.qwen(2, scale=30.0))
    lines(tmp_path / "rows.jsonl", ROWS)
    lines(tmp_path / "items.jsonl", ITEMS)
    return tmp_path


def look(folder: Path, store: Path | None = None, seconds: float = 60, **fields):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | fields))
    facts = gather(path, store or folder / "store", None, seconds)
    return facts, check(facts)


def of(findings, name: str):
    return [f for f in findings if f.check == name]


def test_a_healthy_study_is_ok_and_nothing_is_written(folder):
    before = sorted(p.name for p in folder.rglob("*"))
    facts, findings = look(folder)
    assert worst(findings) == "ok", [(f.level, f.check, f.what) for f in findings]
    assert sorted(p.name for p in folder.rglob("*")) == sorted([*before, "study.yaml"])
    # A uniform model loses log V nats on each of a response's characters and its end.
    expected = {(len(r["completion"]) + 1) * math.log(tiny.VOCABULARY) for r in ROWS}
    nats = facts.losses["big"].nats
    assert all(min(abs(n - e) for e in expected) < 1e-3 for n in nats) and len(nats) == 10
    # Both models were measured in all that the plan has in store for them.
    small, big = facts.speeds["small"], facts.speeds["big"]
    assert min(small.train, small.forward, small.token, small.distil["big"], big.train) > 0
    assert of(findings, "time")[0].facts["kinds"]["train"]["unknown"] == 0


def test_masks_are_what_a_character_tokenizer_makes_countable(folder):
    facts, _ = look(folder, train=STUDY["train"] | {"max_truncated_share": 1, "max_length": 38})
    (read,) = facts.texts
    rows = {r["prompt"]: r["completion"] for r in ROWS}
    assert len(read.masks) == 3
    for shown in read.masks:
        spans = {s.part: s for s in shown.spans}
        prompt = spans["prompt"].text
        answer = rows[prompt.removeprefix("Q: ").removesuffix("\nA: ")]
        assert len(prompt) == spans["prompt"].tokens
        whole = "".join(s.text for s in shown.spans)
        assert whole == f"{prompt}{answer}</s>"
        assert spans["scored"].tokens == min(len(answer) + 1, 38 - len(prompt))
    length = {k: len(f"Q: {k}\nA: {v}") + 1 for k, v in rows.items()}
    assert any("cut" in {s.part for s in m.spans} for m in read.masks)
    # The ten training rows are a choice of the twenty; those that are cut are the long ones.
    assert 0 < read.cut <= sum(n > 38 for n in length.values())
    trained, asked = read.parity
    assert trained.ids == asked.ids and trained.spans[0].tokens == len(trained.ids)


def test_another_tokenizer_is_found_though_the_study_cannot_be_planned(folder):
    tiny.save(
        folder / "small", tiny.qwen(2, vocabulary=tiny.VOCABULARY + 1), tiny.tokenizer(extra="é")
    )
    facts, findings = look(folder)
    assert facts.plan is None
    assert of(findings, "study")[0].level == "error"
    assert "'é'" in of(findings, "vocabulary")[0].what
    # What does not hang on it is there all the same.
    assert of(findings, "contamination") and len(of(findings, "masks")) == 2


def test_a_tokenizer_that_cannot_end_a_text(folder):
    tiny.save(folder / "small", tiny.qwen(2), tiny.tokenizer(pad_token="<pad>"))
    _, findings = look(folder)
    assert any("no end-of-sequence token" in f.what for f in findings if f.level == "error")


def test_a_chat_template_that_is_missing_or_another(folder):
    _, findings = look(folder, template="chat")
    assert {f.level for f in of(findings, "template")} == {"error"}
    other = tiny.tokenizer()
    other.chat_template = CHAT
    tiny.save(folder / "small", tiny.qwen(2, scale=30.0), other)
    facts, findings = look(folder)
    assert [f.level for f in of(findings, "template")] == ["warning"]
    assert len(facts.texts) == 2


def test_a_teacher_that_is_worse_than_its_student(folder):
    _, findings = look(folder, teachers=["./small"], students=["./big"])
    assert [f.level for f in of(findings, "teacher")] == ["warning"]


def test_accuracies_in_the_store_come_before_losses(folder):
    path, store = folder / "study.yaml", Store(folder / "store")
    path.write_text(yaml.safe_dump(STUDY))
    plan = make_plan(read_study(path), folder, None, {})
    for label, right in (("big/teacher", 1), ("small/sft", 3)):
        stage = plan.stages[plan.scored[label]]
        rows = [
            Score(
                benchmark="own", example_id=str(i), sample=0, completion="", extracted="",
                rule="number-corrected", outcome="correct" if i < right else "wrong",
                quality=float(i < right), tokens=1,
            )
            for i in range(4)
        ]  # fmt: skip

        def fill(out, rows=rows):
            Scores(out).rows.write(rows)
            return ""

        facts = {"version": 1, "config": dict(stage.config), "inputs": dict(stage.inputs)}
        facts |= {"kind": "score", "label": label}
        store.build(stage.key, functools.partial(dict, facts), fill)
    _, findings = look(folder)
    (found,) = of(findings, "teacher")
    assert found.level == "warning"
    assert "25.0% right" in found.what and "75.0%" in found.what


def test_rows_that_do_not_fit_are_counted(folder):
    limit = 35
    _, findings = look(folder, train=STUDY["train"] | {"max_length": limit})
    (found,) = of(findings, "truncation")
    assert found.level == "error"
    sizes = sorted(len(f"Q: {r['prompt']}\nA: {r['completion']}") + 1 for r in ROWS)
    assert found.facts["cut"] + found.facts["dropped"] == found.facts["rows"] == 10
    assert sizes[0] <= found.facts["needed"] <= sizes[-1]


def test_a_contaminated_corpus_and_repeated_rows(folder):
    asked = [{"question": r["prompt"].upper(), "answer": "1"} for r in ROWS[:4]]
    lines(folder / "items.jsonl", [*ITEMS, *asked])
    lines(folder / "rows.jsonl", [*ROWS, *ROWS[:5]])
    _, findings = look(folder)
    (found,) = [f for f in of(findings, "contamination") if f.level == "warning"]
    assert (found.facts["exact"], found.facts["normalised"], found.facts["items"]) == (0, 4, 16)
    assert "5 of 25 rows repeat" in of(findings, "rows")[0].what


def test_a_store_that_cannot_be_written(folder, monkeypatch):
    _, findings = look(folder, store=folder / "rows.jsonl")
    assert "is a file" in of(findings, "store")[0].what
    (folder / "store").mkdir()

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    _, findings = look(folder)
    assert of(findings, "store")[0].level == "error"
    assert "Read-only file system" in of(findings, "store")[0].what


def test_a_look_that_hangs_or_crashes_is_a_finding(folder, monkeypatch):
    monkeypatch.setattr(text, "read", lambda *a: time.sleep(60))
    started = time.monotonic()
    facts, findings = look(folder, seconds=8)
    assert time.monotonic() - started < 30
    assert any(failure.slow for failure in facts.failures)
    assert of(findings, "doctor")[0].level == "warning"
    monkeypatch.setattr(text, "read", lambda *a: {}["lost"])
    _, findings = look(folder)
    assert "KeyError: 'lost'" in of(findings, "doctor")[0].what


def test_the_guard_stops_what_swallows_exceptions_and_gives_alarms_back():
    def stubborn():
        while True:
            try:
                time.sleep(30)
            except Exception:
                continue

    def wrong():
        raise InputError("wrong", remedy="right")

    def failed():
        raise StageError("failed")

    outer = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        limit = TimeLimit(5)
        assert limit.call("a", 0.2, stubborn) is None
        assert limit.call("b", 1, wrong) is None and limit.call("c", 1, failed) is None
        assert limit.call("d", 1, lambda: 7) == 7
        assert limit.call("e", 0, lambda: 7) is None
        assert [f.slow for f in limit.failures] == [True, False, False, True]
        assert [type(f.error) for f in limit.failures[1:3]] == [InputError, StageError]
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] < 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_the_hub_is_asked_only_for_what_is_not_here(tmp_path, monkeypatch):
    asked = []

    def info(self, name, **_):
        asked.append(name)
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        files = [("a.safetensors", 5), ("b.safetensors", 7), ("config.json", 1)]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in files])

    monkeypatch.setattr(HfApi, "model_info", info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert machine.machine(tmp_path / "s", []).downloads == {} and not asked
    absent = [Resolved(name="m", fingerprint="f", hub_id="org/m", revision="0" * 40)]
    assert machine.machine(tmp_path / "s", absent).downloads == {"org/m": 12}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert machine.machine(tmp_path / "s", absent).downloads == {"org/m": None}
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, 0),
        ({"teachers": ["./small"], "students": ["./big"]}, 1),
        ({"students": ["./nowhere"]}, 2),
    ],
)
def test_the_exit_code_says_the_worst_level(folder, fields, code):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | fields))
    more = ["--json"] if code == 1 else []
    done = forked.kdstudy("doctor", "study.yaml", *more, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if more:
        found = json.loads(done.stdout)
        assert (found["worst"], found["exit_code"]) == ("warning", 1)
    else:
        assert max(map(len, done.stdout.split("\n"))) <= 80
        assert f"worst level: {'ok' if code == 0 else 'error'}" in done.stdout


def test_a_probe_out_of_time_is_not_a_model_that_is_not_here(folder, monkeypatch):
    from kdstudy.doctor import probe

    def slow(*_):
        time.sleep(30)

    monkeypatch.setattr(probe, "probe", slow)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    facts = gather(folder / "study.yaml", folder / "store", None, probe_seconds=2)
    assert set(facts.unmeasured) == {"big", "small"}
    assert min(facts.unmeasured.values()) >= 5
    findings = check(facts)
    said = [f.what for f in of(findings, "doctor")]
    assert len(said) == 2 and all("not measured, needs about" in what for what in said)
    assert of(findings, "time")[0].why == "not measured in time: big, small"


def test_a_tokenizer_class_that_contradicts_its_file_is_said(folder):
    """The folder says what its maker wrote; transformers reads it with GPT-2's rules."""
    config = folder / "small" / "tokenizer_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"tokenizer_class": "GPT2Tokenizer"}))
    facts, findings = look(folder)
    found = {f.level: f.what for f in of(findings, "tokenizer")}
    assert found["note"].startswith("small: Qwen2Tokenizer") and "big" in found["ok"]
    assert len(facts.texts) == 1, "both are read by the file, and so alike"


def test_rows_and_prompts_beyond_the_positions_are_counted(folder):
    """Lengths in tokens are lengths in characters here, and the end of a row is one more."""
    short = architectures.build(
        "gpt2", vocab_size=tiny.VOCABULARY, n_positions=37, max_position_embeddings=37
    )
    tiny.save(folder / "small", short)
    facts, findings = look(folder, methods=["sft"], teachers=[], train=STUDY["train"] | FULL)
    trained = [len(f"Q: {r['prompt']}\nA: {r['completion']}") + 1 for r in ROWS]
    asked = [len(f"Q: {item['question']}\nA: ") + 16 for item in ITEMS]
    (found,) = of(findings, "positions")
    assert found.level == "error" and facts.plan is not None
    assert min(trained) > 37, "each of the ten that are trained on"
    assert [*found.facts["beyond"].values()] == [10, sum(n > 37 for n in asked)]
    assert 0 < sum(n > 37 for n in asked) < len(ITEMS)
    # What the probe cannot measure is said in words too.
    assert all("Error" not in f.what for f in findings)


def test_a_tokenizer_larger_than_the_model_is_found_where_no_teacher_is(folder):
    tiny.save(folder / "small", tiny.qwen(2), tiny.tokenizer(extra="é"))
    facts, findings = look(folder, methods=["sft"], teachers=[])
    assert facts.plan is None
    (refused,) = of(findings, "study")
    more = tiny.VOCABULARY + 1
    assert f"{more} tokens, the model embeddings for {tiny.VOCABULARY}" in refused.what
    assert [f.level for f in of(findings, "vocabulary")] == ["error"]


def test_free_texts_in_another_script_are_counted(folder):
    rows = [
        {"question": "say it", "references": ["说吧", "ok"]},
        {"question": "x", "references": ["y"]},
    ]
    lines(folder / "items.jsonl", rows)
    own = {"benchmarks": [{"name": "own", "path": "items.jsonl", "kind": "text"}]}
    _, findings = look(folder, **own)
    (found,) = of(findings, "scripts")
    assert found.level == "note" and "1 of 2 items" in found.what
    assert not of(look(folder, **own, rouge_tokenizer="unicode")[1], "scripts")
