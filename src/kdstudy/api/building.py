"""What everything does that needs stages built: see what is missing, show it, build it."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdstudy.engine.build import View
    from kdstudy.engine.execute import Executor
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan

Show = Callable[[int, int], AbstractContextManager["View"]]
"""Opens what a person sees, given how many stages are to be built and how many are kept."""


def unseen(todo: int, kept: int) -> AbstractContextManager["View"]:
    """Show nothing: the store's logs have it all."""
    from kdstudy.engine.build import Unseen

    return contextlib.nullcontext(Unseen())


def build(
    planned: "Plan",
    target: str,
    store: "Store",
    *,
    executor: "Executor | None" = None,
    verify: bool = False,
    show: Show = unseen,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Build what `target` needs and return how many stages that was.

    Args:
        planned: The plan.
        target: Key of the stage that is wanted.
        store: Where.
        executor: What builds; None is this process.
        verify: Check every finished stage byte by byte first.
        show: What is seen of it.
        tell: Told of each damaged file, and of a precision that a GPU would have.

    Raises:
        InputError: The store cannot be written, or a model cannot be reached.
        StageError: A stage failed; everything finished before is kept.
    """
    from kdstudy.engine.execute import inline, missing
    from kdstudy.engine.store import require_writable

    todo, damaged = missing(planned.stages, [target], store, verify=verify)
    for key, file in damaged.items():
        stage = planned.stages[key]
        tell(f"damaged: {stage.kind} {stage.label}: {file} is not as published; building it again")
    building = {stage.key for stage in todo}
    if todo:
        require_writable(store.root)
        from kdstudy.models.hub import require_reachable
        from kdstudy.plan.precision import left_to_a_gpu

        require_reachable(m for stage in todo for m in stage.local.get("models", {}).values())
        quiet_libraries()
        if said := left_to_a_gpu(planned.asked_precision, planned.study.train.precision):
            tell(f"note: {said}")
        # Not all the others: what the target does not need was perhaps never built.
        kept = sum(store.get(key) is not None for key in planned.stages.keys() - building)
        with show(len(todo), kept) as view:
            (executor or inline)(todo, store, view)
    return len(todo)


def quiet_libraries() -> None:
    """One voice: the view speaks, the libraries' own bars and advice do not."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
