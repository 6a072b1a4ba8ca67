"""JSON in which what cannot be computed is null."""

import json
import math
from typing import Any


def as_text(document: Any) -> str:
    """Return a document as JSON text; NaN, which JSON does not know, is null."""
    return json.dumps(_without_nan(document), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
