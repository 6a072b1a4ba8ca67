"""Right for wrong reasons: right answers whose text states an equation that is false."""

import functools
import re
from fractions import Fraction

import numpy as np

from kdstudy.answers import numerals
from kdstudy.answers.arithmetic import Step, expression
from kdstudy.answers.steps import steps
from kdstudy.measures.base import Draws, Loss, weighted_mean
from kdstudy.measures.cell import Cell
from kdstudy.measures.units import Unit

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/^()]")


def _checked(cell: Cell) -> Draws:
    """Return, among right answers with an equation, the share that states a false one."""
    right = cell.outcomes == "correct"
    found = [
        [states_a_false_one(text) if good else None for text, good in zip(*item, strict=True)]
        for item in zip(cell.completions, right, strict=True)
    ]
    checked = np.array([sum(f is not None for f in item) for item in found], dtype=float)
    false = np.array([sum(f is True for f in item) for item in found], dtype=float)
    shares = np.divide(false, checked, out=np.zeros_like(false), where=checked > 0)
    return weighted_mean(shares, among=checked / len(cell.samples))


@functools.lru_cache(maxsize=2**16)
def states_a_false_one(text: str) -> bool | None:
    """Return whether an equation of a text is false; None where it states none.

    A result that is rounded, also to a whole number, is not false.
    """
    told = [found for step in steps(text) if (found := holds(step)) is not None]
    return not all(told) if told else None


def holds(step: Step) -> bool | None:
    """Return whether a step's result is that of its expression; None where that cannot be told."""
    whole = expression(tuple(_TOKEN.findall(step.expression)))
    stated = numerals.value(step.result)
    if whole is None or stated is None:
        return None
    exact = Fraction(whole.value)
    percent = exact * 100 == stated or numerals.rounds_to(exact * 100, step.result)
    if percent and exact != stated:
        return None  # perhaps in percent: a step does not keep the sign behind its result
    rounded = exact.denominator != 1 and abs(exact - stated) < 1 and stated.denominator == 1
    return stated == exact or rounded or numerals.rounds_to(exact, step.result)


LOSS = Loss(
    name="false_equations",
    title="False equations in right answers",
    unit=Unit.SHARE,
    worse="more",
    how="change",
    of=_checked,
    defined_on=lambda cell: not (cell.text or cell.options),
    note="False equations: of the right answers whose text states an equation, the share that "
    "states a false one.",
    cannot="whether the equations are the ones that the question asks for, nor anything of answers "
    "without equations.",
)
