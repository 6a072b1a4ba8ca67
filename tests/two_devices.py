"""Train the same student on one device or on several: what `test_two_devices_change_nothing` runs.

python two_devices.py OUT
python -m torch.distributed.run --nproc-per-node=2 two_devices.py OUT
"""

import json
import sys
from pathlib import Path

import tiny_models as tiny
from safetensors.torch import save_file

from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.models import load
from kdstudy.study import schema
from kdstudy.study.stages import silent


def main(out: Path) -> None:
    student = load.add_adapter(tiny.qwen(0).double(), schema.Lora(dropout=0), seed=0)
    train = schema.Train(
        epochs=1, batch_size=8, max_length=24, evaluations=2, learning_rate=1e-2,
        micro_batch_size=2, precision="float32",
    )  # fmt: skip
    rows, method = tiny.rows(40), schema.GKD(lmbda=0.6, noise=0.5)
    trainer = DistillTrainer(
        student,
        LiveTeacher(tiny.qwen(1).double(), tiny.VOCABULARY),
        study_config(train, method, rows, out / "checkpoints", seed=0),
        train_dataset=rows,
        eval_dataset=tiny.rows(10, seed=9),
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(train.evaluations, silent)],
    )
    trainer.run()
    if trainer.args.process_index == 0:
        trained = {n: p.detach() for n, p in student.named_parameters() if p.requires_grad}
        save_file(trained, out / "weights.safetensors")
        facts = {"world": trainer.args.world_size, "tokens": trainer.tokens}
        facts["loss"] = curve(trainer.state.log_history)[-1]["eval_loss"]
        (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
