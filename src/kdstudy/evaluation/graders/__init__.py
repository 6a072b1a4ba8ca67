"""The graders: a file each, and the registry that stages and verbs ask.

Every module here with a subclass of `Grader` that has a `type` holds one; a package of one's own
adds its class under the entry point group `kdstudy.graders` (docs/extending.md).
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark, Kind
from kdstudy.evaluation.graders.base import Grader, Reader, Reading
from kdstudy.evaluation.graders.label import Label
from kdstudy.evaluation.graders.letter import Letter
from kdstudy.evaluation.graders.number import Number
from kdstudy.evaluation.graders.text import Text
from kdstudy.plugins import plugins

__all__ = [
    "GRADERS",
    "ORIGINS",
    "Grader",
    "Reader",
    "Reading",
    "as_config",
    "chosen",
    "of_benchmark",
    "of_config",
    "usual",
]

_USUAL: tuple[type[Grader], ...] = (Number, Label, Letter, Text)
Scoring = str | Mapping[str, Any] | None
"""What a study says of a benchmark: a grader's name, a table of its fields, or nothing."""


def _found() -> tuple[dict[str, type[Grader]], dict[str, str]]:
    """Return all graders by type, and the package and version of those that are not shipped."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    ours = {cls for module in modules for cls in vars(module).values() if _is_grader(cls)}
    graders, origins = {_type(cls): cls for cls in sorted(ours, key=_type)}, {}
    for name, origin, cls in plugins("kdstudy.graders", "grader"):
        if not _is_grader(cls):
            raise InputError(
                f"the grader {name} of {origin} is no class derived from kdstudy's Grader "
                "with a type",
                remedy="see docs/extending.md",
            )
        if _type(cls) in graders:
            raise InputError(
                f"{origin} names a grader {_type(cls)}, and there is one already",
                remedy="give it a type of its own",
            )
        graders[_type(cls)], origins[_type(cls)] = cls, origin
    return graders, origins


def _is_grader(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Grader) and isinstance(_type(cls), str)


def _type(cls: type[Grader]) -> Any:
    return cls.model_fields["type"].default


GRADERS, ORIGINS = _found()


def usual(kind: Kind, labels: tuple[str, ...]) -> Grader:
    """Return what grades a benchmark whose study says nothing of it."""
    return next(cls for cls in _USUAL if cls.fits(kind, labels))()


def chosen(scoring: Scoring, name: str, kind: Kind, labels: tuple[str, ...]) -> Grader:
    """Return what grades a benchmark.

    Args:
        scoring: What the study says of it.
        name: The benchmark's.
        kind: What its answers are.
        labels: Its labels.

    Raises:
        InputError: There is no such grader, it has no such field, or it is for other benchmarks.
    """
    if scoring is None:
        return usual(kind, labels)
    fields = {"type": scoring} if isinstance(scoring, str) else dict(scoring)
    cls = GRADERS.get(str(fields.get("type")))
    if cls is None:
        near = difflib.get_close_matches(str(fields.get("type")).lower(), GRADERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"{name}: scoring: there is no grader {fields.get('type')!r}",
            remedy=f"{hint}the graders are {', '.join(GRADERS)}",
        )
    try:
        grader = cls.model_validate(fields)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"])) or cls.__name__
        raise InputError(f"{name}: scoring: {fields['type']}: {field}: {first['msg']}") from e
    if not cls.fits(kind, labels):
        raise InputError(
            f"{name}: scoring: {fields['type']} is for {cls.grades}, and its answers are "
            f"{_ANSWERS[kind]}{' with labels' if labels else ''}",
            why=_WHY[cls.needs],
            remedy="leave scoring out, or take a benchmark that it is for",
        )
    return grader


def of_benchmark(scoring: Scoring, benchmark: Benchmark) -> Grader:
    """Return what grades a benchmark that is loaded; a task of the harness says itself how.

    Raises:
        InputError: As `chosen` does, or the task is graded in another way.
    """
    if not benchmark.examples[0].request:
        return chosen(scoring, benchmark.name, benchmark.kind, benchmark.labels)
    own = "likelihood" if benchmark.graded is None else "harness"
    grader = chosen(scoring or own, benchmark.name, benchmark.kind, benchmark.labels)
    if grader.type != own:
        raise InputError(
            f"{benchmark.name}: scoring: {grader.type} does not grade this task",
            why="its options are scored by likelihood"
            if own == "likelihood"
            else "its own filters and metrics grade its texts",
            remedy=f"leave scoring out, or write {own}",
        )
    grader.require(benchmark)
    return grader


def as_config(grader: Grader) -> dict[str, Any]:
    """Return what a stage's key says of a grader; `of_config` is the way back."""
    package = ORIGINS.get(grader.type)
    return {"fields": grader.model_dump()} | ({"package": package} if package else {})


def of_config(config: Mapping[str, Any] | None, benchmark: Benchmark) -> Grader:
    """Return the grader of a benchmark that a stage is told of; None: the usual one."""
    return chosen(
        config and config["fields"], benchmark.name, benchmark.kind, tuple(benchmark.labels)
    )


_ANSWERS: dict[Kind, str] = {"number": "numbers", "choice": "choices", "text": "free texts"}
_WHY = {
    "options": "there are no options whose likelihoods could be compared",
    "text": "it would find no answer in a text, or a wrong one",
}
