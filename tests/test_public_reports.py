"""Kinds of public bug reports (docs/reliability.md) that no other test would find again."""

import json
import math

import pytest
import study_folder

from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.evaluate import benchmarks, fidelity
from kdstudy.records import Score
from kdstudy.study.refs import CorpusRef

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
