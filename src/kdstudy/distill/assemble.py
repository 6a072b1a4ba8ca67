"""Student and teacher of a `DistillTrainer`, from names or from loaded models."""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import cache
from kdstudy.distill.aligned import AlignedTeacher
from kdstudy.distill.batches import Batch
from kdstudy.distill.config import DistillConfig
from kdstudy.distill.model import Teacher
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError
from kdstudy.methods.objective import Recipe
from kdstudy.models import heads, load, parts
from kdstudy.models.resolve import Resolved, public, resolve

Named = str | Path


def student(
    model: parts.Model | Named,
    args: DistillConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | None,
) -> tuple[parts.Model, PreTrainedTokenizerBase, str]:
    """Return the student, ready to train, its tokenizer, and its base's Hub id or folder."""
    if isinstance(model, Named):
        found = _resolved(model)
        # Weights that are trained stay in float32: bfloat16 would swallow small updates.
        precision = "bfloat16" if args.bf16 and peft_config else "float32"
        model = load.open_model(found.local(), precision)
        base = found.hub_id or found.folder
        tokenizer = tokenizer or load.open_tokenizer(found.local())
    else:
        base = parts.plain(model).config._name_or_path or ""
    tokenizer = tokenizer or _tokenizer_of(model, "processing_class", "the student")
    load.require_eos(tokenizer, "processing_class")
    if peft_config is not None:
        model = _adapted(model, peft_config, args.seed)
    if isinstance(model, PeftModel):
        load.require_supported(model, "the student's adapter")
    load.align(model, tokenizer)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            "the student has no parameter that is trained",
            remedy="give peft_config, or load its adapter with PeftModel.from_pretrained(..., "
            "is_trainable=True)",
        )
    _warn_of_what_is_lost(model)
    return model, tokenizer, base


def teacher(
    model: parts.Model | Teacher | Named | None,
    method: Recipe,
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
        rows: Every row that the teacher is known to be asked about.

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
    if method.spans is not None and not isinstance(model, AlignedTeacher):
        raise InputError(
            f"method {args.method_fields()['method']}: this trainer has rows in the student's "
            "tokens alone",
            why="a teacher of another tokenizer reads the text itself",
            remedy="list the method in a study, or use `kdstudy distill --method "
            f"{args.method_fields()['method']}`",
        )
    if isinstance(model, Named):
        again = functools.partial(_open_teacher, model, args)
        model, theirs = again()
    elif isinstance(model, PreTrainedModel | PeftModel):
        again = None
        _require_another(model, learner)
        theirs = _tokenizer_of(model, "teacher_model", "the teacher")
    else:
        return model
    width = heads.common_width(tokenizer, theirs, parts.head(learner), parts.head(model))
    live = LiveTeacher(model.to(args.device), width)
    if args.teacher_cache == "off" or method.asks_anew:
        return live
    tokens = args.weighing(method).loss_tokens
    states = cache.in_memory(live, rows, tokens, rows_per_pass=args.per_device_eval_batch_size)
    # The body of a teacher that was given by name is freed here, unless it will be asked again.
    if again is not None and method.lmbda == 0:
        reopened = _Reopened(lambda: LiveTeacher(again()[0].to(args.device), width))
        return cache.CachedTeacher(states, live.head, width, tokens, reopened)
    return cache.CachedTeacher(states, live.head, width, tokens, live)


def writer(teacher: Teacher | None) -> parts.Model | None:
    """Return the model that can write a teacher's text, or None where there is none here."""
    return getattr(getattr(teacher, "live", teacher), "model", None)


def require_writer(teacher: Teacher | None, method: Recipe, *, sharded: bool) -> None:
    """Refuse a method that draws from a mixture with its teacher, where this cannot write.

    Args:
        teacher: The method's.
        method: The method.
        sharded: The teacher's weights lie on several devices.

    Raises:
        InputError: It cannot.
    """
    if not method.teacher_share or (writer(teacher) is not None and not sharded):
        return
    raise InputError(
        f"teacher_share: {method.teacher_share:g} of the text is to be the teacher's, and it "
        "cannot write here",
        why="under FSDP its weights lie in shards, and processes end their texts at unlike moments"
        if sharded
        else "an object with hidden states is no model that decodes",
        remedy="set teacher_share to 0: the student alone writes",
    )


class _Reopened:
    """A teacher whose body was freed; it is loaded again when a row is met that is not cached."""

    def __init__(self, reopen: Callable[[], LiveTeacher]):
        self._reopen = functools.cache(reopen)

    def hidden(self, batch: Batch) -> Tensor:
        """Return the final hidden states at the batch's scored positions, [N, H]."""
        return self._reopen().hidden(batch)


def require_reloads(model: parts.Model, folder: Path) -> None:
    """Refuse a folder that a student was saved to, where it loads as another model.

    An adapter is put on its base as that lies on this machine; without one nothing is checked but
    the adapter's own weights.

    Raises:
        StageError: As `load.require_same` does.
    """
    base, dtype = parts.plain(model), str(model.dtype).removeprefix("torch.")
    home = load.home_of(base)
    # A model of one's own code is opened by that code alone.
    known = dtype in load.DTYPES and not getattr(base, "is_quantized", False)
    known = known and base.config.model_type in CONFIG_MAPPING_NAMES
    known = known and not getattr(base.config, "auto_map", None)

    def again() -> parts.Model:
        if isinstance(model, PeftModel):
            return load.load_model(home, adapter=folder, precision=dtype)
        return load.load_model(folder, precision=dtype)

    findable = home is not None or not isinstance(model, PeftModel)
    load.require_same(model, folder, again if known and findable else None)


def public_name(model: object) -> str:
    """Return what may be told of where a model came from: its Hub id, or its folder's name."""
    if isinstance(model, PreTrainedModel | PeftModel):
        model = parts.plain(model).config._name_or_path
    return public(str(model)) if isinstance(model, Named) else ""


def _resolved(name: Named, revision: str | None = None) -> Resolved:
    return resolve(schema.ModelRef(model=str(name), revision=revision), Path.cwd(), {})


def _open_teacher(
    name: Named, args: DistillConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = _resolved(name).local()
    precision = "bfloat16" if args.bf16 else "float32"
    return load.open_model(local, precision), load.open_tokenizer(local)


def _adapted(model: parts.Model, config: PeftConfig, seed: int) -> PeftModel:
    if isinstance(model, PeftModel):
        raise InputError(
            "peft_config: the model has an adapter already",
            remedy="leave peft_config out, or merge the adapter first",
        )
    # The adapter's first weights are random: `seed` decides them, as it decides all else.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, copy.deepcopy(config))


def _require_another(model: parts.Model, learner: parts.Model) -> None:
    if parts.plain(model) is parts.plain(learner):
        raise InputError(
            "teacher_model and model are the same object",
            why="the teacher would change with the student",
            remedy="give the teacher by name, or load it a second time",
        )


def _warn_of_what_is_lost(learner: parts.Model) -> None:
    """Say what a user would not expect of training this model here."""
    config = parts.plain(learner).config.get_text_config(decoder=True)
    log = logging.getLogger(__name__)
    if getattr(config, "output_router_logits", False):
        log.warning(
            "the student's configuration asks for output_router_logits, whose auxiliary loss is "
            "not part of any method here: the load of its experts is not balanced. Train its "
            "attention alone (LoRA), or set output_router_logits to False to say that you know"
        )
    trained = [p for p in learner.parameters() if p.requires_grad]
    half = sum(p.numel() for p in trained if p.dtype in (torch.bfloat16, torch.float16))
    if half:
        log.warning(
            "%.0f%% of the trained weights are in half precision, which swallows updates smaller "
            "than a 256th of a weight (bfloat16) or a 2048th (float16): load the model with "
            "dtype=torch.float32, and set bf16=True to compute in bfloat16 nevertheless",
            100 * half / sum(p.numel() for p in trained),
        )


def _tokenizer_of(model: parts.Model, argument: str, whose: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer that lies where the model was loaded from."""
    config = parts.plain(model).config
    if not config._name_or_path:
        raise InputError(
            f"{argument}: nothing says which tokenizer {whose} has",
            why="the model was not loaded from a folder or from the Hub",
            remedy="give the tokenizer"
            if whose == "the student"
            else "save it and its tokenizer in one folder, and give that folder's name",
        )
    # The commit is known, so that a model that is here needs no network.
    commit = getattr(config, "_commit_hash", None)
    folder = Path(config._name_or_path)
    if folder.is_dir():
        return load.load_tokenizer(folder)
    return load.open_tokenizer(_resolved(config._name_or_path, commit).local())
