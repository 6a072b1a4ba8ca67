"""One teacher, nine off-policy runs: three methods at three temperatures.

The teacher has three times the student's parameters; float32, LoRA, 8 steps of 8 rows each, a
vocabulary of 8,192. Peer: the same runs with the live teacher. Ours: with the teacher cache, its
computation within the time that is measured. As a LoRA step costs the student about two passes
and the teacher one of three times the size, a perfect cache could save 1 - 2/5 of the bodies' work,
a factor of 2.5.
"""

import tempfile
from typing import Any

import torch
from measure import interleaved
from peft import LoraConfig
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.data.prompts import Encoded
from kdstudy.distill import cache
from kdstudy.distill.model import Teacher
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.models import load
from kdstudy.models.zoo import path

VOCABULARY, ROWS, BATCH, EPOCHS, PROMPT = 8192, 32, 8, 2, 40
METHODS, TEMPERATURES = ("word_kd", "revkd", "skew_kl"), (1.0, 2.0, 5.0)


def run(repeats: int) -> list[dict[str, Any]]:
    """Return one row."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        Encoded(tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist()), PROMPT)
        for length in torch.randint(80, 160, (ROWS,), generator=generator).tolist()
    ]
    big, small = model(512, 8, seed=1), model(320, 6, seed=2)
    passes: list[int] = []
    big.model.register_forward_hook(lambda *_: passes.append(1))
    losses: dict[str, list[float]] = {}

    def live() -> int:
        teacher = LiveTeacher(big, VOCABULARY)
        losses["live"] = _nine(rows, small.state_dict(), teacher)
        return 1

    def cached() -> int:
        passes.clear()
        teacher = LiveTeacher(big, VOCABULARY)
        states = cache.in_memory(teacher, rows, "response", rows_per_pass=BATCH)
        known = cache.CachedTeacher(states, teacher.head, VOCABULARY, "response")
        losses["cached"] = _nine(rows, small.state_dict(), known)
        return 1

    timed = interleaved(live, cached, repeats)
    torch.testing.assert_close(losses["live"], losses["cached"], rtol=1e-5, atol=0)
    sizes = [sum(p.numel() for p in m.model.layers.parameters()) for m in (big, small)]
    return [
        {
            "case": f"9 runs, teacher of {sizes[0]:,} and student of {sizes[1]:,} body parameters",
            "peer": "the same runs with the live teacher",
            "ratio": timed.ratio,
            "seconds": timed.ours,
            "seconds_peer": timed.peer,
            "teacher_passes": len(passes),
            "rows_per_pass": BATCH,
            "rows": ROWS,
        }
    ]


def model(hidden: int, layers: int, seed: int) -> PreTrainedModel:
    """Return a random Qwen2 model in float32."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


def _nine(rows: list[Encoded], weights: dict[str, torch.Tensor], teacher: Teacher) -> list[float]:
    tokenizer = load.load_tokenizer(path("zoo-m"))  # only its padding and end are asked for
    losses = []
    for method in METHODS:
        for temperature in TEMPERATURES:
            student = model(320, 6, seed=2)
            student.load_state_dict(weights)
            with tempfile.TemporaryDirectory() as out:
                config = DistillConfig(
                    output_dir=out,
                    method=method,
                    temperature=temperature,
                    num_train_epochs=EPOCHS,
                    per_device_train_batch_size=BATCH,
                    learning_rate=3e-4,
                    report_to="none",
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                    use_cpu=True,
                )
                trainer = DistillTrainer(
                    student,
                    teacher,
                    config,
                    train_dataset=rows,
                    processing_class=tokenizer,
                    peft_config=LoraConfig(
                        r=8,
                        lora_alpha=16,
                        target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
                    ),
                )
                losses.append(trainer.train().training_loss)
    return losses
