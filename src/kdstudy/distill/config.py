"""DistillConfig: transformers.TrainingArguments with the fields of distillation."""

import copy
import dataclasses
from typing import Literal

import torch
from pydantic import ValidationError
from transformers import TrainingArguments

from kdstudy import methods
from kdstudy.data.prompts import PromptFormat
from kdstudy.distill import arguments
from kdstudy.distill.batches import Weighing
from kdstudy.errors import InputError
from kdstudy.methods.objective import Recipe

# Fields of a method; None in the configuration means the method's own default.
_OF_METHOD = (
    "temperature", "tau_squared", "noise", "hard_label_weight", "probability_epsilon", "beta",
    "alpha", "mixture", "lmbda", "sampling_temperature", "on_policy_text",
)  # fmt: skip


_COMPILE = (
    "the loss is not the model's own forward pass, and compiles itself on a GPU",
    "leave it out",
)
_LIGER = (
    "it patches a model's loss and layers by its class; the head and the loss are one fused "
    "operation here already, without logits of a whole batch",
    "leave it out",
)
_HALF_EVAL = (
    "it would turn the weights that are being trained into half precision",
    "set bf16: validation then computes in bfloat16, and the weights stay as they are",
)
# All fields of TrainingArguments but these do here what they do in Trainer; a test tries them.
# Those that cannot be kept: why, and what to do instead.
_REFUSED = {
    "fp16": (
        "its loss scaling makes gradients infinite by design, and an infinite gradient stops a run",
        "set bf16, or train in float32",
    ),
    "fp16_full_eval": _HALF_EVAL,
    "bf16_full_eval": _HALF_EVAL,
    "label_smoothing_factor": (
        "what a token is charged is the method's",
        "use hard_label_weight to mix in the cross-entropy",
    ),
    "neftune_noise_alpha": (
        "the result would depend on how a step is cut into micro-batches",
        "leave it out",
    ),
    "auto_find_batch_size": (
        "the rows of a step are planned before the run",
        "lower per_device_train_batch_size and raise gradient_accumulation_steps: memory changes, "
        "the result does not",
    ),
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "label_names": (
        "rows are prompts and completions, not columns of a model; what is scored is loss_tokens",
        "leave it out",
    ),
    "train_sampling_strategy": (
        "every pass over the rows is a permutation of its own; within a step, rows of like length "
        "share a micro-batch, so that grouping by length would save nothing",
        "leave it at random",
    ),
    "average_tokens_across_devices": (
        "a step's denominator is counted over all devices",
        "leave it at True; normalisation chooses what is averaged",
    ),
    "deepspeed": (
        "it replaces the optimizer step and the checkpoints, and nothing holds its results to one "
        "device's",
        "launch with --use_fsdp --fsdp_version 2, which shards as ZeRO-3 does, or with plain DDP",
    ),
}
_ROWS = "rows are looked up in memory, by the step's number; there is nothing to load or to skip"
_PREDICTIONS = "evaluate returns losses, and no predictions are kept"
# Those that change nothing here, and nothing that anybody would miss: why.
_IDLE = {
    "dataloader_num_workers": _ROWS,
    "dataloader_pin_memory": _ROWS,
    "dataloader_persistent_workers": _ROWS,
    "dataloader_prefetch_factor": _ROWS,
    "dataloader_multiprocessing_context": _ROWS,
    "dataloader_in_order": _ROWS,
    "ignore_data_skip": _ROWS,
    "dataloader_drop_last": "every step has all its rows: passes follow each other without a seam",
    "length_column_name": "lengths are counted, not read from a column",
    "use_cache": "training keeps no keys and values",
    "eval_do_concat_batches": _PREDICTIONS,
    "eval_use_gather_object": _PREDICTIONS,
    "eval_accumulation_steps": _PREDICTIONS,
    "include_for_metrics": _PREDICTIONS,
    "batch_eval_metrics": _PREDICTIONS,
}


@dataclasses.dataclass
class DistillConfig(TrainingArguments):
    """How a student is trained: everything in `TrainingArguments`, and these.

    An optimizer step takes per_device_train_batch_size * gradient_accumulation_steps rows on each
    device. Within a step, rows of like length share a micro-batch.

    Attributes:
        method: A name (`kdstudy ls methods`), with its fields below; or a method that is made
            already, such as `kdstudy.methods.GKD(beta=0.3)` or one of your own. (`seqkd` is `sft`
            on a dataset whose completions a teacher wrote.)
        temperature: Loss temperature; not the sampling temperature.
        tau_squared: Multiply the divergence by temperature squared.
        noise: Scale of Gaussian noise on the teacher's logits.
        hard_label_weight: Share of the cross-entropy, on the dataset's text; in a step on text that
            the student sampled the divergence is the whole loss.
        probability_epsilon: word_kd, revkd: added to probabilities.
        beta: gkd: the teacher's weight in the mixture. alpha_beta: power of the student.
        alpha: skew_kl, skew_revkl, distillm2: weight in the mixture. alpha_beta: power of the
            teacher.
        mixture: gkd: `paper` or `released`.
        lmbda: gkd, onpolicy_revkl, distillm2, minillm: probability of a step on text that the
            student samples.
        sampling_temperature: Of that sampling.
        on_policy_text: `ids` or `retokenised`.
        max_length: Most tokens of prompt and completion; also bounds sampled text.
        max_truncated_share: Refuse to train when a larger share of rows does not fit.
        loss_tokens: `response`, `all` or `positions`.
        loss_turns: `all`: every turn of the assistant in a conversation; `last`: the last alone.
        template_arguments: What the chat template is handed, such as `{"enable_thinking": False}`.
        normalisation: `tokens`, `sequences` or `micro_batches`.
        normalisation_group: Rows of a group for `micro_batches`.
        replay_weight: Weight of the mean cross-entropy on `replay_dataset` in every step's loss.
        replay_rows: Rows of it that a step reads, over all devices.
        replay_towards: `text`: that cross-entropy. `base`: KL(base || student) in its place, where
            base is the student before anything trained it: its adapter off, or without an adapter
            a second, frozen copy of its weights in memory.
        teacher_cache: `memory`: compute the teacher's hidden states on the dataset once and keep
            them in CPU memory; a teacher that was given by name is then freed, unless the method
            samples. `off`: run it at every step.
        logging_nan_inf_filter: As in `TrainingArguments`, but off: a loss that is not a number
            stops the run instead of being replaced by the mean of what came before.
    """

    method: str = "word_kd"
    temperature: float | None = None
    tau_squared: bool | None = None
    noise: float | None = None
    hard_label_weight: float | None = None
    probability_epsilon: float | None = None
    beta: float | None = None
    alpha: float | None = None
    mixture: str | None = None
    lmbda: float | None = None
    sampling_temperature: float | None = None
    on_policy_text: str | None = None
    max_length: int = 1024
    max_truncated_share: float = 0.1
    loss_tokens: Literal["response", "all", "positions"] = "response"
    loss_turns: Literal["all", "last"] = "all"
    template_arguments: dict | None = None
    normalisation: Literal["tokens", "sequences", "micro_batches"] = "tokens"
    normalisation_group: int = 4
    replay_weight: float = 0.0
    replay_rows: int = 4
    replay_towards: Literal["text", "base"] = "text"
    teacher_cache: Literal["memory", "off"] = "memory"
    logging_nan_inf_filter: bool = False

    def __post_init__(self):
        arguments.require_supported(self, _REFUSED, _IDLE)
        # Rows are not a model's columns.
        self.remove_unused_columns = False
        # A step's rows are looked up by its number: a resumed run skips nothing, at no cost.
        self.ignore_data_skip = False
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # it is what there is; TrainingArguments wants to be told
        metric = self.metric_for_best_model or ""
        if self.greater_is_better is None and metric.endswith(("loss", "cross_entropy")):
            self.greater_is_better = False  # transformers knows of names that end in "loss"
        super().__post_init__()
        arguments.require_trackers(self.report_to)
        # torch.nn.DataParallel would cut a micro-batch again, behind the token count's back.
        _ = self.device
        self._n_gpu = min(1, self._n_gpu)

    def recipe(self) -> Recipe:
        """Return what the method asks of a trainer.

        Raises:
            InputError: There is no such method, or it has no such field, or not that value.
        """
        given = self.given_fields()
        if isinstance(self.method, methods.Method):
            self._require_bare(given)
            return self.method.recipe()
        if self.method == "seqkd":
            raise InputError(
                "method: seqkd is cross-entropy on text that the teacher wrote",
                remedy="write the teacher's text into the dataset's completions and use method "
                "sft; `kdstudy distill --method seqkd` does both",
            )
        if self.method == "offline_opd":
            raise InputError(
                "method: offline_opd is reverse KL on text that the student's start wrote",
                remedy="write the start's text into the dataset's completions and use method "
                "revkd; `kdstudy distill --method offline_opd` does both",
            )
        self._require_known(given)
        try:
            return methods.named({"type": self.method, **given}).recipe()
        except ValidationError as e:
            first = e.errors()[0]
            field = ".".join(map(str, first["loc"][1:])) or "method"
            raise InputError(f"DistillConfig: {field}: {first['msg']}") from e

    def method_fields(self) -> dict[str, object]:
        """Return the method's type as `method`, and its fields that were set."""
        if not isinstance(self.method, methods.Method):
            return {"method": self.method, **self.given_fields()}
        made = self.method.model_dump(exclude=self.method.OF_TRAINING)
        fields = {k: v for k, v in made.items() if v is not None or k != "normalisation"}
        return {"method": fields.pop("type"), **fields}

    def given_fields(self) -> dict[str, object]:
        """Return the fields of a method that were set."""
        return {k: getattr(self, k) for k in _OF_METHOD if getattr(self, k) is not None}

    def chats(self) -> PromptFormat:
        """Return how conversations become rows.

        Raises:
            InputError: A field has another value than those it may have.
        """
        if self.loss_turns not in ("all", "last"):
            raise InputError(
                f"DistillConfig: loss_turns is {self.loss_turns!r}", remedy="set it to all or last"
            )
        return PromptFormat(
            template="chat",
            arguments=self.template_arguments or {},
            loss_turns=self.loss_turns,
        )

    def weighing(self, method: Recipe) -> Weighing:
        """Return what is scored and how the sum is normalised."""
        # Cross-entropy needs a target, which the position after the end has not.
        tokens = self.loss_tokens
        if tokens == "positions" and not method.needs_teacher:
            tokens = "all"
        return Weighing(
            loss_tokens=tokens,
            normalisation=method.normalisation or self.normalisation,
            group=self.normalisation_group,
        )

    def to_dict(self) -> dict:
        """As in `TrainingArguments`, a method that is made already by its type and fields."""
        if not isinstance(self.method, methods.Method):
            return super().to_dict()
        named = copy.copy(self)
        named.method = self.method.type
        return named.to_dict() | self.method_fields()

    def _require_bare(self, given: dict[str, object]) -> None:
        if given:
            raise InputError(
                f"DistillConfig: {', '.join(given)} beside a method that is made already",
                remedy=f"write it into the method: {type(self.method).__name__}(...)",
            )

    def _require_known(self, given: dict[str, object]) -> None:
        whole = ("seqkd", "offline_opd")  # a study's, or the command line's
        if self.method not in methods.METHODS:
            raise InputError(
                f"DistillConfig: there is no method {self.method!r}",
                remedy=f"one of {', '.join(name for name in methods.METHODS if name not in whole)}",
            )
        known = [name for name in _OF_METHOD if name in methods.METHODS[self.method].model_fields]
        strangers = [name for name in given if name not in known]
        if strangers:
            raise InputError(
                f"DistillConfig: method {self.method} has no {', '.join(strangers)}",
                why=f"its fields are {', '.join(known)}" if known else "it has no fields",
                remedy="leave it out, or choose a method that has it",
            )


def own(args: DistillConfig | None) -> DistillConfig:
    """Return a copy: the run's length is written into it, and another run may have another.

    Raises:
        InputError: It is no DistillConfig.
    """
    if args is None:
        return DistillConfig()
    if not isinstance(args, DistillConfig):
        raise InputError(
            f"args: is a {type(args).__name__}",
            why="the method and its fields are in DistillConfig, which has all of "
            "TrainingArguments' fields",
            remedy="write DistillConfig in its place",
        )
    return copy.copy(args)
