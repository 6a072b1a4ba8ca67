"""Generation of benchmark items: order, resuming, and one prompt for training and evaluation."""

import pytest
import tiny_models as tiny

from kdstudy.config import schema
from kdstudy.data.prompts import encode
from kdstudy.evaluation import generate as module
from kdstudy.evaluation.generate import generate, generate_to
from kdstudy.models import load
from kdstudy.records import Example, Generation, read_records

ITEMS = [
    (name, Example(id=f"{name}-{i}", instruction="what is " + "x" * (i * 7 % 11) + "?"))
    for name in ("toy", "boy")
    for i in range(9)
]
SAMPLED = schema.Generation(max_new_tokens=8, temperature=1.0, samples=2, seed=5, batch_size=4)


def model():
    return tiny.qwen(0, scale=0.7)


def run(settings=SAMPLED, items=ITEMS, **more) -> dict:
    batches = generate(model(), tiny.tokenizer(), items, tiny.TEMPLATE, settings, **more)
    rows = [row for batch in batches for row in batch]
    return {(row.benchmark, row.example_id, row.sample): row for row in rows}


def test_every_item_is_answered_once_per_sample():
    rows = run()
    assert rows.keys() == {(n, e.id, s) for n, e in ITEMS for s in (0, 1)}
    assert {row.stop for row in rows.values()} == {"eos", "length"}
    for row in rows.values():
        assert "</s>" not in row.completion
        assert len(row.completion) <= row.tokens <= 8
        assert row.stop == "eos" or row.tokens == 8


def test_batch_size_and_order_change_nothing():
    rows = run()
    assert rows == run(SAMPLED.model_copy(update={"batch_size": 64}))
    assert rows == run(items=ITEMS[::-1])
    one = run(items=ITEMS[3:4])
    assert all(rows[key] == row for key, row in one.items())
    assert rows != run(SAMPLED.model_copy(update={"seed": 6}))


def test_samples_differ_and_benchmarks_share_no_accident():
    rows = run(SAMPLED.model_copy(update={"max_new_tokens": 30}))
    first = [row.completion for key, row in rows.items() if key[2] == 0]
    second = [row.completion for key, row in rows.items() if key[2] == 1]
    assert first != second


def test_longest_prompts_come_first_and_are_the_training_prompts(monkeypatch):
    seen = []
    real = module.sample
    monkeypatch.setattr(
        module,
        "sample",
        lambda m, prompts, **more: seen.extend(prompts) or real(m, prompts, **more),
    )
    run(schema.Generation(max_new_tokens=2, batch_size=4))
    assert [len(p) for p in seen] == sorted((len(p) for p in seen), reverse=True)
    trained = {
        (row := encode(tiny.tokenizer(), tiny.TEMPLATE, e.instruction, "x", 99)).ids[
            : row.prompt_length
        ]
        for _, e in ITEMS
    }
    assert set(seen) == trained


def test_a_model_that_is_training_is_refused():
    training = load.add_adapter(model(), schema.Lora(), 0).train()
    with pytest.raises(AssertionError, match="dropout"):
        list(generate(training, tiny.tokenizer(), ITEMS, tiny.TEMPLATE, SAMPLED))


def to(folder, progress=None):
    more = {"progress": progress} if progress else {}
    folder.mkdir(exist_ok=True)
    return generate_to(
        folder, folder, model(), tiny.tokenizer(), ITEMS, tiny.TEMPLATE, SAMPLED, **more
    )


def test_the_file_is_in_item_order_and_the_same_after_an_interruption(tmp_path, monkeypatch):
    whole = to(tmp_path / "whole")
    rows = read_records(whole, Generation)
    assert [(r.benchmark, r.example_id, r.sample) for r in rows] == [
        (n, e.id, s) for n, e in ITEMS for s in (0, 1)
    ]

    def die(done, total, unit, **numbers):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to(tmp_path / "broken", progress=die)
    journal = tmp_path / "broken" / "generations.jsonl"
    assert len(journal.read_text().splitlines()) == 8
    with journal.open("a") as file:
        file.write('{"benchmark": "toy", "exam')  # the machine died here
    sampled = []
    real = module.sample
    monkeypatch.setattr(
        module, "sample", lambda m, p, **more: sampled.extend(p) or real(m, p, **more)
    )
    told = []
    again = to(tmp_path / "broken", progress=lambda done, total, unit, **n: told.append(done))
    assert len(sampled) == len(rows) - 8, "finished items are not generated again"
    assert told[0] == 12 and told[-1] == len(rows)
    assert read_records(again, Generation) == rows
    assert again.read_bytes() == whole.read_bytes()
