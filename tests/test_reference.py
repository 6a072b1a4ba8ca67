"""`protocol: reference` against the released arithmetic, written out from its description.

Shapes: B rows of a micro-batch, L positions, V vocabulary entries.
"""

import pytest
import tiny_models as tiny
import torch
from torch.nn import functional as F

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.config.protocols import expand
from kdstudy.data.prompts import Encoded
from kdstudy.distill.schedule import study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer

RAW = {
    "name": "r", "protocol": "reference", "teachers": ["t"], "students": ["s"],
    "corpus": {"path": "x"}, "benchmarks": ["gsm8k"],
    "methods": [
        "sft",
        {"type": "word_kd", "temperature": 2.0},
        {"type": "revkd", "temperature": 2.0},
        {"type": "gkd", "beta": 0.2, "lmbda": 0.0},
    ],
    "train": {"batch_size": 8, "lora": None, "max_length": 24},
}  # fmt: skip


def whole_logits(model, rows: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and ids of right-padded rows, and the attention mask that the released code uses."""
    width = max(len(row.ids) for row in rows)
    ids_BL = torch.tensor([[*row.ids] + [0] * (width - len(row.ids)) for row in rows])
    mask_BL = torch.tensor([[1.0] * len(row.ids) + [0.0] * (width - len(row.ids)) for row in rows])
    return model(input_ids=ids_BL).logits, ids_BL, mask_BL.to(model.dtype)


def released_loss(kind: str, student, teacher, rows: list[Encoded]) -> torch.Tensor:
    """One micro-batch's loss as the released trainer computes it."""
    s_BLV, ids_BL, mask_BL = whole_logits(student, rows)
    t_BLV, *_ = whole_logits(teacher, rows)
    if kind == "sft":
        labels = ids_BL.masked_fill(mask_BL == 0, -100)
        return F.cross_entropy(s_BLV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    if kind == "gkd":
        ls, lt = s_BLV.log_softmax(-1), t_BLV.log_softmax(-1)
        mixture = 0.2 * ls.exp() + 0.8 * lt.exp()
        to_mixture = [(p.exp() * (p - mixture.log())).sum(-1) for p in (lt, ls)]
        loss_BL = 0.2 * to_mixture[0] + 0.8 * to_mixture[1]
        return (loss_BL * mask_BL).sum() / mask_BL.sum()
    ls, lt = (s_BLV / 2).log_softmax(-1), (t_BLV / 2).log_softmax(-1)
    p, q = (lt, ls) if kind == "word_kd" else (ls, lt)
    loss_BL = ((p.exp() + 1e-9) * (p - q)).sum(-1)
    per_row_B = (loss_BL * mask_BL).sum(-1) / mask_BL.sum(-1)
    return per_row_B.mean() * 2.0**2


@pytest.mark.parametrize("micro_batch_size", [4, 2, 8])
@pytest.mark.parametrize("kind", ["sft", "word_kd", "revkd", "gkd"])
def test_a_step_is_the_mean_of_the_released_micro_batches_of_four(tmp_path, kind, micro_batch_size):
    study = schema.Study.model_validate(expand(RAW))
    train = study.train.model_copy(update={"micro_batch_size": micro_batch_size})
    method = next(m for m in study.methods if m.type == kind)
    student, teacher = tiny.qwen(0).double(), tiny.qwen(1).double()
    rows = tiny.rows(8)
    trainer = DistillTrainer(
        student,
        LiveTeacher(teacher, tiny.VOCABULARY),
        study_config(train, method, rows, tmp_path, seed=0),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tiny.tokenizer(),
    )
    parts = 8 // micro_batch_size
    numbers = [list(range(i * micro_batch_size, (i + 1) * micro_batch_size)) for i in range(parts)]
    inputs, total = trainer.get_batch_samples(iter(numbers), parts, torch.device("cpu"))
    got = sum(trainer.model(**i, num_items_in_batch=total)[0] for i in inputs)
    parameters = list(student.parameters())
    gradients = torch.autograd.grad(got, parameters)
    want = (
        released_loss(kind, student, teacher, rows[:4])
        + released_loss(kind, student, teacher, rows[4:])
    ) / 2
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    for a, b in zip(gradients, torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_student_text_is_decoded_without_its_end_and_encoded_again(tmp_path):
    study = schema.Study.model_validate(expand(RAW))
    gkd = study.methods[-1].model_copy(update={"lmbda": 1.0})
    rows = tiny.rows(8)

    def first_step(method: methods.GKD) -> list[Encoded]:
        trainer = DistillTrainer(
            tiny.qwen(0),
            LiveTeacher(tiny.qwen(1), tiny.VOCABULARY),
            study_config(study.train, method, rows, tmp_path, seed=0),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tiny.tokenizer(),
        )
        (inputs, *_), _ = trainer.get_batch_samples(iter([list(range(8))]), 1, torch.device("cpu"))
        return list(inputs["batch"].texts)

    kept = first_step(gkd.model_copy(update={"on_policy_text": "ids"}))
    again = first_step(gkd)
    assert any(row.ids[-1] == tiny.EOS for row in kept)
    assert not any(tiny.EOS in row.ids for row in again)
    without = sorted(tuple(i for i in row.ids if i > 2) for row in kept)
    assert sorted(tuple(i for i in row.ids if i > 2) for row in again) == without
