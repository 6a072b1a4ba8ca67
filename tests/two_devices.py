"""Train the same students in one process or in several: what `test_devices.py` runs.

two_devices.py OUT FIRST, in each process of a launch

FIRST holds what one process left; OUT/ddp and OUT/fsdp will hold the same from several.
"""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import tiny_models as tiny
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from unlike_pair import examples, teacher

from kdstudy import methods
from kdstudy.answers.gold import Gold
from kdstudy.config import schema
from kdstudy.distill import cache
from kdstudy.distill.schedule import Schedule, curve, study_config
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import StageError
from kdstudy.methods.atkd import ATKD
from kdstudy.methods.gold import GOLD
from kdstudy.methods.minillm import MiniLLM
from kdstudy.methods.selective_kd import SelectiveKD
from kdstudy.methods.taid import TAID
from kdstudy.models import load
from kdstudy.stage import silent

# Neither epochs nor the run end with a step; five steps, two of them in the second epoch.
ROWS, VALIDATION = tiny.rows(23), tiny.rows(10, seed=9)
# The first capital letter of a text, which random texts often have.
RIGHT = Gold(question="", answer="A", kind="letter", rule="reference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A student, its method and where its teacher is."""

    method: methods.Method
    model: Any = tiny.qwen
    lora: bool = True
    cached: bool = False
    checkpointing: bool = False
    dtype: torch.dtype = torch.float32
    replay: bool = False
    towards: str = "text"
    sharded: bool = True  # FSDP takes it


CASES = {
    "sft": Case(method=methods.Sft()),
    "sft_full": Case(method=methods.Sft(), lora=False),
    "live": Case(method=methods.WordKD(), model=tiny.llama),
    "live_full": Case(method=methods.WordKD(), model=tiny.llama, lora=False, checkpointing=True),
    "cached": Case(method=methods.WordKD(noise=0.5), cached=True),
    "on_policy": Case(method=methods.GKD(lmbda=1.0), lora=False),
    "gkd": Case(method=methods.GKD(lmbda=0.6, noise=0.5), cached=True, dtype=torch.float64),
    "taid": Case(method=TAID(step_size=0.3, momentum=0.5), cached=True, dtype=torch.float64),
    # Three rows a step, so that the processes have unlike numbers of them.
    "replay": Case(method=methods.WordKD(), cached=True, dtype=torch.float64, replay=True),
    "atkd": Case(method=ATKD(), cached=True, dtype=torch.float64),
    "selective": Case(method=SelectiveKD(share=0.5), cached=True, dtype=torch.float64),
    "gold": Case(method=GOLD(hard_label_weight=0.2), lora=False, dtype=torch.float64),
    "minillm": Case(method=MiniLLM(teacher_share=0), dtype=torch.float64),
    "credited": Case(
        method=MiniLLM(teacher_share=0, whiten=True, reward=2.0), dtype=torch.float64, sharded=False
    ),
    "held": Case(
        method=methods.WordKD(),
        cached=True,
        dtype=torch.float64,
        replay=True,
        towards="base",
        sharded=False,
    ),
    "bfloat16": Case(method=methods.WordKD(), dtype=torch.bfloat16),
}


class Gradients(TrainerCallback):
    """Keeps the first step's gradients, whole."""

    def __init__(self):
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.first:
            return
        for name, p in kwargs["model"].named_parameters():
            if p.grad is not None:
                grad = p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
                self.first[name] = grad.clone()


class Poison(TrainerCallback):
    """Makes one number of the last process's shard of a gradient no number."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if args.process_index == args.world_size - 1:
            grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
            next(g.to_local() for g in grads if g.to_local().numel()).view(-1)[0] = torch.nan


def make(case: Case, folder: Path, gradients: TrainerCallback) -> DistillTrainer:
    """Return a trainer that has not begun."""
    student, model = case.model(0).to(case.dtype), case.model(1).to(case.dtype)
    if case.lora:
        student = load.add_adapter(student, schema.Lora(dropout=0), seed=0)
    train = schema.Train(
        precision="bfloat16" if case.dtype == torch.bfloat16 else "float32",
        epochs=1.6, batch_size=8, max_length=24, evaluations=2, learning_rate=1e-2,
        micro_batch_size=2, lora=schema.Lora() if case.lora else None,
        replay_weight=0.5 * case.replay, replay_rows=3, replay_towards=case.towards,
    )  # fmt: skip
    rows, validation, live = ROWS, VALIDATION, LiveTeacher(model, tiny.VOCABULARY)
    if case.method.teacher_gives == "spans":
        live, known, _ = teacher(case.method, texts=examples(33), states=True)
        rows, validation = known[:23], known[23:]
    if case.method.judging is not None:
        rows = [dataclasses.replace(row, gold=RIGHT) for row in rows]
    config = study_config(train, case.method, rows, folder, seed=0)
    config.gradient_checkpointing = case.checkpointing
    if case.cached:
        states = cache.in_memory(live, [*ROWS, *VALIDATION], "response", rows_per_pass=8)
        asked = live if getattr(case.method, "lmbda", 0) else None
        live = cache.CachedTeacher(states, live.head, tiny.VOCABULARY, "response", asked)
    return DistillTrainer(
        student,
        live,
        config,
        train_dataset=rows,
        eval_dataset=validation,
        replay_dataset=tiny.rows(11, seed=7) if case.replay else None,
        replay_eval_dataset=tiny.rows(5, seed=8) if case.replay else None,
        processing_class=tiny.tokenizer(),
        callbacks=[Schedule(train.evaluations, silent), gradients],
    )


def held(module: torch.nn.Module) -> float:
    """Return the share of a module's weights that this process has between steps."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
    return sum(p.numel() for p in local) / sum(p.numel() for p in module.parameters())


def train(name: str, out: Path) -> None:
    """Train one case; leaves the student, gradients and facts in `out`/`name`."""
    folder, gradients = out / name, Gradients()
    trainer = make(CASES[name], folder / "checkpoints", gradients)
    trainer.run()
    trainer.save_student(folder / "student", "")
    if trainer.is_world_process_zero():
        save_file(gradients.first, folder / "gradients.safetensors")
        history = trainer.state.log_history
        facts = {
            "world": trainer.args.world_size,
            "held": held(trainer.student),
            "teacher_held": held(trainer.model.teacher.model.get_decoder().layers)
            if name.startswith("live")
            else None,
            "tokens": trainer.tokens,
            "losses": [point["loss"] for point in curve(history)],
            "validation": [point["eval_loss"] for point in curve(history)],
            "parts": [
                {p: point[p] for p in ("replay_loss", "reward", "reward_texts") if p in point}
                for point in curve(history)
            ],
            "norms": [entry["grad_norm"] for entry in history if "grad_norm" in entry],
        }
        (folder / "facts.json").write_text(json.dumps(facts))


def resume(name: str, out: Path, source: Path, step: int = 3) -> None:
    """Go on with a case from a checkpoint of another run of it, in `source`."""
    folder = out / "resumed" / source.name / f"{name}-{step}"
    trainer = make(CASES[name], folder / "checkpoints", Gradients())
    if trainer.is_world_process_zero():
        checkpoint = Path("checkpoints", f"checkpoint-{step}")
        shutil.copytree(source / name / checkpoint, folder / checkpoint)
    trainer.accelerator.wait_for_everyone()
    trainer.run()
    trainer.save_student(folder / "student", "")


def poison(out: Path) -> None:
    """Train on a gradient that is broken in one process's shard; each leaves what it was told."""
    trainer = make(CASES["sft_full"], out / "poison" / "checkpoints", Poison())
    try:
        trainer.run()
    except StageError as e:
        (out / "poison" / f"{trainer.args.process_index}.txt").write_text(e.what)


def main(out: Path, first: Path) -> None:
    """Train every case under DDP and FSDP2, and go on from checkpoints of all kinds."""
    for name in CASES:
        train(name, out / "ddp")
    resume("gkd", out / "ddp", first)
    for step in (3, 5):
        resume("gkd", out / "ddp", out / "ddp", step)
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as accelerate launch
    for name in (name for name, case in CASES.items() if case.sharded):
        train(name, out / "fsdp")
    for step in (3, 5):
        resume("live_full", out / "fsdp", out / "fsdp", step)
    resume("gkd", out / "fsdp", first)
    poison(out / "fsdp")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
