"""A training stage that finds its teacher in one place or another, as several tests run it."""

import json
import random
from pathlib import Path

import tiny_models as tiny

from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.records import Example
from kdstudy.stage import Work

KNOBS = {"micro_batch_size", "report_to", "max_truncated_share", "teacher_cache", "on_alarm"}
TRAIN = schema.Train(
    epochs=2, batch_size=8, max_length=40, evaluations=2, learning_rate=1e-2,
    lora=schema.Lora(r=4, dropout=0.1), precision="float32",
)  # fmt: skip


def examples(number: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    pairs = [(rng.randrange(10), rng.randrange(100)) for _ in range(number)]
    return [
        Example(id=f"{seed}-{i}", instruction=f"{a} + {b}?", response=f"it is {a + b}")
        for i, (a, b) in enumerate(pairs)
    ]


def models(place: Path) -> dict:
    common = {"adapter": None, "hub_id": None, "revision": None, "trust_remote_code": False}
    return {name: common | {"folder": str(place / name)} for name in ("student", "teacher")}


def work(place: Path, out: str, method, train=TRAIN, aid: Path | None = None) -> Work:
    (place / out).mkdir()
    return Work(
        config={
            "method": method.model_dump(),
            "train": train.model_dump(exclude=KNOBS),
            "template": tiny.TEMPLATE,
            "template_date": DATE,
            "seed": 4,
            "student": {"name": "student", "fingerprint": "s"},
            "teacher": {"name": "teacher", "fingerprint": "t"},
        },
        inputs={"corpus": place / "corpus", "teacher": place / "taught"},
        local={"models": models(place), "train": train.model_dump(include=KNOBS)},
        out=place / out,
        aids={"teacher_cache": aid} if aid else {},
    )


def using(mode: str, train=TRAIN) -> schema.Train:
    return train.model_copy(update={"teacher_cache": mode})


def numbers(folder: Path) -> list[float]:
    curve = json.loads((folder / "training.json").read_text())["curve"]
    return [row[k] for row in curve for k in ("loss", "eval_loss", "eval_cross_entropy")]
