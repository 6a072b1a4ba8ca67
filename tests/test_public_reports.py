"""Kinds of public bug reports (docs/reliability.md) that no other test would find again."""

import json
import math
import os

import pytest
import study_folder
import tiny_models as tiny
import torch

from kdstudy.analysis.analysis import analyze
from kdstudy.analysis.runs import read_runs
from kdstudy.config.refs import CorpusRef, ModelRef
from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks, fidelity
from kdstudy.models import load
from kdstudy.models.resolve import resolve
from kdstudy.records import Score

ROW = {"prompt": "1 + 1?", "completion": "2"}
ITEM = {"question": "1 + 1?", "answer": "2"}


def linked(folder, name, rows):
    """Write a file as the Hub's cache does: a hash holds the bytes, and a link says its type."""
    (folder / "0a1b2c").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / name).symlink_to("0a1b2c")
    return folder / name


def test_a_link_to_a_file_without_a_type_is_read_by_the_links_name(tmp_path):
    path = linked(tmp_path, "rows.jsonl", [ROW, {**ROW, "completion": "two"}])
    source = corpora.locate(CorpusRef(path="rows.jsonl"), tmp_path, None, {})
    assert corpora.is_unchanged(source)
    read = [example.response for _, example, _ in corpora.read(source)]
    assert (source.name, read, source.path) == ("rows", ["2", "two"], str(path))


def test_a_link_to_a_benchmark_is_read_by_the_links_name(tmp_path):
    study_folder.write_folder(tmp_path)
    linked(tmp_path, "mine.jsonl", [ITEM, {**ITEM, "question": "2 + 0?"}])
    own = {"name": "mine", "path": "mine.jsonl", "kind": "number"}
    plan = study_folder.plan_of(tmp_path, benchmarks=[own])
    (stage,) = [stage for stage in plan.stages.values() if stage.kind == "benchmark"]
    assert stage.local["path"] == str(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    "item",
    [
        {"question": math.nan, "answer": "b"},
        {"question": "a?", "answer": math.nan},
        {"question": "a?", "answer": ["b", math.nan]},
        {"question": "a?", "answer": -math.inf},
    ],
)
def test_a_number_that_is_none_is_no_text_of_an_item(tmp_path, item):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ITEM, item)))
    with pytest.raises(InputError, match="line 2"):
        benchmarks.from_file("mine", path, "text", ()).load(None)


def scored(*texts):
    return [
        Score(benchmark="b", example_id=str(i), sample=0, completion=text, extracted="",
              outcome="rated", rule="rouge_l", quality=1.0, tokens=1)
        for i, text in enumerate(texts)
    ]  # fmt: skip


def test_texts_too_short_for_bleu_have_none():
    """sacrebleu gives 0.0 for a list of one-word texts against itself."""
    short = fidelity.fidelity(fidelity.pair(scored("Paris", "no"), scored("Paris", "no")))
    assert math.isnan(short.corpus_bleu)
    assert short.mean_sentence_bleu == pytest.approx(100)
    one_long = scored("Paris", "it is not so")
    assert fidelity.fidelity(fidelity.pair(one_long, one_long)).corpus_bleu == pytest.approx(100)


def test_a_pipe_is_no_benchmark(tmp_path):
    os.mkfifo(tmp_path / "mine.jsonl")
    with pytest.raises(InputError, match="is no file"):
        benchmarks.from_file("mine", tmp_path / "mine.jsonl", "number", ()).load(None)


def test_methods_that_differ_alike_in_every_student_do_not_end_the_analysis(tmp_path):
    """Here scipy's noncentral F is NaN; an interval of a share that is all but 1 is left out."""
    rows = ["student,teacher,method,task,score"]
    for i, student in enumerate("abcd"):
        for method, gain in (("sft", 0), ("kd", 0.02), ("rkd", 0.04 - 1e-6 * (i == 3))):
            rows.append(f"{student},T,{method},g,{0.3 + 0.01 * i + gain:.6f}")
    (tmp_path / "x.csv").write_text("\n".join(rows) + "\n")
    tests = analyze(read_runs(tmp_path / "x.csv"))
    (whole,) = [t for t in tests if t.name == "repeated-measures ANOVA" and t.scope == "average"]
    assert whole.estimate == pytest.approx(1)
    assert math.isnan(whole.low) and math.isnan(whole.high)


def edited(folder, name, **fields):
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


BROKEN = {
    "a tokenizer.json cut short": lambda m: (m / "tokenizer.json").write_text('{"model": {'),
    "a tokenizer.json that is a list": lambda m: (m / "tokenizer.json").write_text("[]"),
    "a tokenizer.json of bytes": lambda m: (m / "tokenizer.json").write_bytes(b"\xb7\xff"),
    "no vocabulary": lambda m: edited(m, "tokenizer.json", added_tokens=[{"id": 0}]),
    "an unknown part": lambda m: edited(m, "tokenizer.json", pre_tokenizer={"type": "X"}),
    "no heads": lambda m: edited(m, "config.json", num_attention_heads=0),
    "a width in words": lambda m: edited(m, "config.json", hidden_size="wide"),
    "an unknown activation": lambda m: edited(m, "config.json", hidden_act="x"),
    "an unknown type": lambda m: edited(m, "config.json", dtype="float7"),
    "settings cut short": lambda m: (m / "generation_config.json").write_text('{"eos'),
    "an end in words": lambda m: edited(m, "generation_config.json", eos_token_id="x"),
    "a folder of weights": lambda m: (
        (m / "model.safetensors").unlink(),
        (m / "model.safetensors").mkdir(),
    ),
    "a pipe of weights": lambda m: (
        (m / "model.safetensors").unlink(),
        os.mkfifo(m / "model.safetensors"),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_folder_is_refused_in_words(tmp_path, what):
    """At planning or when it is opened, and never by the library's own error."""
    folder = tmp_path / "m"
    tiny.save(folder, tiny.qwen())
    BROKEN[what](folder)
    with pytest.raises(InputError) as refused:
        model = resolve(ModelRef(model="./m"), tmp_path, {})
        load.open_tokenizer(model.local())
        load.open_model(model.local())
    assert "/m" in refused.value.what and refused.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
        {"num_beams": 1, "early_stopping": True, "length_penalty": 2.0},
    ],
)
def test_settings_that_transformers_reads_and_will_not_write_cost_no_training(tmp_path, settings):
    """Well-known models have them: to save such a model whole is a ValueError of transformers."""
    folder = tiny.save(tmp_path / "m", tiny.qwen())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, **settings}))
    model, tokenizer = load.load_model(folder), load.load_tokenizer(folder)
    asked = torch.tensor([[5, 6, 7]])
    written = model.generate(asked, max_new_tokens=8)
    load.save(model, tmp_path / "out", tokenizer)
    again = load.load_model(tmp_path / "out")
    assert torch.equal(again.generate(asked, max_new_tokens=8), written)
    assert again.generation_config.eos_token_id == 1
