"""A trainer of a tiny student, and what it is given."""

from pathlib import Path

import tiny_models as tiny
import torch
from transformers.trainer_callback import PrinterCallback

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.distill.schedule import Schedule, study_config
from kdstudy.distill.several_teachers import Together
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.models import load
from kdstudy.stage import silent

SETTINGS = schema.Train(
    epochs=2, batch_size=4, learning_rate=3e-3, max_length=24, evaluations=20, lora=None
)


def make(
    folder: Path,
    method: methods.Method,
    settings: schema.Train = SETTINGS,
    *,
    build=tiny.qwen,
    student=None,
    teacher=None,
    width: int = tiny.VOCABULARY,
    seed: int = 3,
    data=None,
    progress=silent,
) -> DistillTrainer:
    student = student or build(0)
    if settings.lora is not None:
        student = load.add_adapter(student, settings.lora, seed=1)
    rows = data or tiny.rows(40)
    trainer = DistillTrainer(
        student,
        teacher
        if isinstance(teacher, Together)
        else LiveTeacher(teacher or build(1, width=24), width),
        study_config(settings, method, rows, folder, seed),
        train_dataset=rows,
        eval_dataset=tiny.rows(10, seed=9),
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(settings.evaluations, progress)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def micro(size: int | None, settings: schema.Train = SETTINGS) -> schema.Train:
    return settings.model_copy(update={"micro_batch_size": size})


def weights(trainer: DistillTrainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in trainer.model.named_parameters() if v.requires_grad}
