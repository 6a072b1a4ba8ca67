"""A student on the Hub: its card, and uploads that hold no pickle of the training arguments."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, constants
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils.hub import PushInProgress

from kdstudy.errors import InputError
from kdstudy.models.resolve import public

_IGNORED = ["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a student comes from.

    Attributes:
        base: The Hub id or the folder of the model it started from; empty if unknown.
        teachers: What may be told of the teachers; empty if unknown or if there is none.
        method: The method's name and its fields that were set.
        adapter: It is an adapter, and not a whole model.
    """

    base: str
    teachers: tuple[str, ...]
    method: Mapping[str, Any]
    adapter: bool

    @property
    def public_base(self) -> str:
        """The base's Hub id, or its folder's name."""
        return public(self.base)


def card(
    origin: Origin,
    name: str,
    repo: str,
    trained: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    **facts: Any,
) -> str:
    """Return a model card.

    Args:
        origin: Where the student comes from.
        name: Its title.
        repo: Its Hub id.
        trained: What to say of the training, by name.
        measured: Rows of a study's results: `benchmark`, `metric`, `value`, `low`, `high`, `n`,
            `signature`.
        notes: Paragraphs on how it was measured.
        facts: Fields of the card's header, as `huggingface_hub.ModelCardData` takes them.
    """
    tags = facts.pop("tags", None) or []
    tags = [tags] if isinstance(tags, str) else tags
    known = origin.public_base == origin.base
    facts.setdefault("base_model", (origin.base or None) if known else None)
    if measured:
        facts |= {"model_name": name, "eval_results": [_result(row) for row in measured]}
    header = ModelCardData(
        library_name="peft" if origin.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*tags, "kdstudy", "distillation", origin.method["method"]],
        **facts,
    )
    fields = ", ".join(f"{k} {v}" for k, v in origin.method.items() if k != "method")
    by = f"`{origin.method['method']}`" + (f" ({fields})" if fields else "")
    named = " and ".join(f"`{teacher}`" for teacher in origin.teachers)
    source = f" from the teacher{'s' * (len(origin.teachers) > 1)} {named}" if named else ""
    base = f"`{origin.public_base}`" if origin.base else "a model without a name"
    what = "An adapter for" if origin.adapter else "Made from"
    rows = "\n".join(f"| {key} | {value} |" for key, value in trained.items())
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {name}",
        f"{what} {base}, trained with kdstudy by the method {by}{source}.",
        f"```python\n{_usage(origin, repo, known)}\n```",
        f"| training | |\n|---|---|\n{rows}",
        *([_table(measured)] if measured else []),
        *notes,
    ]
    return "\n\n".join(parts) + "\n"


def _usage(origin: Origin, repo: str, known: bool) -> str:
    """Return the lines that load the model; the base of an adapter by hand if it has no Hub id."""
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{repo}")'
    if origin.adapter and not known:
        return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("path/to/{origin.public_base}")
model = PeftModel.from_pretrained(base, "{repo}")
{tokenizer}"""
    loader = "AutoPeftModelForCausalLM" if origin.adapter else "AutoModelForCausalLM"
    return f"""from {"peft" if origin.adapter else "transformers"} import {loader}
from transformers import AutoTokenizer

model = {loader}.from_pretrained("{repo}")
{tokenizer}"""


def _table(measured: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| benchmark | measure | value | 95% interval | items | protocol |"]
    lines.append("|---|---|---|---|---|---|")
    for row in measured:
        value, low, high = (100 * row[k] for k in ("value", "low", "high"))
        lines.append(
            f"| {row['benchmark']} | {row['metric']} | {value:.1f} | [{low:.1f}, {high:.1f}] | "
            f"{int(row['n'])} | `{row['signature'].replace('|', '; ')}` |"
        )
    return "\n".join(lines)


def _result(row: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=row["benchmark"],
        dataset_name=row["benchmark"],
        metric_type=row["metric"],
        metric_value=round(100 * row["value"], 2),
        metric_name=f"{row['metric']} (%), n = {int(row['n'])}, {row['signature']}",
    )


def require_reachable(args: TrainingArguments) -> None:
    """Create the repository that a run will be pushed to, before anything is loaded or trained.

    Trainer creates it too, but later; where it is there, nothing changes.

    Raises:
        InputError: The Hub is not reached, or lets nobody in.
    """
    if not args.push_to_hub or args.process_index != 0:
        return
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"push_to_hub: {name} cannot be pushed to",
            why="HF_HUB_OFFLINE is set",
            remedy="unset HF_HUB_OFFLINE; or leave push_to_hub out and call trainer.push_to_hub() "
            "when there is a network",
        )
    try:
        HfApi().create_repo(
            name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True
        )
    except Exception as e:  # of the network, of the Hub, of a token: all mean that it cannot be
        raise InputError(
            f"push_to_hub: {name} cannot be pushed to",
            why=(str(e).strip().splitlines() or [type(e).__name__])[0],
            remedy="log in with `hf auth login` or give hub_token, and look at the network and at "
            "hub_model_id; or leave push_to_hub out and call trainer.push_to_hub() later",
        ) from e


def write_card(trainer: Trainer, origin: Origin, facts: dict[str, Any]) -> None:
    """Write the card into the trainer's output folder.

    Args:
        trainer: A `DistillTrainer`.
        origin: Where its student comes from.
        facts: Arguments of `Trainer.create_model_card`.
    """
    folder = Path(trainer.args.output_dir)
    names = {"finetuned_from": "base_model", "dataset": "datasets"}
    facts = {names.get(k, k): v for k, v in facts.items() if v is not None}
    name = facts.pop("model_name", None) or folder.resolve().name
    trained = {
        "rows": len(trainer.rows),
        "optimizer steps": trainer.state.global_step,
        "scored tokens": trainer.tokens,
        "learning rate": trainer.args.learning_rate,
    }
    text = card(origin, name, trainer.hub_model_id or name, trained, **facts)
    (folder / "README.md").write_text(text, encoding="utf-8")


def push_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Upload the student as it is, and the checkpoint too if `hub_strategy` says so.

    `Trainer`'s own writes training_args.bin, a pickle with the user's token in it.

    Args:
        trainer: Has a student, and a repository.
        folder: The checkpoint.
    """
    args, running = trainer.args, trainer.push_in_progress
    if args.hub_strategy == HubStrategy.END:
        return
    if running is not None and not running.is_done() and not args.hub_always_push:
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    trainer.save_model(_internal_call=True)
    trainer.create_model_card()
    message = f"Training in progress, step {trainer.state.global_step}"
    common = {
        "repo_id": trainer.hub_model_id,
        "token": args.hub_token,
        "revision": args.hub_revision,
        "run_as_future": True,
    }
    jobs = [
        HfApi().upload_folder(
            folder_path=args.output_dir, commit_message=message, ignore_patterns=_IGNORED, **common
        )
    ]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        jobs.append(
            HfApi().upload_folder(
                folder_path=folder,
                path_in_repo="last-checkpoint" if last else folder.name,
                commit_message=f"{message}, checkpoint",
                **common,
            )
        )
    done = [] if running is None or running.is_done() else running.jobs
    trainer.push_in_progress = PushInProgress([*done, *jobs])
