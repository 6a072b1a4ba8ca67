"""A run's teacher from disk, from memory and live: same student, and no body that nobody needs."""

import dataclasses
import errno
import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from placed_teachers import TRAIN, examples, models, numbers, using, work
from safetensors.torch import load_file

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.distill import cache, placement, stages
from kdstudy.distill.cache import CachedTeacher
from kdstudy.distill.kinds import TrainConfig
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import StageError
from kdstudy.models import load, parts
from kdstudy.records import Example, write_records
from kdstudy.stage import SCRATCH, Work


@pytest.fixture
def place(tmp_path):
    """A folder with a student, a wider teacher, that teacher's training, and a corpus."""
    tiny.save(tmp_path / "student", tiny.qwen(0, scale=1.0))
    tiny.save(tmp_path / "teacher", tiny.widen(tiny.qwen(1, width=24), 5))
    (tmp_path / "corpus").mkdir()
    write_records(tmp_path / "corpus" / "train.parquet", examples(40, 0), Example)
    write_records(tmp_path / "corpus" / "validation.parquet", examples(8, 1), Example)
    given = load.add_adapter(tiny.widen(tiny.qwen(1, width=24), 5), schema.Lora(r=2), 0)
    with torch.no_grad():
        for name, parameter in given.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    load.save(given, tmp_path / "taught" / "adapter", tiny.tokenizer())
    return tmp_path


def cached(place: Path, mode: str = "disk", train=TRAIN, out: str = "cache") -> Path:
    """Run the teacher_cache stage."""
    (place / out).mkdir()
    fields = {"max_length", "loss_tokens", "loss_turns", "precision"}
    stages.teacher_cache(
        Work(
            config={
                "teacher": {"name": "teacher", "fingerprint": "t"},
                "template": tiny.TEMPLATE,
                "template_date": DATE,
                "mode": mode,
                **train.model_dump(include=fields),
            },
            inputs={"corpus": place / "corpus", "teacher": place / "taught"},
            local={"models": models(place), "rows_per_pass": 6},
            out=place / out,
        )
    )
    return place / out


def run_of(work: Work) -> placement.Run:
    """What the train stage asks for its teacher."""
    settings = schema.Train.model_validate({**work.config["train"], **work.local["train"]})
    tokenizer = load.open_tokenizer(work.local["models"]["student"])
    prompts = TrainConfig.of(work.config).format(settings.loss_turns)
    text = stages._text(work, tokenizer, prompts, settings.max_length, None)
    return placement.Run(
        work=work,
        settings=settings,
        method=methods.named(work.config["method"]).recipe(),
        rows=[row for part in text.values() for row in part.rows],
        tokenizer=tokenizer,
        student=parts.head(load.open_model(work.local["models"]["student"], "float32")),
    )


@pytest.mark.parametrize(
    ("method", "lora"),
    [
        (methods.WordKD(temperature=2), TRAIN.lora),
        (methods.RevKD(noise=1), TRAIN.lora),
        (methods.GKD(), TRAIN.lora),
        (methods.WordKD(), None),
    ],
)
def test_every_place_gives_the_same_student(place, method, lora):
    train = TRAIN.model_copy(update={"lora": lora})
    aid = cached(place)
    for mode, folder in (("off", None), ("memory", None), ("disk", aid), ("auto", aid)):
        stages.train(work(place, mode, method, using(mode, train), folder))
    expected = numbers(place / "off")
    for mode in ("memory", "disk"):
        assert numbers(place / mode) == pytest.approx(expected, rel=1e-6)
    assert contents(place / "auto") == contents(place / "disk")


def contents(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and SCRATCH not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize(
    ("method", "bodies"),
    [(methods.WordKD(), 0), (methods.TV(), 0), (methods.GKD(lmbda=0), 0), (methods.GKD(), 1)],
)
def test_the_body_is_not_even_loaded_unless_the_student_writes(place, monkeypatch, method, bodies):
    run = run_of(work(place, "out", method, aid=cached(place)))
    true, loaded = load.open_model, []
    monkeypatch.setattr(load, "open_model", lambda *a: loaded.append(a) or true(*a))
    teacher, note = run.teacher()
    assert (len(loaded), note) == (bodies, "")
    assert isinstance(teacher, CachedTeacher) and (teacher.live is not None) == bool(bodies)
    assert teacher.width == len(teacher.head.weight) == tiny.VOCABULARY


@pytest.mark.parametrize(("method", "kept"), [(methods.WordKD(), False), (methods.GKD(), True)])
def test_in_memory_the_body_is_freed_once_it_has_run(place, monkeypatch, method, kept):
    true, bodies = load.ready_to_answer, []

    def watched(model):
        ready = true(model)
        bodies.append(weakref.ref(ready))
        return ready

    monkeypatch.setattr(load, "ready_to_answer", watched)
    shown = []
    asked = work(place, "out", method, using("memory"))
    asked = dataclasses.replace(asked, progress=lambda *a, **_: shown.append(a))
    teacher, note = run_of(asked).teacher()
    gc.collect()
    assert [body() is not None for body in bodies] == [kept]
    assert isinstance(teacher, CachedTeacher) and note == ""
    assert shown[-1][0] == shown[-1][1] and shown[-1][2] == "row"


@pytest.mark.parametrize("mode", ["auto", "disk", "memory", "off"])
def test_a_student_that_always_writes_asks_the_live_teacher(place, mode):
    run = run_of(work(place, "out", methods.OnPolicyRevKL(), using(mode)))
    teacher, note = run.teacher()
    assert isinstance(teacher, LiveTeacher) and note == ""


# Rows that are not there.


def other_eos(place: Path) -> None:
    """The same tokens for the student, put together otherwise: its texts end with <pad>."""
    tiny.tokenizer(eos_token="<pad>", pad_token="</s>").save_pretrained(place / "student")


def test_another_tokenizer_is_refused_on_disk_and_computed_again_by_auto(place):
    aid = cached(place)
    other_eos(place)
    with pytest.raises(StageError, match=r"(?s)no states for 48 of 48 rows.*tokenizer.*memory"):
        run_of(work(place, "disk", methods.WordKD(), using("disk"), aid)).teacher()
    line = stages.train(work(place, "auto", methods.WordKD(), aid=aid))
    assert "computed again: the teacher cache has no states for 48 of 48 rows" in line
    stages.train(work(place, "off", methods.WordKD(), using("off")))
    assert numbers(place / "auto") == pytest.approx(numbers(place / "off"), rel=1e-6)


def test_another_finetuning_of_the_teacher_is_refused(place):
    aid = cached(place)
    shutil.copytree(place / "taught" / "adapter", place / "moved" / "adapter")
    same = dataclasses.replace(
        work(place, "out", methods.WordKD(), aid=aid),
        inputs={"corpus": place / "corpus", "teacher": place / "moved"},
    )
    run_of(same).teacher()
    base = dataclasses.replace(same, inputs={"corpus": place / "corpus"})
    with pytest.raises(StageError, match=r"finetuned '[0-9a-f]{32}', not ''"):
        run_of(base).teacher()


# Room.


def free(monkeypatch, *, disk: int = 2**40, memory: int = 2**40) -> None:
    class Usage:
        free = disk

    monkeypatch.setattr(placement.shutil, "disk_usage", lambda _: Usage)
    true = placement.memory_room
    monkeypatch.setattr(
        placement, "memory_room", lambda n: dataclasses.replace(true(n), free=memory)
    )


def decision(folder: Path) -> dict:
    return json.loads((folder / "placement.json").read_text())


def test_auto_takes_the_disk_then_memory_then_neither_and_says_why(place, monkeypatch):
    kinds = []
    for number, room in enumerate([{}, {"disk": 1000}, {"disk": 1000, "memory": 999}]):
        with monkeypatch.context() as patched:
            free(patched, **room)
            folder = cached(place, "auto", out=f"cache{number}")
            kinds.append(decision(folder)["where"])
            run = run_of(work(place, f"out{number}", methods.WordKD(), aid=folder))
            teacher, note = run.teacher()
            assert note == ""
        kinds.append(type(teacher).__name__)
        shards = len(list(folder.glob("states-*")))
        assert (shards > 0) == (number == 0)
    assert kinds == [
        "disk", "CachedTeacher", "memory", "CachedTeacher", "off", "LiveTeacher",
    ]  # fmt: skip
    assert decision(place / "cache2")["bytes"] == decision(place / "cache0")["bytes"]
    written = sum(
        len(w["hidden"]) * 24 * 4 for w in map(load_file, (place / "cache0").glob("*.safetensors"))
    )
    assert decision(place / "cache0")["bytes"] == written


def test_what_was_asked_for_and_does_not_fit_is_an_error_with_numbers(place, monkeypatch):
    free(monkeypatch, disk=1000, memory=1000)
    with pytest.raises(StageError, match=r"(?s)MiB needed, 0\.0 MiB free on the disk.*--store"):
        cached(place, "disk")
    run = run_of(work(place, "out", methods.WordKD(), using("memory")))
    with pytest.raises(StageError, match=r"(?s)MiB needed, 0\.0 MiB free in memory.*disk or off"):
        run.teacher()


def test_nothing_is_loaded_or_computed_for_what_does_not_fit(place, monkeypatch):
    free(monkeypatch, disk=1000)
    monkeypatch.setattr(load, "open_model", None)
    assert decision(cached(place, "auto"))["where"] == "memory"


def test_memory_that_is_gone_by_training_time_is_said(place, monkeypatch):
    with monkeypatch.context() as patched:
        free(patched, disk=1000)
        aid = cached(place, "auto")
    free(monkeypatch, memory=1000)
    teacher, note = run_of(work(place, "out", methods.WordKD(), aid=aid)).teacher()
    assert isinstance(teacher, LiveTeacher)
    assert "beside the student" in note and "in memory" in note


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(place, monkeypatch):
    true, written = cache._publish, []

    def full(path, data):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        true(path, data)

    monkeypatch.setattr(cache, "_publish", full)
    folder = cached(place, "auto")
    assert decision(folder)["where"] == "memory"
    assert [p.name for p in folder.iterdir()] == ["placement.json"]
    written.clear()
    with pytest.raises(OSError, match="No space left"):
        cached(place, "disk", out="again")


def test_finished_shards_count_as_room(tmp_path):
    (tmp_path / "states-00000.safetensors").write_bytes(bytes(10**6))
    bare = placement.disk_room(1, tmp_path.parent).free
    assert placement.disk_room(1, tmp_path).free == pytest.approx(bare + 10**6, abs=2**26)
    assert placement.disk_room(1, tmp_path).enough
    assert not placement.disk_room(2**60, tmp_path).enough
    assert placement.memory_room(1).enough and not placement.memory_room(2**60).enough


def two(place: Path, out: str, how: dict, mode: str, aids: dict[str, Path]) -> Work:
    """A train stage with the trained teacher and, as its second, an untrained one."""
    one = work(place, out, methods.GKD(temperature=2), using(mode))
    config = {k: v for k, v in one.config.items() if k != "teacher"}
    named = [{"name": n, "fingerprint": f} for n, f in (("teacher", "t"), ("student", "s"))]
    where = models(place)
    places = {"0": where["teacher"], "1": where["student"], "student": where["student"]}
    return dataclasses.replace(
        one,
        config=config | {"teachers": named, "together": how},
        inputs={"corpus": place / "corpus", "teacher:0": place / "taught"},
        local=one.local | {"models": places},
        aids=aids,
    )


def untrained(place: Path) -> Path:
    """The teacher_cache stage of the second."""
    given = work(place, "cache1", methods.WordKD())
    stages.teacher_cache(
        dataclasses.replace(
            given,
            config={
                "teacher": {"name": "student", "fingerprint": "s"},
                "template": tiny.TEMPLATE,
                "template_date": DATE,
                "mode": "disk",
                **TRAIN.model_dump(
                    include={"max_length", "loss_tokens", "loss_turns", "precision"}
                ),
            },
            inputs={"corpus": place / "corpus"},
            local={"models": {"teacher": models(place)["student"]}, "rows_per_pass": 6},
        )
    )
    return place / "cache1"


@pytest.mark.parametrize(
    "how",
    [
        {"mixture": "geometric", "weights": [0.25, 0.75]},
        {"mixture": "arithmetic", "weights": None},
        {"route": {"even": 0, "odd": 1}},
    ],
)
def test_several_teachers_from_every_place_give_the_same_student(place, how):
    for part, seed, count in (("train", 0, 40), ("validation", 1, 8)):
        rows = [
            dataclasses.replace(row, tag=("even", "odd")[i % 2])
            for i, row in enumerate(examples(count, seed))
        ]
        write_records(place / "corpus" / f"{part}.parquet", rows, Example)
    aids = {"teacher_cache:0": cached(place), "teacher_cache:1": untrained(place)}
    for mode in ("off", "memory", "disk"):
        stages.train(two(place, mode, how, mode, aids if mode == "disk" else {}))
    for mode in ("memory", "disk"):
        assert numbers(place / mode) == pytest.approx(numbers(place / "off"), rel=1e-6)
    # Mixed up, they are refused: each cache says whose it is.
    swapped = dict(zip(aids, reversed(aids.values()), strict=True))
    with pytest.raises(StageError, match="made from something else"):
        stages.train(two(place, "swapped", how, "disk", swapped))
