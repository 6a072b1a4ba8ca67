"""The demo's largest pair, zoo-m from zoo-l, end to end through both trainers; JSD(0.5), LoRA.

The demo's corpus and epochs, rows and optimizer steps alike in number and size, no evaluation.
Peer: TRL's `GKDTrainer`, once as it comes (float32 padded batches), with the same rows encoded
alike. Ours: `DistillTrainer`, the teacher's states computed within the time that is measured.
"""

import tempfile
import warnings
from typing import Any

import torch
from datasets import Dataset
from measure import interleaved
from peft import LoraConfig
from transformers import DataCollatorForSeq2Seq

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.data.prompts import ALPACA, Encoded, encode
from kdstudy.data.synthetic import corpus_rows
from kdstudy.models import load
from kdstudy.models.zoo import path

ROWS, EPOCHS, BATCH, LENGTH = 500, 2, 16, 192
LORA = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
}


def on_a_gpu(tiny: bool) -> list[dict[str, Any]]:
    """Return rows of a part of `gpu`."""
    return run(1, BATCH) if tiny else run(1)


def run(repeats: int, number: int = ROWS) -> list[dict[str, Any]]:
    """Return one row, of an epoch of `number` rows."""
    tokenizer = load.load_tokenizer(path("zoo-m"))
    rows = [
        row
        for r in corpus_rows(number)
        if (row := encode(tokenizer, ALPACA, r["instruction"], r["output"], LENGTH))
    ]
    tokens = EPOCHS * sum(len(row.ids) - row.prompt_length for row in rows)
    losses: dict[str, float] = {}

    def ours() -> int:
        losses["ours"] = _ours(rows, tokenizer)
        return tokens

    def peer() -> int:
        losses["peer"] = _peer(rows, tokenizer)
        return tokens

    timed = interleaved(peer, ours, repeats)
    # Rows come in another order and dropout differs, so the runs' mean losses agree roughly.
    assert abs(losses["ours"] / losses["peer"] - 1) < 0.05, losses
    return [
        {
            "case": f"zoo-m from zoo-l, {len(rows)} rows, {EPOCHS} epochs, batch {BATCH}",
            "peer": "TRL GKDTrainer",
            "ratio": timed.ratio,
            "tokens_per_second": 1 / timed.ours,
            "tokens_per_second_peer": 1 / timed.peer,
            "mean_loss": losses["ours"],
            "mean_loss_peer": losses["peer"],
        }
    ]


def _common(out: str) -> dict[str, Any]:
    return {
        "output_dir": out,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 3e-4,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "beta": 0.5,
        "lmbda": 0.0,
        "logging_strategy": "no",
    }


def _ours(rows: list[Encoded], tokenizer: Any) -> float:
    with tempfile.TemporaryDirectory() as out:
        trainer = DistillTrainer(
            load.load_model(path("zoo-m"), precision="float32"),
            load.load_model(path("zoo-l"), precision="float32"),
            DistillConfig(method="gkd", max_length=LENGTH, **_common(out)),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA),
        )
        return trainer.train().training_loss


def _peer(rows: list[Encoded], tokenizer: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDConfig, GKDTrainer
    dataset = Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "attention_mask": [1] * len(row.ids),
                "labels": [-100] * row.prompt_length + list(row.ids[row.prompt_length :]),
            }
            for row in rows
        ]
    )
    with tempfile.TemporaryDirectory() as out:
        trainer = GKDTrainer(
            model=load.load_model(path("zoo-m"), precision="float32"),
            teacher_model=load.load_model(path("zoo-l"), precision="float32"),
            args=GKDConfig(
                bf16=False, gradient_checkpointing=False, disable_dropout=False, **_common(out)
            ),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA),
        )
        return trainer.train().training_loss
