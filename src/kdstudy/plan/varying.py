"""The stages of a benchmark's variants: its items changed in ways that must not matter."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdstudy.config.refs import BenchmarkRef
from kdstudy.errors import InputError
from kdstudy.evaluation import variants
from kdstudy.evaluation.kinds import BenchmarkConfig, VariantConfig
from kdstudy.plan.stages import Stages


class Variation(NamedTuple):
    """A variant of a benchmark.

    Attributes:
        original: The benchmark's name.
        items: Key of the stage that changes its items.
        template: What it is asked in; None: the study's template.
    """

    original: str
    items: str
    template: str | None


def variations(
    stages: Stages,
    ref: BenchmarkRef,
    config: BenchmarkConfig,
    local: Mapping[str, Any],
    kind: str,
    needs: str,
) -> dict[str, Variation]:
    """Add the stages that change a benchmark's items, and return its variants by name.

    Args:
        stages: The study's.
        ref: The benchmark as the study names it.
        config: Of its stage; `local` is that stage's as well.
        local: Where its items are.
        kind: What its answers are.
        needs: What its grader reads: `text` or `options`.

    Raises:
        InputError: Its answers are not of a kind that can be varied so.
    """
    found = {}
    for variant in ref.variants:
        _require(config.name, variant, kind, needs)
        own = {name: getattr(config, name) for name in BenchmarkConfig.__dataclass_fields__}
        told = VariantConfig(**own, variant=variant, lists=variants.fingerprint(variant))
        name = variants.name_of(config.name, variant)
        template = None
        if variant == "template":
            template = ref.variant_template or variants.TEMPLATE
        found[name] = Variation(
            config.name, stages.add("variant", name, told, local=local), template
        )
    return found


def _require(name: str, variant: str, kind: str, needs: str) -> None:
    if needs != "text" or kind == "text":
        raise InputError(
            f"{name}: variants are of written answers that are right or wrong",
            why="its options are scored by likelihood"
            if needs != "text"
            else "its texts are rated",
            remedy="take variants out of it",
        )
    if kind != "number" and variant != "template":
        raise InputError(
            f"{name}: the variant {variant} is of word problems whose answers are numbers",
            why="in the options of a choice, names and numbers may be what is asked for",
            remedy="take it out; template works for choices too",
        )
