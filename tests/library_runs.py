"""What the tests of the library share: a folder of tiny models, rows, a trainer."""

from pathlib import Path

import tiny_models as tiny
import torch
from peft import LoraConfig

from kdstudy import DistillConfig, DistillTrainer

CHAT = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)
IDS = torch.tensor([[5, 6, 7, 8, 9]])
ROWS = [
    {"prompt": f"Q: {a} + {b}?\nA: ", "completion": f"it is {a + b}"}
    for a in range(6)
    for b in range(0, 8, 2)
]
MESSAGES = [
    {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    }
    for row in ROWS
]
SPLIT = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in MESSAGES]
LORA = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])


def save_pair(folder: Path) -> Path:
    """Write a student and a teacher, each with its tokenizer; return the folder."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = CHAT
    tiny.save(folder / "student", tiny.qwen(0, scale=1.0), tokenizer)
    tiny.save(folder / "teacher", tiny.qwen(1, width=24), tokenizer)
    return folder


def trainer(
    place: Path, folder: Path, model=None, teacher=None, *, data=ROWS, peft=None, to="out", **fields
) -> DistillTrainer:
    """Return a trainer of a pair: four steps of four rows, unless told otherwise."""
    init = {k: fields.pop(k) for k in ("eval_dataset", "callbacks") if k in fields}
    init |= {k: fields.pop(k) for k in ("processing_class",) if k in fields}
    settings = {
        "output_dir": str(folder / to),
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if "num_train_epochs" not in fields:
        settings["max_steps"] = 4
    return DistillTrainer(
        model or str(place / "student"),
        teacher or str(place / "teacher"),
        DistillConfig(**(settings | fields)),
        train_dataset=data,
        peft_config=peft,
        **init,
    )


def weights(trainer: DistillTrainer) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in trainer.student.named_parameters() if v.requires_grad}


def losses(trainer: DistillTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits
