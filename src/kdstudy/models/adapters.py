"""PEFT adapters: made, put on a model, merged into it; what cannot be used so is refused."""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as progress

from kdstudy.config import schema
from kdstudy.errors import InputError, first_line
from kdstudy.models import checkpoint
from kdstudy.models.parts import Model, plain, trial_logits

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# How far a merged model's logits may be from the unmerged one's, relative to the largest. Below
# float32 a merge rounds every weight, and only a wrong merge can be told.
_EXACT, _ROUNDED = 1e-3, 0.5


def linear_layers(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Return the shape (out, in) of every linear layer but the output layer, by name.

    GPT-2's `Conv1D` is one; it keeps its weight the other way round.
    """
    output = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if module is not output and isinstance(module, nn.Linear | Conv1D):
            shape = tuple(module.weight.shape)
            found[name] = shape[::-1] if isinstance(module, Conv1D) else shape
    return found


def add_adapter(model: PreTrainedModel, lora: schema.Lora, seed: int) -> PeftModel:
    """Return the model with fresh, trainable LoRA layers; its own weights are frozen.

    Args:
        model: A plain causal LM.
        lora: Rank, scale, dropout and which layers.
        seed: Seed of the layers' initial weights.

    Raises:
        InputError: A target module is not a linear layer of this model.
    """
    require_targets(linear_layers(model), lora, model.config.model_type)
    chosen = {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in lora.target_modules}
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in chosen.values()),
        task_type=TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def require_targets(layers: Iterable[str], lora: schema.Lora, name: str) -> None:
    """Refuse LoRA layers that a model does not have.

    Args:
        layers: Names of its linear layers (`linear_layers`).
        lora: Names its target modules.
        name: What messages call the model.

    Raises:
        InputError: A target module is not among them.
    """
    names = {layer.rsplit(".", 1)[-1] for layer in layers}
    unknown = [target for target in lora.target_modules if target not in names]
    if unknown:
        raise InputError(
            f"train.lora.target_modules: {', '.join(unknown)} is no linear layer of {name}",
            why=f"its linear layers are {', '.join(sorted(names))}",
            remedy="name some of these",
        )


def put_adapter(model: PreTrainedModel, adapter: Path, *, trainable: bool = False) -> PeftModel:
    """Return the model with a saved PEFT adapter in eval mode, frozen or `trainable`.

    Every weight of the file is compared with the model's: PEFT itself only warns about weights
    that did not load, and the base model would then answer in the adapter's name. An adapter that
    was trained on a resized vocabulary brings its embedding, and the model is resized to it.

    Raises:
        InputError: The folder holds no adapter, one made for another model, or one of a kind that
            is not supported (`require_supported`).
    """
    weights = _read(adapter)
    try:
        with quiet():
            _fit_vocabulary(model, weights)
            loaded = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, KeyError) as e:
        raise InputError(
            f"{adapter}: does not fit this model ({first_line(e)})",
            why="it was made for another base model",
            remedy="load it on the base model it was trained on",
        ) from e
    require_supported(loaded, str(adapter))
    _require_loaded(loaded, weights, adapter)
    return loaded.eval()


def merge(model: Model) -> PreTrainedModel:
    """Return a plain model with the adapter added into its weights; a plain model as it is.

    Where an adapter changes one of two tied layers, the two are no longer tied afterwards.

    Raises:
        InputError: The merged model answers otherwise than the adapter did.
    """
    if not isinstance(model, PeftModel):
        return model
    kind = model.peft_config[active(model)].peft_type.value
    want_LV = trial_logits(model)
    _untie(model)
    try:
        with quiet():
            merged = model.merge_and_unload()
    except (NotImplementedError, AttributeError, ValueError) as e:
        raise InputError(
            f"an adapter of type {kind} cannot be merged ({first_line(e)})",
            remedy="keep it as an adapter",
        ) from e
    _say_whether_tied(merged)
    gap = float((trial_logits(merged).float() - want_LV.float()).abs().max())
    share = _EXACT if merged.dtype == torch.float32 else _ROUNDED
    if not gap <= share * (1 + float(want_LV.float().abs().max())):
        raise InputError(
            f"an adapter of type {kind} cannot be merged into this model: its logits would change "
            f"by up to {gap:.3g}",
            remedy="keep it as an adapter",
        )
    return merged


def active(model: PeftModel) -> str:
    """Return the name of the adapter that is in use.

    Raises:
        InputError: Several are, or none.
    """
    tuner = model.base_model
    names = tuner.active_adapters if isinstance(tuner, BaseTuner) else [model.active_adapter]
    if len(names) != 1:
        raise InputError(
            f"the model has {len(names)} active adapters ({', '.join(names) or 'none'})",
            why="one adapter is trained, saved and loaded",
            remedy="call set_adapter with one name, or merge the others first",
        )
    return names[0]


def require_supported(model: PeftModel, name: str) -> None:
    """Refuse an adapter that works through PEFT's own forward pass or update.

    Body and head are called apart here, so that what PEFT's model does around the base model's
    forward pass, or expects of a training loop, would be left out without a word.

    Args:
        model: Has the adapter.
        name: What to call it in the message.

    Raises:
        InputError: Names the kind of adapter, or says that several are active.
    """
    config, tuner = model.peft_config[active(model)], model.base_model
    kind, why = config.peft_type.value, ""
    if config.is_prompt_learning:
        why = "it changes the prompt, and prompts must be the same for student and teacher"
    elif getattr(config, "alora_invocation_tokens", None):
        kind, why = "aLoRA", "it looks for its invocation tokens in PEFT's own forward pass"
    elif getattr(config, "monteclora_config", None):
        kind, why = "MonteCLoRA", "its own term of the loss would be left out"
    elif hasattr(tuner, "update_and_allocate"):
        why = "its ranks are allocated by calls that a training loop must make"
    elif not isinstance(tuner, BaseTuner) or type(tuner).forward is not BaseTuner.forward:
        why = "it works through PEFT's own forward pass"
    if why:
        raise InputError(
            f"{name} is of type {kind}",
            why=f"{why}; here body and head of the model are called apart",
            remedy="use an adapter that changes layers, such as peft.LoraConfig",
        )


def adapter_weights(model: PeftModel, *, embeddings: bool = False) -> dict[str, Tensor]:
    """Return what the active adapter's file holds, by name.

    Args:
        model: Has the adapter.
        embeddings: With the embedding and the output layer, whole.
    """
    with quiet():
        return get_peft_model_state_dict(
            model, adapter_name=active(model), save_embedding_layers=embeddings
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, and warnings whose causes are checked here and raised as errors."""
    bars = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            progress.enable_progress_bar()


def embedding_names(model: Model) -> list[str]:
    """Return what an adapter's file calls the embedding and the output layer."""
    base = plain(model)
    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    return [_PREFIX + name for name, module in base.named_modules() if module in layers]


def _read(adapter: Path) -> dict[str, Tensor]:
    if not (adapter / CONFIG).is_file():
        raise InputError(
            f"{adapter}: has no {CONFIG}",
            remedy="give the folder that PEFT's save_pretrained wrote",
        )
    if "peft_type" not in checkpoint.read_json(adapter / CONFIG):
        raise InputError(
            f"{adapter}: {CONFIG} names no peft_type",
            why="PEFT did not write it, or it was edited",
            remedy="save the adapter again with PEFT's save_pretrained",
        )
    if not (adapter / WEIGHTS).is_file():
        raise InputError(
            f"{adapter}: has no {WEIGHTS}",
            why="other weight files are pickles, which can run code",
            remedy="save the adapter again with PEFT's save_pretrained",
        )
    try:
        return load_file(adapter / WEIGHTS)
    except (OSError, SafetensorError) as e:
        raise InputError(
            f"{adapter / WEIGHTS}: cannot be read ({first_line(e)})",
            remedy="save or download the adapter again: the file may be cut short",
        ) from e


def _fit_vocabulary(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Resize the model's vocabulary to that of the embedding in an adapter's file."""
    shape = model.get_input_embeddings().weight.shape
    places = tuple(f"{name}." for name in embedding_names(model))
    rows = {
        len(value)
        for name, value in weights.items()
        if name.startswith(places)
        and name.endswith(".weight")
        and ".lora_" not in name
        and value.shape[1:] == shape[1:]
    }
    if len(rows) == 1 and rows != {shape[0]}:
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)


def _require_loaded(model: PeftModel, expected: Mapping[str, Tensor], adapter: Path) -> None:
    found = adapter_weights(model)
    own = re.compile(rf"\.{re.escape(active(model))}(?=\.|$)")
    whole = {own.sub("", name): value for name, value in model.state_dict().items()}
    # PEFT's file may hold embedding and output layer beside the adapter.
    found = {name: whole[name] for name in expected if name in whole} | found
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            problem = "is not in the file" if name in found else "is not a weight of the model"
        elif expected[name].shape != found[name].shape:
            problem = f"is {tuple(expected[name].shape)}, not {tuple(found[name].shape)}"
        # A model on the meta device has names and shapes.
        elif not (found[name].is_meta or torch.equal(expected[name].to(found[name]), found[name])):
            problem = "differs between file and model"
        else:
            continue
        raise InputError(
            f"{adapter}: did not load, {name} {problem}",
            why="the base model would be used in the adapter's name",
            remedy="load it on the base model it was trained on",
        )


def _untie(model: PeftModel) -> None:
    """Give every adapted layer a weight of its own, where it shares one with another layer."""
    owners: dict[int, int] = {}
    for module in plain(model).modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in adapted_layers(model):
        base = layer.get_base_layer()
        weight = base._parameters.get("weight")
        if weight is not None and owners.get(id(weight), 0) > 1:
            owners[id(weight)] -= 1
            base.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)


def adapted_layers(model: PeftModel) -> Iterable[BaseTunerLayer]:
    """Yield the layers that a merge writes to."""
    # Trained rows of a tied embedding are the same rows of the output layer, and stay so.
    for module in plain(model).modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer):
            yield module


def _say_whether_tied(model: PreTrainedModel) -> None:
    """Have the configuration say whether embedding and output layer are one, so that files do."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is not None and first.weight is not last.weight:
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = {
            one: other
            for one, other in model.all_tied_weights_keys.items()
            if model.get_parameter(one) is model.get_parameter(other)
        }
