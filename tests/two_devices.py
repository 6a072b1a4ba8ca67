"""Train the same student on one device or on several: what `test_two_devices_change_nothing` runs.

python two_devices.py OUT
python -m torch.distributed.run --nproc-per-node=2 two_devices.py OUT
"""

import json
import sys
from pathlib import Path

import tiny_models as tiny
from safetensors.torch import save_file

from kdstudy.distill import methods
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.models import load
from kdstudy.study import schema


def main(out: Path) -> None:
    student = load.add_adapter(tiny.qwen(0).double(), schema.Lora(dropout=0), seed=0)
    method = methods.build(schema.GKD(lmbda=0.6, noise=0.5))
    teacher = LiveTeacher(tiny.qwen(1).double(), tiny.VOCABULARY)
    trainer = DistillTrainer(
        DistillModel(student, method, teacher),
        schema.Train(epochs=1, batch_size=8, max_length=24, evaluations=2, learning_rate=1e-2),
        rows=tiny.rows(40),
        validation=tiny.rows(10, seed=9),
        folder=out / "checkpoints",
        seed=0,
        eos_ids=(tiny.EOS,),
        micro_batch_size=3,
    )
    trainer.run()
    if trainer.args.process_index == 0:
        trained = {n: p.detach() for n, p in student.named_parameters() if p.requires_grad}
        save_file(trained, out / "weights.safetensors")
        facts = {"world": trainer.args.world_size, "tokens": trainer.tokens}
        facts["loss"] = trainer.curve()[-1]["eval_loss"]
        (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
