"""The `train` stage: a teacher's fine-tuning, the SFT student, and every distilled student."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded, encode
from kdstudy.distill import methods
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.distill.trainer import DistillTrainer
from kdstudy.errors import InputError, StageError
from kdstudy.models import load
from kdstudy.models.parts import Model
from kdstudy.models.sample import seed_of
from kdstudy.records import Example, Generation, read_records
from kdstudy.study import schema
from kdstudy.study.stages import Work

_METHOD: TypeAdapter = TypeAdapter(schema.Method)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Training text as the student sees it.

    Attributes:
        rows: Encoded rows.
        truncated: How many lost their end at max_length.
        unended: How many the teacher did not end within its token budget.
        dropped: How many could not be used: no room for a response, or nothing written.
    """

    rows: tuple[Encoded, ...]
    truncated: int
    unended: int
    dropped: int


def train(work: Work) -> str:
    """Train one student: `adapter/` (LoRA) or `model/` (full), and `training.json`.

    Config: `method`, `train`, `template`, `seed`, `student` {name, fingerprint}, and `teacher`
    {name, fingerprint} for a method with one. Inputs: `corpus` (train.parquet and
    validation.parquet), `teacher` (its finished train stage; without it the teacher is used as it
    is), `teacher_text` (generations.parquet, for seqkd). Local: `models` {name: {folder, adapter,
    hub_id, revision, trust_remote_code}}, and `train`, the fields of `schema.Train` that change
    no bytes.

    Returns:
        A line that says how it went.

    Raises:
        InputError: Too many rows do not fit, models do not match, or a folder is no model.
        StageError: The loss is no longer a finite number.
    """
    method = methods.build(_METHOD.validate_python(work.config["method"]))
    settings = schema.Train.model_validate({**work.config["train"], **work.local["train"]})
    name = work.config["student"]["name"]
    local = work.local["models"][name]
    tokenizer = load.open_tokenizer(local)
    corpus = _text(work, tokenizer, settings, None)
    text = corpus
    if method.writer == "teacher":
        text = _text(work, tokenizer, settings, _teacher_text(work))
    _require_enough(text, settings)
    model = _model(work, name, settings, method, tokenizer)
    checkpoints = work.out / "checkpoints"
    trainer = DistillTrainer(
        model,
        settings,
        rows=text["train"].rows,
        validation=text["validation"].rows,
        corpus_validation=None if text is corpus else corpus["validation"].rows,
        folder=checkpoints,
        seed=work.config["seed"],
        eos_ids=load.eos_ids(model.student, tokenizer),
        micro_batch_size=settings.micro_batch_size,
        report_to=settings.report_to,
        progress=work.progress,
    )
    trainer.run()
    out = work.out / ("model" if settings.lora is None else "adapter")
    load.save(model.student, out, tokenizer, base=local["hub_id"] or local["folder"])
    facts = _facts(trainer, text)
    (work.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(checkpoints)
    return (
        f"{facts['steps']} steps, best validation loss {facts['best_loss']:.4f} "
        f"at step {facts['best_step']}"
    )


def encode_rows(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int,
    teacher_text: Mapping[str, Generation] | None = None,
) -> Rows:
    """Return examples as training rows, with the teacher's text in the response's place if given.

    A teacher's empty text teaches nothing and is dropped. One that hit its token budget is kept
    without an end-of-sequence token: to end it there would teach the student to stop mid-sentence.
    Both are counted.

    Args:
        examples: Corpus rows.
        tokenizer: The student's.
        template: Prompt template.
        max_length: Limit on tokens of prompt and response.
        teacher_text: Teacher's text by example id; None trains on the corpus.

    Raises:
        StageError: The teacher wrote nothing for an example.
    """
    rows: list[Encoded] = []
    truncated = unended = dropped = 0
    for example in examples:
        response, ended = example.response, True
        if teacher_text is not None:
            if example.id not in teacher_text:
                raise StageError(
                    f"the teacher's text has no row for corpus row {example.id}",
                    why="the student would be trained on fewer rows than the other methods",
                    remedy="generate the teacher's text for this corpus again",
                )
            written = teacher_text[example.id]
            response, ended = written.completion, written.stop == "eos"
        blank = teacher_text is not None and not response.strip()
        row = (
            None
            if blank
            else encode(tokenizer, template, example.instruction, response, max_length)
        )
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        unended += not ended
        if not ended and not row.truncated:
            row = Encoded(row.ids[:-1], row.prompt_length)
        rows.append(row)
    return Rows(rows=tuple(rows), truncated=truncated, unended=unended, dropped=dropped)


def _text(
    work: Work,
    tokenizer: PreTrainedTokenizerBase,
    settings: schema.Train,
    teacher_text: Mapping[str, Generation] | None,
) -> dict[str, Rows]:
    return {
        part: encode_rows(
            read_records(work.inputs["corpus"] / f"{part}.parquet", Example),
            tokenizer,
            work.config["template"],
            settings.max_length,
            teacher_text,
        )
        for part in ("train", "validation")
    }


def _teacher_text(work: Work) -> dict[str, Generation]:
    path = work.inputs["teacher_text"] / "generations.parquet"
    texts: dict[str, Generation] = {}
    for row in read_records(path, Generation):
        if row.example_id in texts:
            raise StageError(f"{path}: two texts for corpus row {row.example_id}")
        texts[row.example_id] = row
    return texts


def _require_enough(text: Mapping[str, Rows], settings: schema.Train) -> None:
    for part, found in text.items():
        total = len(found.rows) + found.dropped
        lost = found.truncated + found.dropped
        remedy = f"raise train.max_length above {settings.max_length}"
        if not found.rows:
            raise InputError(
                f"none of the {total} {part} rows leaves room for a response", remedy=remedy
            )
        if lost > settings.max_truncated_share * total:
            raise InputError(
                f"{lost} of {total} {part} rows do not fit in max_length {settings.max_length} "
                f"({found.truncated} cut, {found.dropped} dropped)",
                why=f"more than max_truncated_share {settings.max_truncated_share:g}: the student "
                "would rarely see how an answer ends",
                remedy=f"{remedy}, or raise train.max_truncated_share to accept it",
            )


def _model(
    work: Work,
    name: str,
    settings: schema.Train,
    method: methods.Method,
    tokenizer: PreTrainedTokenizerBase,
) -> DistillModel:
    # Full fine-tuning keeps float32 weights: bfloat16 ones would swallow small updates.
    full = settings.lora is None
    student = load.open_model(work.local["models"][name], "float32" if full else settings.precision)
    wanted = load.dtype(settings.precision)
    teacher = _teacher(work, settings, student, tokenizer) if method.needs_teacher else None
    if settings.lora is not None:
        student = load.add_adapter(student, settings.lora, seed_of("lora", work.config["seed"]))
    autocast = wanted if full and wanted != torch.float32 else None
    return DistillModel(student, method, teacher, autocast)


def _teacher(
    work: Work, settings: schema.Train, student: Model, tokenizer: PreTrainedTokenizerBase
) -> LiveTeacher:
    local = work.local["models"][work.config["teacher"]["name"]]
    model = load.open_model(local, settings.precision, work.inputs.get("teacher"))
    model, _ = load.ready_to_answer(model)
    width = load.common_width(tokenizer, load.open_tokenizer(local), student, model)
    return LiveTeacher(model, width)


def _facts(trainer: DistillTrainer, text: Mapping[str, Rows]) -> dict[str, Any]:
    """What training.json holds; no times, so that two runs write the same bytes."""
    parameters = dict(trainer.model.named_parameters())
    return {
        "parameters": sum(p.numel() for name, p in parameters.items() if "lora_" not in name),
        "trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
        "rows": len(text["train"].rows),
        "validation_rows": len(text["validation"].rows),
        "truncated": sum(part.truncated for part in text.values()),
        "unended": sum(part.unended for part in text.values()),
        "dropped": sum(part.dropped for part in text.values()),
        "steps": trainer.state.global_step,
        "tokens": trainer.tokens,
        "padding_share": trainer.padding_share,
        "best_step": trainer.state.best_global_step,
        "best_loss": trainer.state.best_metric,
        "curve": trainer.curve(),
    }
