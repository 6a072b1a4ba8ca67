"""A student that FSDP2 has cut into shards: whole again where one is needed, and its checkpoints.

The weights of each of the student's layers are gathered where the layer runs. Embedding, final
norm and head belong to `DistillModel` itself, whose forward pass uses them first and last: they
are whole from there to the end of the backward pass.
"""

import contextlib
import copy
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, gather_object
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map
from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from kdstudy.distill.batches import Batch
from kdstudy.distill.cache import CachedTeacher, row_key
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.errors import InputError, StageError
from kdstudy.methods.objective import Recipe
from kdstudy.models import load, parts


def plugin_of(args: TrainingArguments) -> FullyShardedDataParallelPlugin | None:
    """Return how this process is to shard, from its arguments or its launcher; None for not at all.

    Anything whose result would differ from one device's is refused before a model is loaded.

    Raises:
        InputError: Names the setting.
    """
    ours = "bf16" if args.bf16 else "no"
    if args.mixed_precision != ours:
        raise InputError(
            f"the launcher asks for mixed precision {args.mixed_precision}, the configuration "
            f"for {ours}",
            why="the numbers would not be those of the configuration",
            remedy="launch with --mixed_precision no, and set bf16 (in a study: train.precision)",
        )
    if args.parallelism_config is not None or _asked("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise InputError(
            "parallelism_config is set for this process",
            why="each process takes its own share of the rows here, and does whole layers",
            remedy="leave it out: DDP or FSDP2 over all processes",
        )
    given = args.fsdp_plugin_args
    if given is None and not _asked("ACCELERATE_USE_FSDP"):
        return None
    version = os.environ.get("FSDP_VERSION", "1") if given is None else given["fsdp_version"]
    if int(version) != 2:
        raise InputError(
            f"FSDP is configured with version {version}",
            why="it flattens parameters, and adapters and heads are used by themselves here",
            remedy="launch with --fsdp_version 2",
        )
    plugin = FullyShardedDataParallelPlugin(**(given or {}))
    _require_supported(plugin, args)
    # Autocast narrows what it narrows on one device; nothing else does, and sums stay in float32.
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = None  # the student says what its layers are
    return plugin


def require_shardable(method: Recipe, name: str) -> None:
    """Refuse a method that has not been shown to give one device's numbers with sharded weights.

    Raises:
        InputError: Says why, and what to write instead.
    """
    if method.whiten:
        raise InputError(
            f"{name}: whiten looks at a step's texts before the step",
            why="with a model that is sharded that has not been shown to give one device's numbers",
            remedy="leave whiten out, or train on one device or with DDP",
        )
    if method.extra is not None:
        raise InputError(
            f"{name}: trains a module of its own beside the student",
            why="under FSDP only the student's parameters are sharded and saved",
            remedy="train on one device or with DDP",
        )


def enable(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Make accelerate shard with this plugin; by itself it does so on GPUs and not on CPUs."""
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP


def prepare(model: nn.Module, accelerator: Accelerator) -> None:
    """Make a `DistillModel` ready to be sharded, which accelerate does when training starts.

    The body of a teacher that runs beside the student is sharded here; its head stays whole.

    Raises:
        StageError: Some processes have cached the teacher, and others found no room.
    """
    model.layout = Sharded(model)
    model.teacher = _sharded_teacher(model.teacher, accelerator)


class Whole:
    """A student that is whole on every device: one device, or DDP."""

    def __init__(self, student: parts.Model):
        self._student = student

    def whole(self, *, trained: bool = False) -> contextlib.AbstractContextManager[parts.Model]:
        """Give the student while open; `trained` says that only trained weights are looked at."""
        return contextlib.nullcontext(self._student)

    def restore(self, folder: Path) -> None:
        """Put back the weights that `load.save` wrote; raises as `load.restore` does."""
        load.restore(self._student, folder)


class Sharded(Whole):
    """A student that FSDP2 shards; every process must call every method.

    Args:
        model: The `DistillModel`, not sharded yet: its student's bones are copied, without weights.
    """

    def __init__(self, model: nn.Module):
        student = model.student
        super().__init__(student)
        self._model = model
        bare = {id(p): _bare(p) for p in student.parameters()}
        self._shell = copy.deepcopy(student, dict(bare))
        self._places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in self._shell.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._places[id(parameter)].append((module, name))
        self._bare = dict(self._shell.named_parameters())

    @contextlib.contextmanager
    def whole(self, *, trained: bool = False) -> Iterator[parts.Model]:
        """Give a copy of the student with all its weights, or all that are trained, while open.

        Each device then holds it beside its shards: the price of text that the student writes, for
        which devices take unlike numbers of steps and so cannot gather layer by layer.
        """
        filled = [name for name, p in self._sharded() if p.requires_grad or not trained]
        try:
            for name, parameter in self._sharded():
                if name in filled:
                    self._put(name, nn.Parameter(_gathered(parameter), requires_grad=False))
            yield self._shell
        finally:
            for name in filled:
                self._put(name, self._bare[name])

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """As on one device."""
        with self.whole(trained=isinstance(self._student, PeftModel)) as student:
            load.restore(student, folder)
            restored = dict(student.named_parameters())
            for name, parameter in self._sharded():
                if not restored[name].is_meta:
                    parameter.copy_(_as(parameter, restored[name]))

    def _sharded(self) -> list[tuple[str, nn.Parameter]]:
        """Return the student's parameters; a forward pass may have left some of them gathered."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return list(self._student.named_parameters())

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        for module, attribute in self._places[id(self._bare[name])]:
            setattr(module, attribute, parameter)


def save_states(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, folder: Path) -> None:
    """Write both states as one device would, so that any launch can go on from them.

    Args:
        optimizer: Of sharded parameters.
        scheduler: Of the learning rate.
        folder: The checkpoint's; the first process writes, and all take part.
    """
    state = tree_map(_on_cpu, optimizer.state_dict())
    if torch.distributed.get_rank() == 0:
        torch.save(state, folder / OPTIMIZER_NAME)
        torch.save(scheduler.state_dict(), folder / SCHEDULER_NAME)


def load_states(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, folder: Path) -> None:
    """Put back what `save_states`, or Trainer on one device, wrote."""
    state = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, moments in state["state"].items():
        like = parameters[number]
        for name, value in moments.items():
            if value.shape == like.shape:
                moments[name] = _as(like, value)
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))


def sum_of_norms(grads: Sequence[Tensor]) -> Tensor:
    """Return the sum of the gradients' norms; of every shard's, where they are sharded."""
    local = [g.to_local() if isinstance(g, DTensor) else g for g in grads]
    total = torch.stack(torch._foreach_norm(local)).sum()
    if any(isinstance(g, DTensor) for g in grads):
        torch.distributed.all_reduce(total)
    return total


def _sharded_teacher(given: Any, accelerator: Accelerator) -> Any:
    """Return the teacher with a sharded body; one whose body is not here is left as it is."""
    live = given if isinstance(given, LiveTeacher) else getattr(given, "live", None)
    kinds = set(gather_object([f"{type(given).__name__}, {type(live).__name__}"]))
    if len(kinds) > 1:
        raise StageError(
            "the teacher's states fit in the memory of some processes only",
            why="with FSDP all must do the same, as they gather the teacher's layers together",
            remedy="set train.teacher_cache to disk, or to off",
        )
    if not isinstance(live, LiveTeacher):
        return given
    _shard_body(live.model)
    return _Together(given, accelerator) if isinstance(given, CachedTeacher) else given


class _Together:
    """A cached teacher whom all processes ask alike: its cache, or the sharded body."""

    def __init__(self, cached: CachedTeacher, accelerator: Accelerator):
        self._cached, self._accelerator = cached, accelerator
        self.width, self.head = cached.width, cached.head

    def hidden(self, batch: Batch) -> Tensor:
        """Return the teacher's final hidden states at the batch's scored positions, [N, H]."""
        cached = self._cached
        unknown = sum(row_key(r, cached.loss_tokens) not in cached.states for r in batch.texts)
        if self._accelerator.reduce(torch.tensor(unknown, device=batch.ids_T.device)):
            return self._cached.live.hidden(batch)
        return self._cached.hidden(batch)


def _shard_body(model: parts.Model) -> None:
    plain = parts.plain(model)
    body, layers = plain.get_decoder(), set(plain._no_split_modules or ())
    # An embedding that is the head as well is read by the loss, outside of the body.
    tied = {p for p in body.parameters() if p is parts.head(model).weight}
    for module in body.modules():
        if type(module).__name__ in layers:
            fully_shard(module, reshard_after_forward=True)
    fully_shard(body, reshard_after_forward=True, ignored_params=tied)


def _require_supported(plugin: FullyShardedDataParallelPlugin, args: TrainingArguments) -> None:
    refused = {
        "cpu_ram_efficient_loading": (
            plugin.cpu_ram_efficient_loading,
            "processes other than the first would load models without weights, and every model "
            "is checked when it is loaded",
            "launch with --fsdp_cpu_ram_efficient_loading false",
        ),
        "activation_checkpointing": (
            plugin.activation_checkpointing,
            "it draws dropout anew when it recomputes a layer, which makes gradients wrong",
            "leave it out and set gradient_checkpointing in DistillConfig",
        ),
        "cpu_offload (--fsdp_offload_params)": (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "the student's weights are gathered on the device for checkpoints and sampled text",
            "leave it out; more devices, or LoRA, take less memory",
        ),
        "torch_compile, or a dynamo backend,": (
            args.torch_compile or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO") != "NO",
            "a compiled module does not gather the head's weights for the loss",
            "leave it out; the loss compiles itself on a GPU",
        ),
        "use_cpu on a machine with a GPU": (
            args.use_cpu and torch.cuda.is_available(),
            "weights would be sharded over the GPUs",
            "leave it out, or set CUDA_VISIBLE_DEVICES to nothing",
        ),
        "one process": (
            args.world_size == 1,
            "there is nobody to share weights with",
            "launch with --num_processes 2 or more, or without FSDP",
        ),
    }
    for what, (wrong, why, remedy) in refused.items():
        if wrong:
            raise InputError(f"FSDP is configured with {what}", why=why, remedy=remedy)


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def _bare(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(
        torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
    )


def _gathered(value: Tensor) -> Tensor:
    return value.detach().full_tensor() if isinstance(value, DTensor) else value.detach()


def _on_cpu(value: Any) -> Any:
    return _gathered(value).cpu() if isinstance(value, Tensor) else value


def _as(like: Tensor, value: Tensor) -> Tensor:
    """Return a whole tensor, or this device's shard of it, as `like` is laid out."""
    value = value.to(like.device, like.dtype)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
