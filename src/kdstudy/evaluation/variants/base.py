"""What a variant is made of: an item, what is shown of its answer, a seeded draw."""

from collections.abc import Callable
from random import Random

from kdstudy.records import Example


class LeftOut(Exception):
    """Why an item has no variant of a kind, in words that are counted."""


Change = Callable[[Example, str, Random], Example]
"""Takes an item, what its file shows of how it is answered ("" for nothing) and a draw, and returns
the item changed, under its own id; raises `LeftOut` where that cannot be done for certain."""
