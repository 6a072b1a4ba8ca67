"""Student and teacher of a `DistillTrainer`, from names or from loaded models."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdstudy.data.prompts import Encoded
from kdstudy.distill import cache
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.methods import Method
from kdstudy.distill.model import Teacher
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError
from kdstudy.models import heads, load, parts
from kdstudy.models.resolve import resolve
from kdstudy.study import schema


def student(
    model: parts.Model | str,
    args: DistillConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | None,
) -> tuple[parts.Model, PreTrainedTokenizerBase]:
    """Return the student, ready to train, and its tokenizer."""
    if isinstance(model, str):
        # Weights that are trained stay in float32: bfloat16 would swallow small updates.
        model, own = _opened(model, "bfloat16" if args.bf16 and peft_config else "float32")
        tokenizer = tokenizer or own
    if tokenizer is None:
        tokenizer = load.load_tokenizer(_origin(model, "processing_class", "the student"))
    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise InputError(
                "peft_config: the model has an adapter already",
                remedy="leave peft_config out, or merge the adapter first",
            )
        model = get_peft_model(model, peft_config)
    return model, tokenizer


def teacher(
    model: parts.Model | Teacher | str | None,
    method: Method,
    args: DistillConfig,
    learner: parts.Model,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Encoded],
) -> Teacher | None:
    """Return the method's teacher, or None if it needs none.

    Args:
        model: As the trainer was given it.
        method: The method.
        args: How to train.
        learner: The student.
        tokenizer: The student's.
        rows: Every row that the teacher will be asked about, student text aside.

    Raises:
        InputError: There is none and the method needs one, or its vocabulary is another.
    """
    if not method.needs_teacher:
        return None
    if model is None:
        raise InputError(
            f"method {args.method} needs a teacher",
            remedy="give teacher_model a model or a name, or use method sft",
        )
    theirs = None
    if isinstance(model, str):
        model, theirs = _opened(model, "bfloat16" if args.bf16 else "float32")
    if not isinstance(model, PreTrainedModel | PeftModel):
        return model
    if theirs is None:
        theirs = load.load_tokenizer(_origin(model, "teacher_model", "the teacher"))
    width = heads.common_width(tokenizer, theirs, parts.head(learner), parts.head(model))
    live = LiveTeacher(model.to(args.device), width)
    if args.teacher_cache == "off" or method.lmbda == 1:
        return live
    tokens = args.weighing(method).loss_tokens
    states = cache.in_memory(live, rows, tokens, rows_per_pass=args.per_device_eval_batch_size)
    # Without `live` the body of a teacher that was given by name is freed here.
    return cache.CachedTeacher(states, live.head, width, tokens, live if method.lmbda > 0 else None)


def _opened(name: str, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = resolve(schema.ModelRef(model=name), Path.cwd(), {}).local()
    return load.open_model(local, precision), load.open_tokenizer(local)


def _origin(model: parts.Model, argument: str, whose: str) -> Path:
    folder = Path(parts.plain(model).config._name_or_path or "-")
    if not folder.is_dir():
        raise InputError(
            f"{argument}: nothing says which tokenizer {whose} has",
            why="its configuration names no folder that exists",
            remedy=f"give {argument} by name" if whose != "the student" else "give the tokenizer",
        )
    return folder
