"""Loss curves as text files: a refactor must leave them bit for bit.

Another processor or library version may round differently; there they hold to 1e-5. After a
change that is meant to move them: `python tests/test_golden.py`, and say why in the commit.
"""

import platform
import sys
import tempfile
from pathlib import Path

import pytest
import tiny_models as tiny
import torch

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.models import load
from kdstudy.stage import silent

GOLDEN = Path(__file__).parent / "golden"
RUNS = {
    "sft": (methods.Sft(), schema.Lora(dropout=0.1)),
    "word_kd": (methods.WordKD(temperature=2.0), schema.Lora(dropout=0.0)),
    "word_kd_noise": (methods.WordKD(noise=1.0, hard_label_weight=0.1), None),
    "revkd": (methods.RevKD(), None),
    "gkd": (methods.GKD(beta=0.3), schema.Lora(dropout=0.1)),
    "skew_kl": (methods.SkewKL(), None),
    "onpolicy_revkl": (methods.OnPolicyRevKL(), None),
}


def machine() -> str:
    """What decides the last bits."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "model\t"))
    ]
    return f"torch {torch.__version__}, {platform.machine()} {' '.join(dict.fromkeys(names))}"


def run(name: str, folder: Path) -> list[str]:
    method, lora = RUNS[name]
    train = schema.Train(
        epochs=2, batch_size=4, learning_rate=3e-3, max_length=24, evaluations=5, lora=lora,
        micro_batch_size=2, precision="float32",
    )  # fmt: skip
    student, rows = tiny.qwen(0), tiny.rows(40)
    if lora:
        student = load.add_adapter(student, lora, seed=1)
    trainer = DistillTrainer(
        student,
        LiveTeacher(tiny.qwen(1, width=24), tiny.VOCABULARY),
        study_config(train, method, rows, folder, seed=3),
        train_dataset=rows,
        eval_dataset=tiny.rows(10, seed=9),
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(train.evaluations, silent)],
    )
    trainer.run()
    return [
        f"{row['step']} {row['loss']!r} {row['eval_loss']!r} {row['eval_cross_entropy']!r}"
        for row in curve(trainer.state.log_history)
    ]


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_is_the_golden_one(name, tmp_path, capfd):
    made_on, *want = (GOLDEN / f"{name}.txt").read_text().splitlines()
    got = run(name, tmp_path)
    if made_on == machine():
        assert got == want
        return
    numbers = [[float(x) for line in lines for x in line.split()] for lines in (got, want)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


if __name__ == "__main__":
    for name in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            lines = run(name, Path(folder))
        (GOLDEN / f"{name}.txt").write_text("\n".join([machine(), *lines]) + "\n")
