"""Variants of a benchmark: the same items asked in ways that must not matter.

base.py        what changes an item, and why one is left out
equation.py    an item's equation over the numbers of its text
numbers.py     other numbers, and the answer that they give
names.py       other first names; names.txt has them
irrelevant.py  a true sentence that does not matter; facts.txt has them
stages.py      its stage

A variant's items keep their ids, so that each is paired with its original; an item that cannot be
changed for certain is left out and counted. Draws depend on the variant, the seed and the item's id
alone. `template` changes no item but the prompt around it. Never imports torch.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from random import Random
from typing import NamedTuple

from kdstudy.config.refs import Variant
from kdstudy.evaluation.benchmarks import Benchmark
from kdstudy.evaluation.variants import irrelevant, names, numbers
from kdstudy.evaluation.variants.base import Change, LeftOut
from kdstudy.records import Example

TEMPLATE = (
    "Here is a task. Write a reply that does what it asks.\n\n### Task:\n{instruction}\n\n"
    "### Reply:\n"
)
"""The prompt of the variant `template` where a study gives none: Alpaca's in other words."""

_CHANGES: Mapping[Variant, Change] = {
    "numbers": numbers.change,
    "names": names.change,
    "irrelevant": irrelevant.adding(number=False),
    "irrelevant_number": irrelevant.adding(number=True),
    "template": lambda item, worked, rng: item,
}
_LISTS: Mapping[str, str] = {
    "names": "names.txt",
    "irrelevant": "facts.txt",
    "irrelevant_number": "facts.txt",
}


class Varied(NamedTuple):
    """What became of the items of a benchmark.

    Attributes:
        examples: Those that were changed, under their ids, in order.
        left_out: How many were not, by why; the commonest reason first.
    """

    examples: tuple[Example, ...]
    left_out: Mapping[str, int]


def vary(variant: Variant, whole: Benchmark, seed: int = 0) -> Varied:
    """Return the items of a benchmark in a variant."""
    found, left_out = [], Counter[str]()
    for item in whole.examples:
        rng = Random(f"{variant}/{seed}/{item.id}")
        try:
            found.append(_CHANGES[variant](item, whole.worked.get(item.id, ""), rng))
        except LeftOut as e:
            left_out[str(e)] += 1
    return Varied(tuple(found), dict(left_out.most_common()))


def name_of(benchmark: str, variant: Variant) -> str:
    """Return what the variant of a benchmark is called: `svamp:numbers`; no benchmark is."""
    return f"{benchmark}:{variant}"


@functools.cache
def fingerprint(variant: Variant) -> str:
    """Return a hash of the list that a variant draws from, "" where it has none."""
    if variant not in _LISTS:
        return ""
    data = resources.files(__package__).joinpath(_LISTS[variant]).read_bytes()
    return hashlib.sha256(data).hexdigest()
