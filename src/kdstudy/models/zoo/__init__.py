"""Four tiny language models, trained from scratch on synthetic word problems.

They ship inside the package, so demos and tests work offline. Each is a folder that
`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read; all four share
one tokenizer. `kdstudy.models.zoo.make` builds them from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the models that are in place, the smallest first."""
    cards = {folder.parent.name: folder for folder in _HERE.glob("*/card.json")}
    return sorted(cards, key=lambda name: (card(name)["parameters"], name))


def path(name: str) -> Path:
    """Return the folder of a model.

    Args:
        name: One of `names()`.

    Raises:
        KeyError: If there is no such model.
    """
    folder = _HERE / name
    if not (folder / "card.json").is_file() or folder.parent != _HERE:
        raise KeyError(f"no zoo model {name!r}; there are: {', '.join(names())}")
    return folder


def card(name: str) -> dict[str, Any]:
    """Return the card of a model: data, training, size and measured quality.

    Raises:
        KeyError: If there is no such model.
    """
    return json.loads((path(name) / "card.json").read_text(encoding="utf-8"))
