"""The stage `variant`."""

import dataclasses

from kdstudy.artifacts import VariantItems
from kdstudy.errors import InputError
from kdstudy.evaluation.kinds import VariantConfig
from kdstudy.evaluation.stages import benchmark_facts, limited, loaded
from kdstudy.evaluation.variants import name_of, vary
from kdstudy.stage import Work


def variant(work: Work) -> str:
    """Change the items of a benchmark: `VariantItems`. Local is that of the stage `benchmark`.

    Raises:
        InputError: No item can be changed so for certain.
        StageError: The benchmark's file has changed since the study was planned.
    """
    config = VariantConfig.of(work.config)
    whole = loaded(work, config)
    chosen = tuple(limited(whole.examples, config.limit))
    changed = vary(config.variant, dataclasses.replace(whole, examples=chosen), config.seed)
    name = name_of(config.name, config.variant)
    why = "; ".join(f"{count}: {reason}" for reason, count in changed.left_out.items())
    if not changed.examples:
        raise InputError(
            f"{name}: none of {len(chosen)} items can be changed so",
            why=why,
            remedy=f"take {config.variant} out of the benchmark's variants",
        )
    found = dataclasses.replace(whole, name=name, examples=changed.examples)
    made = VariantItems(work.out)
    made.examples.write(found.examples)
    made.facts.write(
        benchmark_facts(found, len(chosen))
        | {"original": config.name, "variant": config.variant, "left_out": changed.left_out}
    )
    return f"{len(found.examples)} of {len(chosen)} items{f'; left out {why}' if why else ''}"
