"""The unit of every number in results.csv, and how people read it."""

import enum
import math


class Unit(enum.Enum):
    """What a number is counted in; stored rates are fractions."""

    SHARE = "share"
    """A fraction, printed in percent."""
    POINTS = "points"
    """A difference of fractions, printed as signed percentage points."""
    HUNDRED = "0 to 100"
    """A fraction, printed from 0 to 100 without a sign."""
    SCORE = "score"
    """Stored from 0 to 100, as BLEU is."""
    COUNT = "count"
    """A mean count, to one decimal."""
    NATS = "nats"
    """Nats, per token or per item, to three decimals."""
    NUMBER = "number"
    """Without a unit, to two decimals."""


_SCALES = {Unit.SCORE: (1, 1), Unit.COUNT: (1, 1), Unit.NATS: (1, 3), Unit.NUMBER: (1, 2)}


def size(unit: Unit, value: float) -> str:
    """Return a standard deviation, say, in a unit: no sign and no percent; a dash for NaN."""
    if math.isnan(value):
        return "–"
    scale, digits = _SCALES.get(unit, (100, 1))
    return f"{scale * value:.{digits}f}"


def text(unit: Unit, value: float | None) -> str:
    """Return a value as people read it, with percent or sign where the unit has them."""
    if value is None or math.isnan(value):
        return "–"
    if unit is Unit.POINTS:
        return f"{100 * value:+.1f}".replace("-", "−")
    return size(unit, value).replace("-", "−") + ("%" if unit is Unit.SHARE else "")
