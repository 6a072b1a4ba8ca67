"""Stages built before a person's eyes."""

import functools
from typing import TYPE_CHECKING

from kdstudy.api import building
from kdstudy.cli.options import note

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan


def build(title: str, planned: "Plan", target: str, store: "Store") -> int:
    """Build what `target` needs as `building.build` does, under a view headed with `title`."""
    return building.build(planned, target, store, show=shown(title), tell=note)


def shown(title: str) -> building.Show:
    """Return what opens the view of a study's stages."""
    from kdstudy.engine.view import StudyView

    return functools.partial(StudyView, title)
