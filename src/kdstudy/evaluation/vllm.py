"""vLLM behind `generate`: the same prompts as ids, the same seeds, budgets and ends.

Its kernels round otherwise than transformers' and it draws in another way, so its texts are its
own; a study says which engine made them (`generation.engine`). Nothing falls back on another one.
"""

import dataclasses
import gc
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdstudy.artifacts import Trained
from kdstudy.config import schema
from kdstudy.errors import InputError, StageError
from kdstudy.models import load, parts
from kdstudy.models.fetch import fetch
from kdstudy.models.sample import Sampled

TOGETHER = 1024
"""Prompts handed over at once. vLLM batches them itself; an interruption loses these at most."""


@dataclasses.dataclass(kw_only=True)
class Vllm:
    """A model that vLLM runs; started with the first prompts, whose lengths set its limit.

    Attributes:
        folder: Model folder, weights and tokenizer.
        adapter: Folder of a PEFT adapter on it, or None.
        ends: Tokens that end a completion.
        dtype: `float32` or `bfloat16`.
        trust_remote_code: Run Python code that comes with the model.
    """

    folder: Path
    adapter: Path | None
    ends: tuple[int, ...]
    dtype: str
    trust_remote_code: bool = False
    _running: Any = dataclasses.field(default=None, init=False)

    def write(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], settings: schema.Generation
    ) -> list[Sampled]:
        """Return one completion per prompt, in order.

        Args:
            prompts: Token ids; no later call may bring longer ones.
            seeds: One per prompt; unused when greedy.
            settings: Budget, temperature, top_p.

        Raises:
            StageError: vLLM refuses the model, or ends a text neither at its end nor its limit.
        """
        package = importlib.import_module("vllm")
        if self._running is None:
            self._start(package, max(map(len, prompts)) + settings.max_new_tokens)
        request = None
        if self.adapter is not None:
            lora = importlib.import_module("vllm.lora.request")
            request = lora.LoRARequest("adapter", 1, str(self.adapter))
        parameters = [
            package.SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                seed=seed if settings.temperature else None,
                stop_token_ids=list(self.ends),
                detokenize=False,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self._running.generate(asked, parameters, use_tqdm=False, lora_request=request)
        return [self._sampled(answer.outputs[0]) for answer in answers]

    def close(self) -> None:
        """Stop vLLM and give its GPU memory back."""
        self._running = None
        gc.collect()
        torch.cuda.empty_cache()

    def _start(self, package: Any, longest: int) -> None:
        lora = {}
        if self.adapter is not None:
            lora = {"enable_lora": True, "max_lora_rank": _rank(self.adapter)}
        try:
            self._running = package.LLM(
                model=str(self.folder),
                dtype=self.dtype,
                max_model_len=longest,
                trust_remote_code=self.trust_remote_code,
                # Nothing from the model's generation_config.json but what is passed here.
                generation_config="vllm",
                **lora,
            )
        except (ValueError, RuntimeError, NotImplementedError) as e:
            raise StageError(
                f"{self.folder}: vLLM cannot run this model ({(str(e).splitlines() or [''])[0]})",
                remedy="set generation.engine to transformers",
            ) from e

    def _sampled(self, output: Any) -> Sampled:
        """Return a completion up to its first end, which is kept, as `sample` keeps it."""
        ids = tuple(output.token_ids)
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        if end is not None:
            return Sampled(ids[: end + 1], "eos")
        if output.finish_reason != "length":
            raise StageError(f"vLLM ended a text for another reason: {output.finish_reason}")
        return Sampled(ids, "length")


def prepare(
    local: Mapping[str, Any], precision: str, trained: Trained | None, scratch: Path
) -> tuple[Vllm, int]:
    """Return the engine of a model as a study names it, and its parameters without adapter.

    The model is opened by `load.open_model` before, which compares every weight of an adapter with
    the model's: vLLM does not.

    Args:
        local: From `resolve.Resolved.local`.
        precision: `auto`, `float32` or `bfloat16`.
        trained: What a train stage left of it, or None.
        scratch: Where a model goes that has to be merged with its user's adapter first.

    Raises:
        InputError: There is no vLLM or no GPU; or as `load.open_model` does.
    """
    require_usable()
    tokenizer, folder = load.open_tokenizer(local), fetch(local)
    model = load.open_model(local, precision, trained)
    engine = Vllm(
        folder=folder,
        adapter=trained.adapter if trained else None,
        ends=load.eos_ids(model, tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        trust_remote_code=local["trust_remote_code"],
    )
    parameters = parts.count(model)
    if trained and trained.whole:
        engine.folder, engine.adapter = trained.model, None
    elif local["adapter"]:
        # vLLM puts one adapter on a model, and the user's is part of what the study starts from.
        load.save(load.open_model(local, precision), scratch, tokenizer)
        engine.folder = scratch
    return engine, parameters


def require_usable() -> None:
    """Refuse a machine on which vLLM cannot run.

    Raises:
        InputError: Its package cannot be imported, or there is no GPU.
    """
    why = "answers would not be generated, and nothing falls back on another engine"
    remedy = "set generation.engine to transformers"
    try:
        importlib.import_module("vllm")
    except ImportError as e:
        raise InputError(
            f"generation.engine: vllm: the package cannot be imported ({e})",
            why=why,
            remedy=f"pip install 'kdstudy[vllm]', or {remedy}",
        ) from e
    if not torch.cuda.device_count():
        raise InputError("generation.engine: vllm: there is no CUDA device", why=why, remedy=remedy)


def _rank(adapter: Path) -> int:
    """Return the adapter's rank, rounded up to a power of two: vLLM has kernels for few ranks."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return max(8, 1 << (rank - 1).bit_length())
