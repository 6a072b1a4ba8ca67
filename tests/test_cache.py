"""The teacher cache against the models themselves: exact states, interruption, damage."""

import dataclasses
import random
import signal
from pathlib import Path

import forked
import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches, cache
from kdstudy.distill.cache import CachedTeacher, DiskStates, Origin
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import StageError
from kdstudy.models import parts

ORIGIN = Origin(
    teacher="t", finetuned="", template="a", max_length=40, loss_tokens="response",
    dtype="torch.float32",
)  # fmt: skip
ROWS = tiny.rows(30)


def live(model=None) -> LiveTeacher:
    return LiveTeacher(model or tiny.llama(1, width=24), tiny.VOCABULARY)


def built(folder: Path, rows=ROWS, origin=ORIGIN, teacher=None, **more) -> DiskStates:
    folder.mkdir(exist_ok=True)
    settings = {"rows_per_pass": 4, "shard_bytes": 24 * 4 * 50} | more
    cache.build(folder, teacher or live(), rows, origin, **settings)
    return DiskStates(folder, origin)


def batch_of(rows, loss_tokens="response") -> batches.Batch:
    return batches.collate(rows, batches.Weighing(loss_tokens=loss_tokens), torch.device("cpu"))


def own_states(model, row: Encoded) -> torch.Tensor:
    """What transformers itself says of one row alone, at every position, [L, H]."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
    return out.hidden_states[-1][0]


# What is stored.


@pytest.mark.parametrize(
    ("loss_tokens", "first", "after"), [("response", None, 0), ("all", 1, 0), ("positions", 1, 1)]
)
def test_the_states_are_the_models_own_at_the_positions_that_predict(
    tmp_path, loss_tokens, first, after
):
    model = tiny.llama(1, width=24)
    origin = dataclasses.replace(ORIGIN, loss_tokens=loss_tokens)
    states = built(tmp_path, origin=origin, teacher=live(model))
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    teacher = CachedTeacher(states, parts.head(model), tiny.VOCABULARY, loss_tokens)
    shuffled = random.Random(0).sample(ROWS, 7)
    expected = torch.cat(
        [
            own_states(model, r)[(first or r.prompt_length) - 1 : len(r.ids) - 1 + after]
            for r in shuffled
        ]
    )
    got = teacher.hidden(batch_of(shuffled, loss_tokens))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_the_same_make_up_is_stored_bit_for_bit(tmp_path, dtype):
    teacher = live(tiny.llama(1, width=24).to(dtype))
    rows = sorted(ROWS, key=lambda r: -len(r.ids))
    states = built(tmp_path, teacher=teacher, rows_per_pass=len(rows), shard_bytes=2**20)
    memory = cache.in_memory(teacher, rows, "response", rows_per_pass=len(rows))
    expected = teacher.hidden(batch_of(rows))
    for kept in (states, memory):
        got = CachedTeacher(kept, teacher.head, 40, "response").hidden(batch_of(rows))
        assert got.dtype == dtype
        assert torch.equal(got, expected)


def test_a_row_is_known_by_its_content_alone():
    row = Encoded((5, 6, 7, 8), 2)
    same = Encoded((5, 6, 7, 8), 2, truncated=True)
    assert cache.row_key(row, "response") == cache.row_key(same, "response")
    others = {
        cache.row_key(other, scored)
        for other, scored in [
            (row, "response"),
            (row, "all"),
            (row, "positions"),
            (Encoded((5, 6, 7, 8), 1), "response"),
            (Encoded((5, 6, 7), 2), "response"),
            (Encoded((5, 6, 8, 7), 2), "response"),
        ]
    }
    assert len(others) == 6


def test_equal_rows_are_kept_once_and_the_size_is_known_before(tmp_path):
    model = tiny.llama(1, width=24)
    states = built(tmp_path, ROWS + ROWS[:10], teacher=live(model))
    assert len(states) == 30
    written = [load_file(p)["hidden"] for p in tmp_path.glob("*.safetensors")]
    tokens = sum(len(r.ids) - r.prompt_length for r in ROWS)
    assert sum(len(w) for w in written) == tokens
    needed = cache.bytes_needed(ROWS + ROWS[:10], "response", parts.head(model))
    assert needed == tokens * 24 * 4


def test_a_row_longer_than_a_shard_has_one_of_its_own(tmp_path):
    assert len(built(tmp_path, shard_bytes=24 * 4)) == 30
    assert len(list(tmp_path.glob("*.safetensors"))) == 30


# Interruption.

KILLED = """
import os, signal, sys
from pathlib import Path
import test_cache
teacher = test_cache.live()
hidden, calls = teacher.hidden, []
def counted(batch):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return hidden(batch)
teacher.hidden = counted
test_cache.built(Path(sys.argv[1]), teacher=teacher)
"""


def test_a_killed_build_goes_on_where_it_was_and_gives_the_same_bytes(tmp_path):
    folder = tmp_path / "killed"
    (tmp_path / "killed.py").write_text(KILLED)
    done = forked.Running((folder,), tmp_path, None, tmp_path / "killed.py").end()
    assert done.returncode == -signal.SIGKILL
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("states-*")}
    assert kept
    (folder / ".states-00099.safetensors.new").write_bytes(b"torn")
    teacher, seen, shown = live(), [], []
    hidden = teacher.hidden
    teacher.hidden = lambda batch: seen.extend(batch.texts) or hidden(batch)
    states = built(
        folder, teacher=teacher, progress=lambda done, total, unit: shown.append((done, total))
    )
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("states-*")}.items() >= kept.items()
    files = [load_file(folder / name)["hidden"] for name in kept]
    rows_kept = sum(shard < len(kept) for shard, _, _ in states._rows.values())
    assert rows_kept > 0 and len(seen) == len(ROWS) - rows_kept
    assert sum(map(len, files)) + sum(len(r.ids) - r.prompt_length for r in seen) == sum(
        len(r.ids) - r.prompt_length for r in ROWS
    )
    assert shown[-1] == (30, 30) and [d for d, _ in shown] == sorted(d for d, _ in shown)
    built(tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_shards_of_another_teacher_are_not_taken_over(tmp_path):
    built(tmp_path)
    other = dataclasses.replace(ORIGIN, teacher="u")
    states = built(tmp_path, origin=other, teacher=live(tiny.llama(2, width=24)))
    key = cache.row_key(ROWS[0], "response")
    expected = own_states(tiny.llama(2, width=24), ROWS[0])[ROWS[0].prompt_length - 1 : -1]
    torch.testing.assert_close(states[key], expected, rtol=1e-5, atol=1e-5)


# Damage and strangers.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "bytes, not"),
        (flip, "sha256"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, harm, problem):
    built(tmp_path)
    harm(tmp_path / "states-00001.safetensors")
    with pytest.raises(StageError, match=rf"states-00001\.safetensors .*{problem}"):
        DiskStates(tmp_path, ORIGIN)


def test_a_cache_without_its_index_is_refused(tmp_path):
    built(tmp_path)
    (tmp_path / "index.json").write_text('{"origin"')
    with pytest.raises(StageError, match=r"index\.json is missing or cannot be read"):
        DiskStates(tmp_path, ORIGIN)


@pytest.mark.parametrize(
    "change",
    [{"teacher": "u"}, {"finetuned": "v"}, {"dtype": "torch.bfloat16"}, {"max_length": 41}],
)
def test_a_cache_of_another_teacher_is_refused_with_what_differs(tmp_path, change):
    built(tmp_path)
    (field,) = change
    mine, theirs = getattr(ORIGIN, field), change[field]
    with pytest.raises(StageError, match=f"{field} {mine!r}, not {theirs!r}"):
        DiskStates(tmp_path, dataclasses.replace(ORIGIN, **change))


def test_a_row_that_is_not_there_is_an_error_or_goes_to_the_live_teacher(tmp_path):
    teacher, states = live(), built(tmp_path)
    written = [Encoded((*ROWS[0].ids[:3], 9, tiny.EOS), 2)]
    alone = CachedTeacher(states, teacher.head, 40, "response")
    ids = ", ".join(map(str, written[0].ids))
    with pytest.raises(StageError, match=rf"1 of 1 rows; the first has 5 tokens .*: {ids}"):
        alone.hidden(batch_of(written))
    helped = CachedTeacher(states, teacher.head, 40, "response", teacher)
    assert torch.equal(helped.hidden(batch_of(written)), teacher.hidden(batch_of(written)))
    teacher.hidden = None  # rows of the cache never ask it
    helped.hidden(batch_of(ROWS[:3]))
