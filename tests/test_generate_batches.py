"""Batches: prompts read together, sizes found by memory, memory that runs out, interruptions."""

import json
import os
import signal

import forked
import pytest
import tiny_models as tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kdstudy.config import schema
from kdstudy.errors import StageError
from kdstudy.evaluation import generate as module
from kdstudy.evaluation.generate import generate, generate_to
from kdstudy.models import decoding, memory, selfcheck
from kdstudy.models.sample import sample
from kdstudy.records import Example, Generation, read_records

ITEMS = [
    ("toy", Example(id=f"toy-{i}", instruction="what is " + "x" * (i * 7 % 11) + f"{i}?"))
    for i in range(20)
]
SETTINGS = schema.Generation(max_new_tokens=8, temperature=1.0, seed=5)


def run(settings=SETTINGS, model=None, **more) -> dict:
    batches = generate(
        model or tiny.qwen(0, scale=0.7), tiny.tokenizer(), ITEMS, tiny.TEMPLATE, settings, **more
    )
    return {row.example_id: row for batch in batches for row in batch}


def batch_sizes(monkeypatch) -> list[int]:
    sizes = []
    monkeypatch.setattr(
        module, "sample", lambda m, p, **more: sizes.append(len(p)) or sample(m, p, **more)
    )
    return sizes


def greedy(model, prompts, **more):
    return [
        list(text.ids)
        for text in sample(
            model, prompts, max_new_tokens=12, temperature=0, eos_ids=[tiny.EOS], pad_id=2, **more
        )
    ]


@pytest.mark.parametrize("together", [1, 9, 40, 10_000])
@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_prompts_that_begin_alike_are_answered_as_transformers_answers_each(
    build, together, monkeypatch
):
    monkeypatch.setattr(decoding, "_TOGETHER", together)
    model, prefix = build(3), [9, 8, 7, 6, 5]
    tails = [[5], [6, 7, 8, 9, 10], [11, 12], [5, 4, 13, 14], [7], [7], [40] * 12]
    prompts = [prefix + tail for tail in tails]
    assert decoding._shared(prompts) == len(prefix)
    for prompt, text in zip(prompts, greedy(model, prompts), strict=True):
        want = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
            eos_token_id=[tiny.EOS], pad_token_id=2,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert text == want


def test_what_all_prompts_begin_with_is_read_once(monkeypatch):
    read = []
    model = tiny.qwen(0)
    selfcheck.decoding(model)
    real = decoding._Cached._forward
    monkeypatch.setattr(
        decoding._Cached,
        "_forward",
        lambda self, ids, *a: read.append(ids.numel()) or real(self, ids, *a),
    )
    prompts = [[9] * 30 + [i] * (1 + i % 3) for i in range(10, 40)]
    greedy(model, prompts)
    assert decoding._shared(prompts) == 30 and read[:2] == [30, 30 * 3]
    assert decoding._shared([[1, 2, 3, 4, 5]] * 3) == 4, "each keeps a token of its own"
    assert decoding._shared([[1, 2, 3, 4, 5, 6]]) == 0
    assert decoding._shared([[1, 2, 3], [1, 2, 3, 4, 5, 6]]) == 0, "too short to be worth it"


def test_groups_hold_neighbours_and_as_many_tokens_as_told():
    prompts = [[0] * n for n in (9, 9, 4, 4, 4, 30, 1, 1)]
    groups = [(g.start, g.stop) for g in decoding._groups(prompts, 1, 16)]
    assert groups == [(0, 2), (2, 5), (5, 6), (6, 8)]


def test_a_row_needs_its_keys_values_and_logits():
    # 2 layers, 1 key-value head, width 8, float32; room for a quarter and 64 positions more.
    model = tiny.qwen(0)
    cache = 2 * 2 * 1 * 8 * 4 * (100 + 25 + 64)
    assert memory.bytes_per_row(model, 40, 60) == cache + tiny.VOCABULARY * (4 + 8)
    # Heads of GPT-2 have no groups: 3 layers, 4 heads of width 4.
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=4)
    assert memory.bytes_per_row(GPT2LMHeadModel(config), 0, 0) == 2 * 3 * 16 * 4 * 64 + 50 * 12


def test_the_cache_never_outgrows_what_was_counted():
    model, prompts = tiny.qwen(0), [[5] * 40] * 3
    steps = decoding.opened(model, prompts, 2, "shared")
    for _ in range(120):
        steps.advance(torch.tensor([5, 5, 5]), [0, 1, 2])
    held = sum(
        states.untyped_storage().nbytes()
        for layer in steps._cache.layers
        for states in (layer.keys, layer.values)
    )
    counted = memory.bytes_per_row(model, 40, 120) - tiny.VOCABULARY * 12
    assert 160 * (2 * 2 * 8 * 4) < held / 3 <= counted


def test_each_batch_is_as_large_as_memory_allows_for_its_longest_prompt(monkeypatch):
    model, sizes = tiny.qwen(0, scale=0.7), batch_sizes(monkeypatch)
    want = run()
    assert sizes == [20], "there is memory enough"
    room = 5 * memory.bytes_per_row(model, 25, 8)
    monkeypatch.setattr(memory, "free", lambda device: room / memory.SHARE + 1)
    sizes.clear()
    assert run() == want, "batch make-up changes nothing"
    lengths = sorted((len(f"Q: {e.instruction}\nA: ") for _, e in ITEMS), reverse=True)
    start = 0
    for size in sizes:
        most = room // memory.bytes_per_row(model, lengths[start], 8)
        assert most / 2 < size <= most, "as many as fit, or as even as that allows"
        start += size
    assert start == 20 and len(sizes) > 2
    monkeypatch.setattr(memory, "free", lambda device: 0)
    sizes.clear()
    run()
    assert sizes == [1] * 20, "one row is always tried"
    sizes.clear()
    run(SETTINGS.model_copy(update={"batch_size": 8}))
    assert sizes == [8, 8, 4], "a given size is kept to"


def test_a_cpu_batch_is_capped(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 10**15)
    assert memory.rows_together(tiny.qwen(0), 10, 10) == memory.MOST


def test_free_memory_is_some_of_this_machines():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.free(torch.device("cpu")) < total


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_rows_that_do_not_fit_are_halved_and_tried_again(error, monkeypatch):
    want, tried = run(), []

    def full(model, prompts, **more):
        tried.append(len(prompts))
        if len(prompts) > 3:
            raise error
        return sample(model, prompts, **more)

    monkeypatch.setattr(module, "sample", full)
    told = []
    assert run(progress=lambda done, total, unit, **n: told.append(done)) == want
    assert tried == [20, 10, 5, *[2] * 10], "a size that failed is not tried again"
    assert told == list(range(0, 21, 2))


def test_torchs_own_refusal_counts_as_memory_that_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(caught.value)


def test_one_row_that_does_not_fit_is_an_error_that_names_it(monkeypatch):
    def full(model, prompts, **more):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module, "sample", full)
    with pytest.raises(StageError, match=r"(?s)toy toy-\d+: memory ran out.*max_new_tokens"):
        run()


def test_any_other_failure_is_raised_as_it_is(monkeypatch):
    def broken(model, prompts, **more):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(module, "sample", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run()


KILLED = """
import os, signal, sys
from pathlib import Path
import test_generate_batches as here
def die(done, total, unit, **numbers):
    if done == 12:
        os.kill(os.getpid(), signal.SIGKILL)
here.write(Path(sys.argv[1]), die)
"""


def write(folder, progress=None):
    more = {"progress": progress} if progress else {}
    settings = SETTINGS.model_copy(update={"batch_size": 4})
    model = tiny.qwen(0, scale=0.7)
    return generate_to(
        folder, folder, model, tiny.tokenizer(), ITEMS, tiny.TEMPLATE, settings, **more
    )


def test_a_killed_process_loses_one_batch_and_a_finished_journal_generates_nothing(
    tmp_path, monkeypatch
):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = write(tmp_path / "whole").read_bytes()
    (tmp_path / "killed.py").write_text(KILLED)
    done = forked.Running((tmp_path / "killed",), tmp_path, None, tmp_path / "killed.py").end()
    assert done.returncode == -signal.SIGKILL
    journal = tmp_path / "killed" / "generations.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 8
    # A kill in the middle of a write, inside a character of several bytes.
    row = json.loads(lines[0]) | {"example_id": "toy-9", "completion": "é"}
    torn = json.dumps(row, ensure_ascii=False).encode().partition(b"\xa9")[0]
    journal.write_bytes(journal.read_bytes() + torn)
    sizes = batch_sizes(monkeypatch)
    assert write(tmp_path / "killed").read_bytes() == whole
    assert sizes == [4, 4, 4]
    # Killed after the last row and before the file was published.
    rows = read_records(tmp_path / "killed" / "generations.parquet", Generation)
    journal.write_text("".join(json.dumps(_fields(row)) + "\n" for row in rows))
    (tmp_path / "killed" / "generations.parquet").unlink()
    sizes.clear()
    assert write(tmp_path / "killed").read_bytes() == whole
    assert sizes == []


def _fields(row: Generation) -> dict:
    return {name: getattr(row, name) for name in Generation.__dataclass_fields__}
