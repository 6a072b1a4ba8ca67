"""What installed packages add to a registry, under its entry point group."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from kdstudy.errors import InputError


class Plugin(NamedTuple):
    """An object that a package adds; `origin` is the package's name and version."""

    name: str
    origin: str
    found: Any


def plugins(group: str, noun: str) -> Iterator[Plugin]:
    """Yield what packages add, imported, in the order of the objects' import paths.

    Args:
        group: The entry point group.
        noun: What a message calls one of them.

    Raises:
        InputError: One cannot be imported.
    """
    for point in sorted(entry_points(group=group), key=lambda p: p.value):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            found = point.load()
        except Exception as e:  # anything can happen in somebody's package
            raise InputError(
                f"the {noun} {point.name} of {origin} cannot be imported",
                why=f"{type(e).__name__}: {e}",
                remedy="mend that package, or uninstall it",
            ) from e
        yield Plugin(point.name, origin, found)
