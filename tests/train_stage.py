"""A folder with a student, a teacher and a corpus, and a train stage's work in it."""

import random
from pathlib import Path

import tiny_models as tiny

from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.records import Example, write_records
from kdstudy.stage import Work

TRAIN = schema.Train(
    epochs=1, batch_size=8, max_length=40, evaluations=2, learning_rate=1e-2,
    lora=schema.Lora(r=4, dropout=0.1),
)  # fmt: skip


def examples(number: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    made = []
    for i in range(number):
        a, b = rng.randrange(10), rng.randrange(10)
        made.append(Example(id=f"{seed}-{i}", instruction=f"{a} + {b}?", response=f"it is {a + b}"))
    return made


def furnish(folder: Path) -> Path:
    tiny.save(folder / "student", tiny.qwen(0, scale=1.0))
    tiny.save(folder / "teacher", tiny.widen(tiny.qwen(1, width=24), 5))
    (folder / "corpus").mkdir()
    write_records(folder / "corpus" / "train.parquet", examples(40, 0), Example)
    write_records(folder / "corpus" / "validation.parquet", examples(8, 1), Example)
    return folder


def local(folder, adapter=None) -> dict:
    return {
        "folder": str(folder),
        "adapter": adapter and str(adapter),
        "hub_id": None,
        "revision": None,
        "trust_remote_code": False,
    }


def work(place, out, method, train=TRAIN, adapter=None, **inputs) -> Work:
    (place / out).mkdir(exist_ok=True)
    knobs = {"micro_batch_size", "report_to", "max_truncated_share", "on_alarm"}
    return Work(
        config={
            "method": method.model_dump(),
            "train": train.model_dump(exclude=knobs),
            "template": tiny.TEMPLATE,
            "template_date": DATE,
            "seed": 4,
            "student": {"name": "student", "fingerprint": "s"},
            "teacher": {"name": "teacher", "fingerprint": "t"},
        },
        inputs={"corpus": place / "corpus", **inputs},
        local={
            "models": {
                "student": local(place / "student", adapter),
                "teacher": local(place / "teacher"),
            },
            "train": train.model_dump(include=knobs),
        },
        out=place / out,
    )
