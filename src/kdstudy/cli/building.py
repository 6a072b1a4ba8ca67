"""What every verb does that needs stages built: see what is missing, show it, build it."""

from typing import TYPE_CHECKING

from kdstudy.cli.options import note, quiet_libraries

if TYPE_CHECKING:
    from kdstudy.engine.execute import Executor
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan


def build(
    title: str,
    planned: "Plan",
    target: str,
    store: "Store",
    *,
    executor: "Executor | None" = None,
    verify: bool = False,
) -> int:
    """Build what `target` needs and return how many stages that was.

    Args:
        title: What the view is headed with.
        planned: The plan.
        target: Key of the stage that is wanted.
        store: Where.
        executor: What builds; None is this process.
        verify: Check every finished stage byte by byte first.
    """
    from kdstudy.engine.execute import inline, missing
    from kdstudy.engine.store import require_writable
    from kdstudy.engine.view import StudyView

    todo, damaged = missing(planned.stages, [target], store, verify=verify)
    for key, file in damaged.items():
        stage = planned.stages[key]
        note(f"damaged: {stage.kind} {stage.label}: {file} is not as published; building it again")
    building = {stage.key for stage in todo}
    if todo:
        require_writable(store.root)
        from kdstudy.models.resolve import require_reachable
        from kdstudy.plan.precision import left_to_a_gpu

        require_reachable(m for stage in todo for m in stage.local.get("models", {}).values())
        quiet_libraries()
        if said := left_to_a_gpu(planned.asked_precision, planned.study.train.precision):
            note(f"note: {said}")
        # Not all the others: what the target does not need was perhaps never built.
        kept = sum(store.get(key) is not None for key in planned.stages.keys() - building)
        with StudyView(title, len(todo), kept) as view:
            (executor or inline)(todo, store, view)
    return len(todo)
